"""The recorder of `capture`: it stores queries and other parts, and makes one trace per image."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ovam.backbones.base import Backbone
from ovam.errors import NotFiniteError
from ovam.precision import float32
from ovam.shapes import Grid
from ovam.trace.calls import Half
from ovam.trace.quantised import Stored, put
from ovam.trace.replay import BlockReplay, Replay
from ovam.trace.text_side import ReplayedSide, TextSide
from ovam.trace.trace import BlockPart, BlockTrace, Trace
from ovam.tracing.budget import check_limit, rooms_of, summary_of
from ovam.tracing.parts import PARTS, Part, PixelPairs, Taken
from ovam.tracing.run import Place, Run, RunShape
from ovam.tracing.source import source_of
from ovam.tracing.storage import Storage

log = logging.getLogger("ovam")

Slot = tuple[int, Half, str, str]
"""Key of a stored tensor: image, half, block, part."""


class QueryRecorder:
    """Stores the parts of a run (`ovam.tracing.parts`) in tensors that are allocated once; queries are head-major.

    Args:
        backbone: Reads the pipeline.
        traces: Gets one trace per image when a run is complete.
        storage: Where the tensors are allocated.
    """

    def __init__(self, backbone: Backbone, traces: list[Trace], storage: Storage) -> None:
        self.backbone, self.traces, self.storage = backbone, traces, storage
        self.shape: RunShape | None = None
        self.buffers: dict[Slot, Stored] = {}
        self.counts: Counter[Slot] = Counter()
        self.text: TextSide | None = None

    @float32()  # some layers have no weight matrix; it is computed here
    @torch.inference_mode(False)  # tensors of inference mode can't be used for the gradients of tokens
    def begin(self, shape: RunShape) -> None:
        """Log the size, check the limit, and allocate the tensors."""
        log.info("capture keeps %s", summary_of(shape, self.storage))
        self._check_limit(shape)
        self.shape = shape
        self.text = self.backbone.text_side(shape.chosen, shape.request)
        self.buffers, self.counts = {}, Counter()
        for image in range(shape.images):
            self.buffers |= self._reserved(shape, image)

    def _reserved(self, shape: RunShape, image: int) -> dict[Slot, Stored]:
        rooms = rooms_of(shape, self.storage.dtype)
        return self.storage.reserve(
            {(image, half, *slot): room for half in shape.halves for slot, room in rooms.items()}
        )

    def _check_limit(self, shape: RunShape) -> None:
        check_limit(shape, self.storage, self.backbone, before=sum(trace.nbytes for trace in self.traces))

    def observe(self, place: Place, parts: Mapping[str, Taken]) -> None:
        """Store each part by one copy, which casts, transfers and lays it out, or add it to its mean."""
        assert self.shape is not None
        if place.kept_index == self.shape.calls:  # more calls than the scheduler has time steps
            self._make_room(2 * place.kept_index)
        for name, taken in parts.items():
            slot = (place.image, place.half, self.shape.sources[name][place.block], name)
            room = self.buffers[slot]
            if PARTS[name].averaged:
                self.counts[slot] += 1
                _average(room, taken, 1 / self.counts[slot])
                continue
            self.counts[slot] += 1
            assert isinstance(taken, Tensor)
            if name == "query" and place.kept_index == 0:
                check_finite(place.block, taken)
            put(_calls_of(PARTS[name], room, place.kept_index), taken)

    @torch.inference_mode(False)
    def _make_room(self, calls: int) -> None:
        """Move the stored tensors to new ones with room for this many calls, image by image."""
        assert self.shape is not None
        shape, kept = replace(self.shape, calls=calls), slice(min(calls, self.shape.calls))
        self._check_limit(shape)
        self.shape = shape
        for image in range(shape.images):
            for slot, room in self._reserved(shape, image).items():
                part = PARTS[slot[-1]]
                put(_calls_of(part, room, kept), _calls_of(part, self.buffers[slot], kept))
                self.buffers[slot] = room

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """Make one trace per image; memory for calls that were never made is freed."""
        assert self.shape is not None
        if len(run.kept) < self.shape.calls:
            self._make_room(len(run.kept))
        for image in range(self.shape.images):
            picture = pictures[image : image + 1]
            self.traces.append(
                Trace(
                    blocks=self._blocks(image),
                    calls=tuple(run.kept),
                    text=self._text(run, image),
                    source=source_of(self.backbone.pipe, run, image),
                    size=size,
                    image_png=picture[0] if picture else None,
                    parts=self._parts(image) if run.kept else {},
                )
            )
        self.buffers = {}

    def _blocks(self, image: int) -> dict[str, BlockTrace]:
        assert self.shape is not None
        grids, blocks = self.shape.grids, self.shape.blocks
        return {
            name: BlockTrace(
                name,
                grids[name],
                blocks[name].scale,
                self._kept(image, name, "query"),
                self._kept(image, name, "output"),
            )
            for name in self.shape.chosen
        }

    def _parts(self, image: int) -> dict[str, dict[str, BlockPart]]:
        """Return the kept parts other than queries, outputs and the data for a replay."""
        assert self.shape is not None
        apart = {name: shapes for name, shapes in self.shape.parts.items() if name not in _OF_BLOCKS}
        found = {
            part: {
                name: BlockPart(name, self._grid_of(name, part), kept, PARTS[part].averaged, PARTS[part].last)
                for name in shapes
                if (kept := self._kept(image, name, part))
            }
            for part, shapes in apart.items()
        }
        return {part: kept for part, kept in found.items() if kept}

    def _grid_of(self, name: str, part: str) -> Grid:
        """Return the grid of the blocks whose tensors are kept under a name."""
        assert self.shape is not None
        return next(self.shape.grids[block] for block, kept in self.shape.sources[part].items() if kept == name)

    def _kept(self, image: int, block: str, part: str) -> dict[Half, Any]:
        """Return the stored tensors of a part of a block, per half; empty if the part is not kept, or never came."""
        assert self.shape is not None
        slots = {half: (image, half, block, part) for half in self.shape.halves}
        single = PARTS[part].single
        return {
            half: self.buffers[slot]
            for half, slot in slots.items()
            if slot in self.buffers and (self.counts[slot] or not single)
        }

    def _text(self, run: Run, image: int) -> TextSide:
        """Return the text side of one image; a replayed one uses the keys and values of this image."""
        assert self.shape is not None
        assert self.text is not None
        if not isinstance(self.text, ReplayedSide):
            return self.text
        passed = self.shape.parts["key"]
        blocks = {
            name: BlockReplay(*(self._kept(image, name, part) for part in ("key", "value", "conditioning")))
            for name in passed
        }
        return self.text.with_replay(Replay(blocks, tuple(run.kept)))


_OF_BLOCKS = ("query", "output", "key", "value", "conditioning")
"""Parts that a `BlockTrace` or the text side holds."""


def _average(room: Stored, taken: Taken, share: float) -> None:
    """Move a running mean towards what was taken, whose weight in it is `share`; with 1 it replaces the mean."""
    assert isinstance(room, Tensor)
    if isinstance(taken, PixelPairs):
        taken.add_to(room, share)
    elif share == 1:
        room.copy_(taken)  # the memory is not initialised
    else:
        room.lerp_(taken.to(room), share)


def _calls_of(part: Part, room: Stored, kept_indices: int | slice) -> Stored:
    """Return the part of `room` that belongs to one call or several; one tensor for all calls is returned whole."""
    if part.single:
        return room
    return room[:, kept_indices] if room.ndim == 4 else room[kept_indices]


def check_finite(block: str, query: Tensor) -> None:
    """Check that a block's first queries are finite; once per run, so it costs almost nothing.

    The sum is 15 times faster; check elementwise only if the sum is not finite.

    Raises:
        NotFiniteError: the queries contain NaN or infinity.
    """
    if not bool(torch.isfinite(query.sum(dtype=torch.float32))) and not bool(torch.isfinite(query).all()):
        raise NotFiniteError(
            f"the queries of block {block!r} contain NaN or infinity at the first denoiser call: expected finite "
            "numbers; the model's weights are damaged, or the range of the dtype is too small for this model (try "
            "torch.float32)"
        )
