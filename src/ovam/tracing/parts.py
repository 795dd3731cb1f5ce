"""Every kind of tensor that a capture can keep, one entry each.

A new kind is an entry here, and a line in the backbone that tells it. An entry says of which blocks it is kept and in
which shape, how it is taken out of what a block shows, and how it accumulates over the denoiser calls.
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
from ovam.trace.quantised import Quantised, Stored, put
from ovam.tracing.options import CaptureOptions

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Shape of one image's tensor in one denoiser call, by block."""


@dataclass(frozen=True)
class Wanted:
    """What decides which parts a run keeps.

    Attributes:
        backbone: Reads the pipeline.
        options: Of the capture.
        grids: Height and width of the pixels, of every block.
        chosen: Names of the blocks whose queries are kept.
        further: Pixels beyond the grid that a block's image stream has, of reference pictures (FLUX Kontext).
    """

    backbone: Backbone
    options: CaptureOptions
    grids: Mapping[str, Grid]
    chosen: tuple[str, ...]
    further: int = 0

    def pixels(self, name: str) -> int:
        """Number of pixels of a block's grid."""
        height, width = self.grids[name]
        return height * width

    def passed(self) -> tuple[str, ...]:
        """Blocks that a text passes on its way to the last chosen one, in joint attention; else none."""
        names = list(self.backbone.blocks())
        return tuple(names[: names.index(self.chosen[-1]) + 1]) if self.backbone.text_kind == "replayed" else ()


@dataclass(frozen=True)
class Part:
    """A kind of tensor that a capture can keep.

    Attributes:
        name: As it stands in buffers and files.
        label: What it is called in tables and messages; parts of one label are counted together.
        shapes: Shapes of one call, of the blocks of which it is wanted.
        of: One image's tensor, by its row of the batch, out of what a block shows.
        pixel_axes: Axes of the shape that are the grid's pixels, and are checked to be.
        exact: Kept in float32 whatever the storage type.
        averaged: Its mean over the calls is kept, not each call's.
    """

    name: str
    label: str
    shapes: Callable[[Wanted], Shapes]
    of: Callable[[str, Observation, int, BlockSpec], Tensor]
    pixel_axes: tuple[int, ...] = ()
    exact: bool = False
    averaged: bool = False

    def room(self, shape: Shape, calls: int, dtype: torch.dtype) -> Stored:
        """A tensor without memory of what is kept of all calls; the step axis stands after the heads, if any."""
        if not self.averaged:
            shape = (shape[0], calls, *shape[1:]) if len(shape) == 3 else (calls, *shape)
        dtype = torch.float32 if self.exact else dtype
        values = torch.empty(shape, dtype=dtype, device="meta")
        if dtype != torch.int8:
            return values
        return Quantised(values, torch.empty((*shape[:-2], 1, shape[-1]), dtype=torch.float32, device="meta"))

    def add(self, room: Stored, entry: int, tensor: Tensor) -> None:
        """Put the tensor of a call where it is kept; `entry` calls are there already."""
        if not self.averaged:
            put(self.calls_of(room, entry), tensor)
            return
        assert isinstance(room, Tensor)
        if entry == 0:
            room.copy_(tensor)  # over whatever the memory held
        else:
            room.lerp_(tensor.to(room.device), 1 / (entry + 1))

    def calls_of(self, room: Stored, entries: int | slice) -> Stored:
        """What is kept of some calls, or of one; of an average all of it."""
        if self.averaged:
            return room
        return room[:, entries] if room.ndim == 4 else room[entries]


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
    """Raises UnsupportedPipelineError where the backbone does not tell attention outputs, or can't."""
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
"""By name."""
