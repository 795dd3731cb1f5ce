"""Queries and keys of families with cross attention to a fixed text.

Queries are the outputs of `to_q`, split into heads. The attention kernel receives exactly these, whichever processor
runs. Keys are `to_k` of the text, so words given after the run are exact.
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
"""Test of linearity: factor on the unit vectors, and maximum error relative to the matrix's largest entry."""

_copies: WeakKeyDictionary[nn.Linear, ref[Tensor]] = WeakKeyDictionary()


def cross_attention(denoiser: nn.Module) -> dict[str, Any]:
    """Return cross-attention modules by path, found by class and attribute; module names differ between models."""
    return attention(denoiser, lambda name, module: is_cross(module))


def attention(denoiser: nn.Module, wanted: Callable[[str, Any], bool]) -> dict[str, Any]:
    """Return the wanted attention modules by path, in one walk through the denoiser's thousands of modules."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if type(module).__name__ == "Attention" and wanted(name, module)
    }


def is_cross(module: Any) -> bool:
    """Whether an attention module makes its keys from the text."""
    return bool(module.is_cross_attention)


def block_spec(name: str, module: Any, *, default: bool = True) -> BlockSpec:
    """Return the description of one attention module."""
    return BlockSpec(name, module.heads, module.to_q.out_features // module.heads, module.scale, default)


def check_key_scale(pipe: Any, arguments: Mapping[str, Any], denoiser: nn.Module) -> None:
    """Run `check_lora_scale` for a call of the denoiser and the layers that make its keys."""
    scale = (arguments.get("cross_attention_kwargs") or {}).get("scale")
    if scale is not None:  # this runs in every call, so search the modules only if needed
        check_lora_scale(pipe, scale, "denoiser", [module.to_k for module in cross_attention(denoiser).values()])


def watch_queries(modules: Mapping[str, Any], names: Sequence[str], report: Report) -> list[RemovableHandle]:
    """Install hooks on `to_q`, and in self-attention also on the layer of the keys; see `Backbone.watch`."""
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
    """Return a text side with copies of these blocks' key projections and of the `shared` layers before them."""
    weights: dict[str, Tensor] = {}
    dtype = denoiser.dtype  # read once: diffusers searches all parameters for it
    for name in names:
        weights[name], bias = key_projection(modules[name], dtype)
        weights |= {} if bias is None else {f"{name}.bias": bias}
    for name, layer in (shared or {}).items():
        matrix, bias = affine(layer, dtype)
        weights |= {f"{name}.weight": matrix} | ({} if bias is None else {f"{name}.bias": bias})
    sources = {name: KeySource(modules[name], dtype) for name in names}
    return StaticText(weights, {name: modules[name].heads for name in names}, reader, sources=sources)


def key_projection(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return matrix and bias of a block's key projection; of a fused key-value layer, the first half."""
    layer, fused = _key_layer(module)
    matrix, bias = affine(layer, dtype, module.inner_kv_dim if fused else None)
    return matrix, bias


def _key_layer(module: Any) -> tuple[Any, bool]:
    """Return the layer that makes a block's keys, and whether it is fused with the values.

    The processor decides, not the module: after `unfuse_qkv_projections` the fused layer is still there.
    """
    fused = type(module.processor).__name__.startswith("Fused")
    return (module.to_kv if fused else module.to_k), fused


@torch.no_grad()
def affine(layer: Any, dtype: torch.dtype, rows: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Return matrix (out, in) and bias (out,) of a linear layer, as the layer applies them.

    From a plain layer both are copied. Layers with adapters or quantised weights are run on unit vectors, which gives
    the matrix. A layer that rounds its input dynamically leaves unit vectors as they are, so keys of a text may differ
    from the layer's by that rounding.

    Args:
        layer: The layer.
        dtype: Type of the layer's input.
        rows: Number of outputs to return, from the first; None for all.

    Raises:
        UnsupportedPipelineError: the layer is not linear, for example if it clips its input at calibrated scales.
    """
    if type(layer) is nn.Linear:
        weights = real_weights(layer)
        if type(weights.get("weight")) in (Tensor, nn.Parameter):  # quantised weights are of other classes
            weight, bias = (_widened(weights.get(part), dtype) for part in ("weight", "bias"))
            assert weight is not None
            return _copy(layer, weight[:rows]), None if bias is None else bias[:rows].clone()
    unit = torch.eye(layer.in_features, device=device_of(layer), dtype=dtype)
    offset = layer(torch.zeros_like(unit[:1]))[0, :rows]
    matrix = layer(unit)[:, :rows] - offset
    less = unit * _PART
    if (matrix * less[0, 0] - (layer(less)[:, :rows] - offset)).abs().max() > _LINEAR * matrix.abs().max():
        raise UnsupportedPipelineError(
            f"a {type(layer).__name__}, which makes keys, is not linear: its output for {_PART} times a vector is not "
            f"{_PART} times its output for the vector, as if activations were rounded with calibrated scales; expected "
            "a linear layer: quantise only the weights, or quantise activations dynamically"
        )
    return matrix.T.contiguous(), offset.clone() if offset.any() else None


def _widened(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a weight in the type it is computed in; layerwise casting stores weights as 8-bit floats."""
    stored_narrow = weight is not None and weight.is_floating_point() and weight.itemsize == 1
    return weight.to(dtype) if weight is not None and stored_narrow else weight


def _copy(layer: nn.Linear, weight: Tensor) -> Tensor:
    """Return a copy of the matrix, shared by traces with the same matrix; SDXL's copies take 340 MB in float16."""
    made = _copies.get(layer)
    copy = made() if made else None
    if copy is None or (copy.dtype, copy.device) != (weight.dtype, weight.device) or not _alike(copy, weight):
        copy = weight.clone()
        _copies[layer] = ref(copy)
    return copy


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type are equal; compares eight bytes at a time where it can, which is faster."""
    at_once = 8 // one.itemsize
    if one.shape[-1] % at_once or any(t.storage_offset() % at_once or not t.is_contiguous() for t in (one, other)):
        return torch.equal(one, other)
    return torch.equal(one.view(torch.int64), other.view(torch.int64))


class KeySource:
    """A block's key projection in the pipeline, by weak reference: the pipeline may change or be deleted.

    Args:
        module: The block.
        dtype: Type of its layers' input.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype, self._seen = ref(module), dtype, _state(module)

    def still_has(self, matrix: Tensor, bias: Tensor | None) -> bool:
        """Whether the pipeline still has this key projection, or is gone; compares only after a change."""
        module = self._module()
        if module is None or _state(module) == self._seen:
            return True
        now, offset = key_projection(module, self._dtype)
        same = _same(now, matrix) and (
            _same(offset, bias) if offset is not None and bias is not None else offset is bias
        )
        if same:
            self._seen = _state(module)  # moved to another device, or restored
        return same


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.to(other.device), other)


def _state(module: Any) -> object:
    """Return a value that changes with a block's key projection: its weights, adapters and adapter settings."""
    layer, _ = _key_layer(module)
    settings = [
        str(getattr(layer, name, None)) for name in ("scaling", "active_adapters", "merged", "disable_adapters")
    ]
    return id(layer), marks(layer), settings
