"""From what a block showed to the recorder: part by part, image by image, the pixels of the block's grid alone."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ovam.backbones.base import Observation
from ovam.errors import UnsupportedPipelineError
from ovam.shapes import Grid
from ovam.trace.calls import Half
from ovam.tracing.parts import PARTS, Part
from ovam.tracing.run import Place, Recorder, Run, RunShape


def parts_of(shape: RunShape, block: str, *, averaged: bool) -> list[Part]:
    """Return the parts that are kept of a block: averages over the calls, or all others."""
    return [part for part in PARTS.values() if part.averaged == averaged and block in shape.parts.get(part.name, ())]


def pass_on(
    run: Run, recorder: Recorder, block: str, seen: Observation, halves: Mapping[Half, slice], parts: Sequence[Part]
) -> None:
    """Pass parts of a block's observation to the recorder, image by image.

    Args:
        run: The current run.
        recorder: Gets the tensors.
        block: Module path in the denoiser.
        seen: What the block showed in one evaluation.
        halves: Rows of the batch by half of guidance.
        parts: Kinds of tensors to pass on.

    Raises:
        UnsupportedPipelineError: a tensor has other pixels than the block's grid.
    """
    shape, entry = run.shape, len(run.kept) - 1
    assert shape is not None
    further = 0 if run.evaluation is None else run.evaluation.further
    rows = range(len(seen.query))
    for half in (half for half in halves if half in shape.halves):
        for image, row in enumerate(rows[halves[half]]):
            taken = {part.name: part.of(block, seen, row, shape.blocks[block]) for part in parts}
            own = {name: _own_pixels(block, PARTS[name], each, shape, further) for name, each in taken.items()}
            recorder.observe(Place(block, half, image, entry), own)


def _own_pixels(block: str, part: Part, tensor: Tensor, shape: RunShape, further: int) -> Tensor:
    """Return only the pixels of the block's grid, without the `further` ones of reference pictures after them."""
    height, width = shape.grids[block]
    for axis in part.pixel_axes:
        count = tensor.shape[axis] - further
        if count != height * width:
            raise _other_pixels(block, count, (height, width), "to" if axis and part.averaged else "from")
        tensor = tensor.narrow(axis, 0, count)
    return tensor


def _other_pixels(name: str, count: int, grid: Grid, way: str) -> UnsupportedPipelineError:
    return UnsupportedPipelineError(
        f"block {name!r} attends {way} {count} pixels, expected the {grid[0]} x {grid[1]} of "
        "its grid: something merges, drops or adds pixels before it; take that off for the capture"
    )
