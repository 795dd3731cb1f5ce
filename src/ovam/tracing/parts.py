"""The kinds of tensors that a capture can keep, one entry each.

To add a kind, add an entry here and a line in the backbone that observes it. An entry says for which blocks the tensor
is kept, its shape, how it is taken from an observation, and how it accumulates over the denoiser calls.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovam.backbones.base import Backbone, BlockSpec, Observation
from ovam.errors import UnsupportedPipelineError
from ovam.maps.attention import self_weights
from ovam.precision import float32
from ovam.shapes import Grid
from ovam.trace.blocks import choose_blocks
from ovam.trace.quantised import Quantised, Stored
from ovam.tracing.options import CaptureOptions

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Shape of one image's tensor in one denoiser call, by block."""


@dataclass(frozen=True)
class Wanted:
    """What decides which parts a run keeps.

    Attributes:
        backbone: Reads the pipeline.
        options: Options of the capture.
        grids: Height and width of every block's pixels.
        chosen: Names of the blocks whose queries are kept.
        further: Number of pixels of reference pictures, which follow the grid's in the image stream (FLUX Kontext).
    """

    backbone: Backbone
    options: CaptureOptions
    grids: Mapping[str, Grid]
    chosen: tuple[str, ...]
    further: int = 0

    def pixels(self, name: str) -> int:
        """Return the number of pixels of a block's grid."""
        height, width = self.grids[name]
        return height * width

    def passed(self) -> tuple[str, ...]:
        """Return the blocks that a text runs through up to the last chosen one; none without joint attention."""
        names = list(self.backbone.blocks())
        return tuple(names[: names.index(self.chosen[-1]) + 1]) if self.backbone.text_kind == "replayed" else ()


@dataclass(frozen=True)
class Part:
    """A kind of tensor that a capture can keep.

    Attributes:
        name: Name in buffers and files.
        label: Name in tables and messages; parts with the same label are counted together.
        shapes: Returns the shapes of one call's tensors, by block, for the blocks that keep this part.
        of: Takes one image's tensor, by its row of the batch, from the observation of a block.
        pixel_axes: Axes of the shape that are the grid's pixels; their size is checked.
        exact: Whether it is kept in float32, whatever the storage type.
        averaged: Whether only the mean over the calls is kept; if not, every call's tensor is.
    """

    name: str
    label: str
    shapes: Callable[[Wanted], Shapes]
    of: Callable[[str, Observation, int, BlockSpec], Tensor]
    pixel_axes: tuple[int, ...] = ()
    exact: bool = False
    averaged: bool = False

    def room(self, shape: Shape, calls: int, dtype: torch.dtype) -> Stored:
        """Return a tensor without memory for all calls; the step axis comes after the heads, if any."""
        if not self.averaged:
            shape = (shape[0], calls, *shape[1:]) if len(shape) == 3 else (calls, *shape)
        dtype = torch.float32 if self.exact else dtype
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
    if wanted.options.self_attention is None:
        return {}
    own = {name: wanted.grids[name] for name in wanted.backbone.self_blocks()}
    names = choose_blocks(own, wanted.options.self_attention)
    return {name: (wanted.pixels(name), wanted.pixels(name)) for name in names}


def _query_of(block: str, seen: Observation, row: int, spec: BlockSpec) -> Tensor:
    return seen.query[row]


def _output_of(block: str, seen: Observation, row: int, spec: BlockSpec) -> Tensor:
    """Return the attention outputs; raise UnsupportedPipelineError if the backbone does not provide them."""
    if seen.output is None:
        raise UnsupportedPipelineError(
            f"block {block!r}: its backbone tells no attention outputs, which output-space maps need (an IP-Adapter of "
            "Stable Diffusion 3 mixes its own into them): expected `Observation.output`; ask without outputs, run "
            "without the adapter's image, or let the backbone tell them"
        )
    return seen.output[row]


def _replayed(name: str) -> Callable[[str, Observation, int, BlockSpec], Tensor]:
    return lambda block, seen, row, spec: seen.replay[name][row]


@float32()
def _self_weights(block: str, seen: Observation, row: int, spec: BlockSpec) -> Tensor:
    assert seen.key is not None
    return self_weights(seen.query[row], seen.key[row], scale=spec.scale)


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
        _self_weights,
        pixel_axes=(0, 1),
        exact=True,
        averaged=True,
    ),
)
PARTS: Mapping[str, Part] = {part.name: part for part in _ENTRIES}
"""All parts by name."""
