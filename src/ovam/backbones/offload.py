"""Weights and devices of models that are offloaded: between runs a module's own weights may not be there.

Model offload and group offload move weights, which stay real. Sequential offload (accelerate's `cpu_offload`) takes
them away: the module holds tensors of the `meta` device, and its hook the numbers.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def real_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model by name, where its hooks hold it if it does not itself; not copied."""
    return {name: _held(model, name) if weight.is_meta else weight for name, weight in model.state_dict().items()}


def device_of(model: Any) -> torch.device:
    """Where a model computes: the device its hooks move it to, else the one it is on."""
    for hook in _hooks(model):
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


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
