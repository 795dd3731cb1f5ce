"""Weights and devices of offloaded or quantised models.

Model offload and group offload move weights between devices. With sequential offload (accelerate's `cpu_offload`) the
module has only `meta` tensors, and its hook has the numbers. Quantisers store weights in their own tensor classes,
which consist of plain tensors, or in a packed object that unpacks a copy.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def unwrapped(model: Any) -> Any:
    """Return a model without the wrapper of `torch.compile`, which has other names for its class and weights."""
    return getattr(model, "_orig_mod", model)


def real_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by name as plain tensors, without a copy; offloaded weights come from the hooks.

    A quantiser's tensor gives one entry for each plain tensor in it, named `<weight>.<part>`. Packed weights are
    unpacked, which copies them.
    """
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        there = _held(model, name) if isinstance(value, Tensor) and value.is_meta else value
        weights |= _plain(name, there)
    return weights


def marks(model: nn.Module) -> tuple[object, ...]:
    """Return a value that differs after a weight was changed in place, replaced or repacked; reads no numbers."""
    packed = [id(holder._packed_params) for holder in model.modules() if hasattr(holder, "_packed_params")]
    weights = real_weights(model).values()
    return (*((w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype) for w in weights), *packed)


def device_of(model: Any) -> torch.device:
    """Return the device where a model computes: the one its hooks move it to, else the one it is on."""
    for hook in _hooks(model):
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _plain(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors in a value of a module's state, by name; other values, such as sizes, give none."""
    if isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _plain(f"{name}.{i}", part)
    elif hasattr(value, "__tensor_flatten__"):
        for part in value.__tensor_flatten__()[0]:
            yield from _plain(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, Tensor):
        yield name, value.dequantize() if value.is_quantized else value


def _held(model: nn.Module, name: str) -> Tensor:
    """Return a weight from its module's hook, or the `meta` tensor if no hook has it."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    for hook in _hooks_of(module):
        held = getattr(hook, "weights_map", None)
        if held is not None:
            return held[leaf]
    return module.state_dict()[leaf]


def _hooks(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        yield from _hooks_of(module)


def _hooks_of(module: nn.Module) -> tuple[Any, ...]:
    """Return accelerate's hooks of one module: a single hook, or the parts of a sequential one."""
    hook = getattr(module, "_hf_hook", None)
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))
