"""Weights and devices of models that are offloaded or quantised: a module's own weights may not be there, or not plain.

Model offload and group offload move weights, which stay real. Sequential offload (accelerate's `cpu_offload`) takes
them away: the module holds tensors of the `meta` device, and its hook the numbers. Quantisers keep weights as tensor
classes of their own, which consist of plain tensors, or packed in an object that unpacks a copy.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def unwrapped(model: Any) -> Any:
    """A model without the wrapper that `torch.compile` puts around it, whose class and weights have other names."""
    return getattr(model, "_orig_mod", model)


def real_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model by name as plain tensors, where its hooks hold it if it does not itself; not copied.

    What a quantiser's tensor consists of stands behind its name; what it keeps packed is unpacked, as a copy.
    """
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        there = _held(model, name) if isinstance(value, Tensor) and value.is_meta else value
        weights |= _plain(name, there)
    return weights


def marks(model: nn.Module) -> tuple[object, ...]:
    """Differs after a weight was changed in place or exchanged, or packed anew; told without reading any."""
    packed = [id(holder._packed_params) for holder in model.modules() if hasattr(holder, "_packed_params")]
    weights = real_weights(model).values()
    return (*((w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype) for w in weights), *packed)


def device_of(model: Any) -> torch.device:
    """Where a model computes: the device its hooks move it to, else the one it is on."""
    for hook in _hooks(model):
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _plain(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors in a value of a module's state, by name; types and sizes, which some keep there, have none."""
    if isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _plain(f"{name}.{i}", part)
    elif hasattr(value, "__tensor_flatten__"):
        for part in value.__tensor_flatten__()[0]:
            yield from _plain(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, Tensor):
        yield name, value.dequantize() if value.is_quantized else value


def _held(model: nn.Module, name: str) -> Tensor:
    """A weight out of the hook of the module it belongs to; the stand-in itself where no hook holds it."""
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
    """Accelerate's hooks of one module, which it holds alone or as one that goes through several."""
    hook = getattr(module, "_hf_hook", None)
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))
