"""What the families with cross attention to a fixed text share: queries and keys.

Queries are the outputs of `to_q`, split into heads: what the attention kernel receives, whichever processor runs
it. Keys are `to_k` of the text, so late words are exact.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import BlockSpec, Observation, Report
from ovam.backbones.common import check_lora_scale, heads_apart
from ovam.backbones.offload import device_of, marks, real_weights
from ovam.backbones.rows import RowsGiven
from ovam.backbones.self_attention import Watcher, pair_watchers
from ovam.errors import UnsupportedPipelineError
from ovam.trace.static_text import StaticText
from ovam.trace.text_side import TextReader

_PART, _LINEAR = 0.7, 0.02
"""Of a vector, and how much of a layer's largest number rounding may make of it."""

_copies: WeakKeyDictionary[nn.Linear, ref[Tensor]] = WeakKeyDictionary()


def cross_attention(denoiser: nn.Module) -> dict[str, Any]:
    """Cross-attention modules by path, found by type and attribute: names alone mislead in other models."""
    return attention(denoiser, lambda name, module: is_cross(module))


def attention(denoiser: nn.Module, wanted: Callable[[str, Any], bool]) -> dict[str, Any]:
    """Attention modules by path, those that are wanted, in one walk through a denoiser's thousands of modules."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if type(module).__name__ == "Attention" and wanted(name, module)
    }


def is_cross(module: Any) -> bool:
    """Whether an attention module's keys are made of the text."""
    return bool(module.is_cross_attention)


