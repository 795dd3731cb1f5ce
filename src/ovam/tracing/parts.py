"""The kinds of tensors that a capture can keep, one entry each.

To add a kind, add an entry here and a line in the backbone that observes it. An entry says for which blocks the tensor
is kept, its shape, how it is taken from an observation, and how it accumulates over the denoiser calls.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovam.backbones.base import BlockSpec, Observation
from ovam.backbones.unet_features import FEATURES
from ovam.errors import UnsupportedPipelineError
from ovam.maps.attention import add_self_weights
from ovam.precision import float32
from ovam.trace.quantised import Quantised, Stored
from ovam.tracing.self_attention import self_attention_of
from ovam.tracing.wanted import Wanted

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Shape of one image's tensor in one denoiser call, by the name under which it is kept: a block's, or a grid's."""


@dataclass(frozen=True, eq=False)
class PixelPairs:
    """Queries and keys of one image's pixels in one block: self-attention whose weights are not computed yet.

    Attributes:
        query: (head, pixel, head_dim).
        key: (head, pixel, head_dim).
        scale: Factor on the scores.
    """

    query: Tensor
    key: Tensor
    scale: float

    @float32()
    def add_to(self, mean: Tensor, share: float) -> None:
        """Move a running mean (pixel, pixel) towards these weights; `share` is their weight in it, in (0, 1]."""
        add_self_weights(mean, self.query, self.key, scale=self.scale, share=share)


Taken = Tensor | PixelPairs
"""What is taken of one image from an observation."""


@dataclass(frozen=True)
class Part:
    """A kind of tensor that a capture can keep.

    Attributes:
        name: Name in buffers and files.
        label: Name in tables and messages; parts with the same label are counted together.
        shapes: Returns the shapes of one call's tensors, by the name under which each is kept.
        of: Takes one image's tensor, by its row of the batch, from the observation of a block.
        pixel_axes: Axes that are the grid's pixels; their size is checked.
        exact: Whether it is kept in float32, whatever the storage type.
        averaged: Whether only the mean over the calls is kept; if not, every call's tensor is.
        last: Whether only the last kept call's tensor is kept.
        floats: Whether it is kept in float16 where the storage type is int8.
        sources: Returns the name under which each block's tensor is kept; several blocks may share the mean of a
            grid. By default each block is kept under its own name.
    """

    name: str
    label: str
    shapes: Callable[[Wanted], Shapes]
    of: Callable[[str, Observation, int, BlockSpec], Taken]
    pixel_axes: tuple[int, ...] = ()
    exact: bool = False
    averaged: bool = False
    last: bool = False
    floats: bool = False
    sources: Callable[[Wanted], Mapping[str, str]] | None = None

    def sources_of(self, wanted: Wanted) -> dict[str, str]:
        """Return the name under which the tensor of each block is kept, for the blocks that keep this part."""
        return {name: name for name in self.shapes(wanted)} if self.sources is None else dict(self.sources(wanted))

    @property
    def single(self) -> bool:
        """Whether one tensor is kept for all calls together."""
        return self.averaged or self.last

    def room(self, shape: Shape, calls: int, dtype: torch.dtype) -> Stored:
        """Return a stand-in (device "meta") for the tensor of all calls; the step axis comes after any head axis."""
        if not self.single:
            shape = (shape[0], calls, *shape[1:]) if len(shape) == 3 else (calls, *shape)
        dtype = torch.float32 if self.exact else torch.float16 if self.floats and dtype == torch.int8 else dtype
        values = torch.empty(shape, dtype=dtype, device="meta")
        if dtype != torch.int8:
            return values
        return Quantised(values, torch.empty((*shape[:-2], 1, shape[-1]), dtype=torch.float32, device="meta"))


def _queries(wanted: Wanted) -> Shapes:
    specs = wanted.backbone.blocks()
    return {name: (specs[name].heads, wanted.pixels(name), specs[name].head_dim) for name in wanted.chosen}


def _outputs(wanted: Wanted) -> Shapes:
    return _queries(wanted) if wanted.options.outputs else {}


def _image_stream(wanted: Wanted) -> Shapes:
    specs, further = wanted.backbone.blocks(), wanted.further
    return {name: (specs[name].heads, wanted.pixels(name) + further, specs[name].head_dim) for name in wanted.passed()}


def _conditioning(wanted: Wanted) -> Shapes:
    specs = wanted.backbone.blocks()
    return {name: (specs[name].conditioning,) for name in wanted.passed()}


def _self_attention(wanted: Wanted) -> Shapes:
    pixels = {kept: wanted.pixels(block) for block, kept in self_attention_of(wanted).items()}
    return {name: (count, count) for name, count in pixels.items()}


def _features(wanted: Wanted) -> Shapes:
    layers = wanted.backbone.feature_layers() if wanted.options.features else {}
    return {name: (spec.head_dim, *wanted.grids[name]) for name, spec in layers.items()}


def _query_of(block: str, seen: Observation, row: int, spec: BlockSpec) -> Tensor:
    return _queries_in(seen)[row]


def _queries_in(seen: Observation) -> Tensor:
    """Return the queries of an attention block (batch, head, pixel, head_dim)."""
    assert seen.query is not None
    return seen.query


def _output_of(block: str, seen: Observation, row: int, spec: BlockSpec) -> Tensor:
    """Return the attention outputs; raise UnsupportedPipelineError if the backbone does not provide them."""
    if seen.output is None:
        raise UnsupportedPipelineError(
            f"block {block!r}: its backbone reports no attention outputs, which output-space maps need (an IP-Adapter "
            "of Stable Diffusion 3 adds its own to them): expected `Observation.output`; capture without outputs, run "
            "without the adapter's image, or make the backbone report them"
        )
    return seen.output[row]


def _replayed(name: str) -> Callable[[str, Observation, int, BlockSpec], Tensor]:
    return lambda block, seen, row, spec: seen.replay[name][row]


def _pairs(block: str, seen: Observation, row: int, spec: BlockSpec) -> PixelPairs:
    key = seen.replay.get("key") if seen.key is None else seen.key
    if key is None:
        raise UnsupportedPipelineError(
            f"block {block!r}: its backbone reports no keys of the pixels, which self-attention needs: expected "
            "`Observation.key`; leave the block out of self_attention"
        )
    return PixelPairs(_queries_in(seen)[row], key[row], spec.scale)


def _features_of(block: str, seen: Observation, row: int, spec: BlockSpec) -> Tensor:
    return seen.further[FEATURES][row]


_ENTRIES = (
    Part("query", "queries", _queries, _query_of, pixel_axes=(1,)),
    Part("output", "attention outputs", _outputs, _output_of, pixel_axes=(1,)),
    Part("key", "image keys and values", _image_stream, _replayed("key")),
    Part("value", "image keys and values", _image_stream, _replayed("value")),
    Part("conditioning", "image keys and values", _conditioning, _replayed("conditioning"), exact=True),
    Part(
        "self_attention",
        "self-attention",
        _self_attention,
        _pairs,
        pixel_axes=(1,),
        exact=True,
        averaged=True,
        sources=self_attention_of,
    ),
    Part(FEATURES, "features", _features, _features_of, last=True, floats=True),
)
PARTS: Mapping[str, Part] = {part.name: part for part in _ENTRIES}
"""All parts by name."""
