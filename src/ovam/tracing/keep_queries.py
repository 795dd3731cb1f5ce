"""A recorder that keeps what it sees: one trace an image."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ovam.backbones.base import Backbone
from ovam.errors import NotFiniteError
from ovam.precision import float32
from ovam.trace.calls import Half
from ovam.trace.quantised import Stored, put
from ovam.trace.replay import BlockReplay, Replay
from ovam.trace.text_side import ReplayedSide, TextSide
from ovam.trace.trace import BlockPart, BlockTrace, Trace
from ovam.tracing.budget import check_limit, rooms_of, summary_of
from ovam.tracing.parts import PARTS
from ovam.tracing.run import Place, Run, RunShape
from ovam.tracing.source import source_of
from ovam.tracing.storage import Storage

log = logging.getLogger("ovam")

Slot = tuple[int, Half, str, str]
"""Where something is kept: image, half, block, part."""


class QueryRecorder:
    """Keeps the parts of a run in room laid out once, each as `ovam.tracing.parts` says; queries are head-major.

    Args:
        backbone: Reads the pipeline.
        traces: Gets one trace an image when a run is complete.
        storage: Where the room is taken.
    """

    def __init__(self, backbone: Backbone, traces: list[Trace], storage: Storage) -> None:
        self.backbone, self.traces, self.storage = backbone, traces, storage
        self.shape: RunShape | None = None
        self.buffers: dict[Slot, Stored] = {}
        self.text: TextSide | None = None

    @float32()  # layers that have no matrix are asked for it here
    @torch.inference_mode(False)  # where a run is in that mode: its tensors are of no use for a token's gradients
    def begin(self, shape: RunShape) -> None:
        """Announce the size, refuse what is over the limit, reserve the room."""
        log.info("capture keeps %s", summary_of(shape, self.storage))
        self._check_limit(shape)
        self.shape = shape
        self.text = self.backbone.text_side(shape.chosen, shape.request)
        self.buffers = {}
        for image in range(shape.images):
            self.buffers |= self._reserved(shape, image)

    def _reserved(self, shape: RunShape, image: int) -> dict[Slot, Stored]:
        rooms = rooms_of(shape, self.storage.dtype)
        return self.storage.reserve(
            {(image, half, *slot): room for half in shape.halves for slot, room in rooms.items()}
        )

    def _check_limit(self, shape: RunShape) -> None:
        check_limit(shape, self.storage, self.backbone, before=sum(trace.nbytes for trace in self.traces))

    def observe(self, place: Place, parts: Mapping[str, Tensor]) -> None:
        """Each part by one copy: cast, transfer and layout together."""
        assert self.shape is not None
        if place.entry == self.shape.calls:  # more calls than the scheduler's time steps tell
            self._make_room(2 * place.entry)
        for name, tensor in parts.items():
            if name == "query" and place.entry == 0:
                check_finite(place.block, tensor)
            PARTS[name].add(self.buffers[place.image, place.half, place.block, name], place.entry, tensor)

    @torch.inference_mode(False)
    def _make_room(self, calls: int) -> None:
        """Move what is kept to where so many calls fit, image by image."""
        assert self.shape is not None
        shape, kept = replace(self.shape, calls=calls), slice(min(calls, self.shape.calls))
        self._check_limit(shape)
        self.shape = shape
        for image in range(shape.images):
            for slot, room in self._reserved(shape, image).items():
                part = PARTS[slot[-1]]
                put(part.calls_of(room, kept), part.calls_of(self.buffers[slot], kept))
                self.buffers[slot] = room

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """One trace an image; room reserved for calls that were never made is given back."""
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
        """What is kept besides queries, outputs and what a replay needs."""
        assert self.shape is not None
        apart = {name: shapes for name, shapes in self.shape.parts.items() if name not in _OF_BLOCKS}
        return {
            part: {
                name: BlockPart(name, self.shape.grids[name], self._kept(image, name, part), PARTS[part].averaged)
                for name in shapes
            }
            for part, shapes in apart.items()
        }

    def _kept(self, image: int, block: str, part: str) -> dict[Half, Any]:
        """Per half; nothing where the part is not kept of the block."""
        assert self.shape is not None
        slots = {half: (image, half, block, part) for half in self.shape.halves}
        return {half: self.buffers[slot] for half, slot in slots.items() if slot in self.buffers}

    def _text(self, run: Run, image: int) -> TextSide:
        """The text side of one image: a replayed one runs its texts against this image's keys and values."""
        assert self.shape is not None
        assert self.text is not None
        if not isinstance(self.text, ReplayedSide):
            return self.text
        passed = self.shape.parts["key"]
        blocks = {
            name: BlockReplay(*(self._kept(image, name, part) for part in ("key", "value", "conditioning")))
            for name in passed
        }
        return self.text.over(Replay(blocks, tuple(run.kept)))


_OF_BLOCKS = ("query", "output", "key", "value", "conditioning")
"""Parts that a `BlockTrace` or the text side holds."""


def check_finite(block: str, query: Tensor) -> None:
    """Look at a block's first queries; one call in a run, so that it costs nothing to speak of.

    Their sum is looked at first, which is 15 times as soon known and finite unless one is not, or it overflows.

    Raises:
        NotFiniteError: they contain NaN or infinity.
    """
    if not bool(torch.isfinite(query.sum(dtype=torch.float32))) and not bool(torch.isfinite(query).all()):
        raise NotFiniteError(
            f"the queries of block {block!r} contain NaN or infinity at the first denoiser call: expected finite "
            "numbers; the model's weights are damaged, or its dtype is too narrow for it (try torch.float32)"
        )