def block_spec(name: str, module: Any, *, default: bool = True) -> BlockSpec:
    """What one module tells before anything has run."""
    return BlockSpec(name, module.heads, module.to_q.out_features // module.heads, module.scale, default)


def check_key_scale(pipe: Any, arguments: Mapping[str, Any], denoiser: nn.Module) -> None:
    """`check_lora_scale` of a call of the denoiser and the layers that make its keys."""
    scale = (arguments.get("cross_attention_kwargs") or {}).get("scale")
    if scale is not None:  # the modules are looked for then alone: every call comes by here
        check_lora_scale(pipe, scale, "denoiser", [module.to_k for module in cross_attention(denoiser).values()])


def watch_queries(modules: Mapping[str, Any], names: Sequence[str], report: Report) -> list[RemovableHandle]:
    """Hooks on `to_q`, and in self-attention on what makes the keys; see `Backbone.watch`."""
    handles: list[RemovableHandle] = []
    try:
        for name in names:
            watchers = _query_watcher if modules[name].is_cross_attention else pair_watchers
            watched = watchers(name, modules[name], report)
            for handle in RowsGiven(name, modules[name]).watch(watched[0][0]):  # the first layer makes the queries
                handles.append(handle)
            for layer, watcher in watched:
                handles.append(layer.register_forward_hook(watcher))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


def _query_watcher(name: str, module: Any, report: Report) -> list[tuple[nn.Module, Watcher]]:
    def on_query(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        report(name, Observation(heads_apart(output, module.heads)))

    return [(module.to_q, on_query)]


def static_text(
    denoiser: Any,
    modules: Mapping[str, Any],
    names: Sequence[str],
    reader: TextReader,
    shared: Mapping[str, Any] | None = None,
) -> StaticText:
    """Text side with copies of the key projections of these blocks, and of layers that all of them read through."""
    weights: dict[str, Tensor] = {}
    dtype = denoiser.dtype  # once: diffusers looks through all of the model's parts for it
    for name in names:
        weights[name], bias = key_projection(modules[name], dtype)
        weights |= {} if bias is None else {f"{name}.bias": bias}
    for name, layer in (shared or {}).items():
        matrix, bias = affine(layer, dtype)
        weights |= {f"{name}.weight": matrix} | ({} if bias is None else {f"{name}.bias": bias})
    sources = {name: KeySource(modules[name], dtype) for name in names}
    return StaticText(weights, {name: modules[name].heads for name in names}, reader, sources=sources)


def key_projection(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Matrix and bias of the layer that makes a block's keys; fused with the values', it is the first half of that."""
    layer, fused = _key_layer(module)
    matrix, bias = affine(layer, dtype, module.inner_kv_dim if fused else None)
    return matrix, bias


def _key_layer(module: Any) -> tuple[Any, bool]:
    """The layer that the block's processor asks for keys, and whether it makes values as well.

    The processor tells, not the module: after `unfuse_qkv_projections` the fused layer is still there.
    """
    fused = type(module.processor).__name__.startswith("Fused")
    return (module.to_kv if fused else module.to_k), fused


@torch.no_grad()
def affine(layer: Any, dtype: torch.dtype, rows: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Matrix (out, in) and bias (out,) of a linear layer as the layer itself applies it.

    A plain layer's are copied. Adapters and quantised layers are asked: what they make of unit vectors is their matrix.
    One that rounds its input as it comes rounds none of those; its keys of a text may then differ from these by that
    rounding.

    Args:
        layer: The layer.
        dtype: Type it is called with.
        rows: Only so many of its outputs, the first ones.

    Raises:
        UnsupportedPipelineError: it is not linear, as one that cuts its input at scales that were calibrated before.
    """
    if type(layer) is nn.Linear:
        weights = real_weights(layer)
        if type(weights.get("weight")) in (Tensor, nn.Parameter):  # quantisers have tensors of other kinds or parts
            weight, bias = (_widened(weights.get(part), dtype) for part in ("weight", "bias"))
            assert weight is not None
            return _copy(layer, weight[:rows]), None if bias is None else bias[:rows].clone()
    unit = torch.eye(layer.in_features, device=device_of(layer), dtype=dtype)
    offset = layer(torch.zeros_like(unit[:1]))[0, :rows]
    matrix = layer(unit)[:, :rows] - offset
    less = unit * _PART
    if (matrix * less[0, 0] - (layer(less)[:, :rows] - offset)).abs().max() > _LINEAR * matrix.abs().max():
        raise UnsupportedPipelineError(
            f"a {type(layer).__name__}, which makes keys, is not linear: what it makes of {_PART} of a vector is not "
            f"{_PART} of what it makes of the vector, as where activations are rounded by scales that were calibrated "
            "before; expected a layer with a matrix: quantise the weights alone, or activations as they come"
        )
    return matrix.T.contiguous(), offset.clone() if offset.any() else None


def _widened(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A weight in the type it is computed with, where it is a float of eight bits: layerwise casting stores it so."""
    stored_narrow = weight is not None and weight.is_floating_point() and weight.itemsize == 1
    return weight.to(dtype) if weight is not None and stored_narrow else weight


def _copy(layer: nn.Linear, weight: Tensor) -> Tensor:
    """A copy of the matrix, one for all traces of runs that had the same: SDXL's take 340 MB in float16."""
    made = _copies.get(layer)
    copy = made() if made else None
    if copy is None or (copy.dtype, copy.device) != (weight.dtype, weight.device) or not _alike(copy, weight):
        copy = weight.clone()
        _copies[layer] = ref(copy)
    return copy


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type hold the same bits; read in words of eight bytes, several numbers at a time."""
    at_once = 8 // one.itemsize
    if one.shape[-1] % at_once or any(t.storage_offset() % at_once or not t.is_contiguous() for t in (one, other)):
        return torch.equal(one, other)
    return torch.equal(one.view(torch.int64), other.view(torch.int64))


class KeySource:
    """Where a block's keys come from in the pipeline, which may change or be gone; it is not kept alive.

    Args:
        module: The block.
        dtype: Type its layers are called with.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype, self._seen = ref(module), dtype, _state(module)

    def still_gives(self, matrix: Tensor, bias: Tensor | None) -> bool:
        """Whether the pipeline, if it is there, makes keys by these still; weighed anew only after something moved."""
        module = self._module()
        if module is None or _state(module) == self._seen:
            return True
        now, offset = key_projection(module, self._dtype)
        same = _same(now, matrix) and (
            _same(offset, bias) if offset is not None and bias is not None else offset is bias
        )
        if same:
            self._seen = _state(module)  # moved to another device, or set back
        return same


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.to(other.device), other)


def _state(module: Any) -> object:
    """Differs after whatever may have changed a block's keys: weights, adapters, and the adapters' settings."""
    layer, _ = _key_layer(module)
    settings = [
        str(getattr(layer, name, None)) for name in ("scaling", "active_adapters", "merged", "disable_adapters")
    ]
    return id(layer), marks(layer), settings
