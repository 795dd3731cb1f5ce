"""Count the bytes that a capture keeps, check its limit, and print the table of `ovam.plan` and of refused captures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from ovam.backbones.base import Backbone
from ovam.errors import CaptureTooLargeError
from ovam.shapes import Grid
from ovam.trace.quantised import Stored
from ovam.tracing.parts import PARTS
from ovam.tracing.presets import PRESETS
from ovam.tracing.run import RunShape
from ovam.tracing.storage import Storage

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class BlockBytes:
    """Bytes that a capture keeps of one block: all steps, images and halves together.

    Attributes:
        name: Module path in the denoiser.
        grid: Height and width of its pixels.
        parts: Bytes by the label of the kept tensors (`Part.label`): "queries", "image keys and values" (with the
            conditioning; late words need them in joint attention), "attention outputs", "self-attention".
    """

    name: str
    grid: Grid
    parts: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


def rooms_of(shape: RunShape, dtype: torch.dtype) -> dict[tuple[str, str], Stored]:
    """Return stand-ins (device "meta") for the tensors that are kept of one image and half, by their name and part."""
    return {
        (name, part): PARTS[part].room(each, shape.calls, dtype)
        for part, shapes in shape.parts.items()
        for name, each in shapes.items()
    }


def bytes_of(shape: RunShape, dtype: torch.dtype) -> tuple[BlockBytes, ...]:
    """Return the bytes of each watched block, in the order the model runs them.

    The mean of several blocks' self-attention is counted at the first of them.
    """
    rooms, times = rooms_of(shape, dtype), shape.images * len(shape.halves)
    rows = {name: dict[str, int]() for name in shape.watched}
    for (kept, part), room in rooms.items():
        label = PARTS[part].label
        name = next(block for block, under in shape.sources[part].items() if under == kept)  # a mean: of its first
        rows[name][label] = rows[name].get(label, 0) + room.nbytes * times
    return tuple(BlockBytes(name, shape.grids[name], parts) for name, parts in rows.items())


def summary_of(shape: RunShape, storage: Storage) -> str:
    """Return a sentence that says what is kept of a run."""
    rows = bytes_of(shape, storage.dtype)
    counts = {label: sum(label in row.parts for row in rows) for label in _labels(rows)}
    what = ", ".join(f"{label} of {count} blocks" for label, count in counts.items())
    total = sum(row.nbytes for row in rows)
    return (
        f"{what} x {shape.calls} denoiser calls x {shape.images} images x {len(shape.halves)} halves of guidance in "
        f"{str(storage.dtype).removeprefix('torch.')}: {total / _GIB:.3f} GiB on {storage}"
    )


def check_limit(shape: RunShape, storage: Storage, backbone: Backbone, *, before: int) -> None:
    """Check that a run fits the storage.

    Args:
        shape: Shape of the run.
        storage: Where the run is stored.
        backbone: The error names the presets of this backbone.
        before: Bytes kept of earlier runs.

    Raises:
        CaptureTooLargeError: the run does not fit.
    """
    rows = bytes_of(shape, storage.dtype)
    needed = sum(row.nbytes for row in rows) + before
    if needed <= storage.limit:
        return
    presets = "".join(f"preset={name!r}, " for name in PRESETS.get(type(backbone), {}))
    narrow = sum(row.nbytes for row in bytes_of(shape, torch.int8))
    coarser = ", or self_attention of fewer blocks or coarser grids" if "self_attention" in shape.parts else ""
    raise CaptureTooLargeError(
        f"capture would keep {summary_of(shape, storage)}, {needed / _GIB:.3f} GiB in all with "
        f"the runs before, over the limit of {storage.limit / _GIB:.3f} GiB. There are three ways out: "
        f"(1) keep less: {presets}dtype=torch.int8 ({narrow / _GIB:.3f} GiB), fewer steps (steps='middle', "
        "steps=range(10, 20)) or blocks (blocks=[names or grids]; joint attention keeps image keys and values "
        f"up to the last one){coarser}; (2) keep it in a file, disk='a folder with room'; (3) keep only the maps of "
        "words that you know before the run, ovam.stream. Or raise limit_gib. What each block would take:\n"
        + table(rows)
    )


def _labels(rows: Sequence[BlockBytes]) -> list[str]:
    """Return the labels that at least one block has, in the order of `PARTS`."""
    there = {label for row in rows for label in row.parts}
    return [label for label in dict.fromkeys(part.label for part in PARTS.values()) if label in there]


def table(rows: Sequence[BlockBytes]) -> str:
    """Return a table of plain text; equal blocks in a row share one line."""
    labels = _labels(rows)
    lines: list[tuple[str, ...]] = [("block", "grid", *(f"{label}, MiB" for label in labels))]
    for _, group in groupby(rows, key=lambda row: replace(row, name="")):
        first, *others = group
        names = [first.name, *(row.name for row in others)]
        (height, width), parts = first.grid, [first.parts.get(label, 0) for label in labels]
        name = names[0] if len(names) == 1 else f"{len(names)} from {names[0]} on"
        lines.append((name, f"{height}x{width}", *(f"{part / _MIB:.2f}" for part in parts)))
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip() for line in lines
    )
