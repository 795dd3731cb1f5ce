"""What the families with cross attention to a fixed text share: queries and keys.

Queries are the outputs of `to_q`, split into heads: what the attention kernel receives, whichever processor runs
it. Keys are `to_k` of the text, so late words are exact.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import BlockSpec, Observation, Report, TextReader
from ovam.backbones.clip_text import StaticText
from ovam.backbones.common import check_lora_scale

_copies: WeakKeyDictionary[nn.Linear, ref[Tensor]] = WeakKeyDictionary()


def cross_attention(denoiser: nn.Module) -> dict[str, Any]:
    """Cross-attention modules by path, found by type and attribute: names alone mislead in other models."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if type(module).__name__ == "Attention" and module.is_cross_attention
    }


def block_spec(name: str, module: Any, *, default: bool = True) -> BlockSpec:
    """What one module tells before anything has run."""
    return BlockSpec(name, module.heads, module.to_q.out_features // module.heads, module.scale, default)


def check_key_scale(pipe: Any, arguments: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """`check_lora_scale` of a call of the denoiser and the layers that make its keys."""
    scale = (arguments.get("cross_attention_kwargs") or {}).get("scale")
    check_lora_scale(pipe, scale, "denoiser", [module.to_k for module in modules.values()])


def watch_queries(modules: Mapping[str, Any], names: Sequence[str], report: Report) -> list[RemovableHandle]:
    """Hooks on `to_q`; see `Backbone.watch`."""
    handles: list[RemovableHandle] = []
    try:
        for name in names:
            handles.append(modules[name].to_q.register_forward_hook(_reporter(name, modules[name].heads, report)))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


def _reporter(name: str, heads: int, report: Report) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        report(name, Observation(output.detach().unflatten(-1, (heads, -1)).transpose(1, 2)))

    return hook


def static_text(
    modules: Mapping[str, Any], names: Sequence[str], reader: TextReader, shared: Mapping[str, Any] | None = None
) -> StaticText:
    """Text side with copies of the key projections of these blocks, and of layers that all of them read through."""
    weights: dict[str, Tensor] = {}
    for name in names:
        weights[name], bias = affine(modules[name].to_k)
        weights |= {} if bias is None else {f"{name}.bias": bias}
    for name, layer in (shared or {}).items():
        matrix, bias = affine(layer)
        weights |= {f"{name}.weight": matrix} | ({} if bias is None else {f"{name}.bias": bias})
    return StaticText(weights, {name: modules[name].heads for name in names}, reader)


@torch.no_grad()
def affine(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Matrix (out, in) and bias (out,) of a linear layer, adapters included, as the layer itself applies it."""
    if type(layer) is nn.Linear:
        return _copy(layer), None if layer.bias is None else layer.bias.detach().clone()
    dtype, own_bias = next(layer.parameters()).dtype, getattr(layer, "bias", None)  # not every adapter has one
    unit = torch.eye(layer.in_features, device=layer.weight.device, dtype=dtype)
    bias: Tensor | None = None if own_bias is None else layer(torch.zeros_like(unit[:1]))[0]
    rows: Tensor = layer(unit) if bias is None else layer(unit) - bias
    return rows.T.contiguous(), bias


def _copy(layer: nn.Linear) -> Tensor:
    """A copy of the matrix, one for all traces of runs that had the same: SDXL's take 340 MB in float16."""
    weight = layer.weight.detach()
    made = _copies.get(layer)
    copy = made() if made else None
    if copy is None or (copy.dtype, copy.device) != (weight.dtype, weight.device) or not torch.equal(copy, weight):
        copy = weight.clone()
        _copies[layer] = ref(copy)
    return copy
