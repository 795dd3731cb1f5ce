"""What is known of one run of a pipeline while it is watched, and who is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Observation, Request
from ovam.shapes import Grid
from ovam.trace.blocks import choose_blocks
from ovam.trace.calls import Call, Half
from ovam.tracing.coverage import RunCoverage
from ovam.tracing.options import CaptureOptions
from ovam.tracing.parts import PARTS, Shapes, Wanted
from ovam.tracing.schedule import Level


@dataclass(frozen=True)
class RunShape:
    """What a run will show, known at its first denoiser call, before anything is kept.

    Attributes:
        blocks: The blocks to look at, in running order: those whose queries are kept, in joint attention those that
            their words pass before, and behind them those whose self-attention is kept.
        chosen: Names of the blocks whose queries are kept.
        grids: Grids of all blocks.
        halves: The halves of guidance to keep.
        images: Number of images in the batch.
        calls: Number of denoiser calls to keep, as far as the scheduler tells.
        parts: Shapes of what is kept in one call of one image and half, by part (`ovam.tracing.parts`) and block.
        request: What the run was asked for, where it is known.
    """

    blocks: Mapping[str, BlockSpec]
    chosen: tuple[str, ...]
    grids: Mapping[str, Grid]
    halves: tuple[Half, ...]
    images: int
    calls: int
    parts: Mapping[str, Shapes]
    request: Request | None = None

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the blocks to look at."""
        return tuple(self.blocks)


def shape_of_run(
    backbone: Backbone,
    options: CaptureOptions,
    latent: Grid,
    *,
    images: int,
    calls: int,
    request: Request | None = None,
    further: int = 0,
) -> RunShape:
    """The shape of a run with a latent of this size; the rest as `RunShape` and `Evaluation` name it.

    Raises:
        MissingBlockError: the options fit no block.
    """
    specs, grids = backbone.blocks(), backbone.grids(latent)
    if options.blocks is None:
        chosen = tuple(name for name, spec in specs.items() if spec.default)
    else:
        chosen = choose_blocks({name: grids[name] for name in specs}, options.blocks)
    wanted = Wanted(backbone, options, grids, chosen, further)
    parts = {part.name: shapes for part in PARTS.values() if (shapes := part.shapes(wanted))}
    every = {**specs, **backbone.self_blocks()}
    kept = {name for shapes in parts.values() for name in shapes}
    return RunShape(
        blocks={name: spec for name, spec in every.items() if name in kept},
        chosen=chosen,
        grids=grids,
        halves=options.halves,
        images=images,
        calls=calls,
        parts=parts,
        request=request,
    )


@dataclass
class Run:
    """One run of the pipeline, from its prompt to its pictures."""

    request: Request | None = None
    seeds: tuple[int | None, ...] = ()
    shape: RunShape | None = None
    calls: list[Call] = field(default_factory=list)  # all of them
    kept: list[Call] = field(default_factory=list)
    halves_seen: set[Half] = field(default_factory=set)  # of the current call
    levels: list[Level] = field(default_factory=list)  # of all calls, as the scheduler planned them
    last_level: Level | None = None
    reported: set[str] = field(default_factory=set)  # blocks that ran in the current evaluation
    # of the call's self-attention, until it is told
    pairs: list[tuple[str, Observation, Mapping[Half, slice]]] = field(default_factory=list)
    seen: dict[int, frozenset[str]] = field(default_factory=dict)  # blocks that ran, by the index of the call
    evaluation: Evaluation | None = None
    steps: frozenset[int] | None = None  # to be kept, None for all
    keeping: bool = False  # whether the current call's step is to be kept
    latent: Grid = (0, 0)
    planned_calls: int | None = None  # where the loop knows better than the scheduler
    evaluating: bool = False  # whether the denoiser is at work, or broke off
    by_pipeline: bool = False  # whether the pipeline's own call makes it, or a loop of the user's own
    thread: int | None = None  # that makes it
    crossed: bool = False  # whether another thread came in between
    text: torch.Tensor | None = None  # what the denoiser was told last
    warned_of_text: bool = False
    warned_of_halves: bool = False
    handled: BaseException | None = None  # an error that was being handled already when its call began
    pictures: Sequence[bytes | None] | None = None
    size: tuple[int, int] = (0, 0)

    def level(self, call: int, timestep: float) -> Level:
        """Noise level of a call: as planned, or where the loop goes its own way, by its time step alone."""
        return self.levels[call] if self.is_planned(call, timestep) else Level(timestep, None)

    def is_planned(self, call: int, timestep: float) -> bool:
        """Whether the scheduler has this time step for a call of this number."""
        return call < len(self.levels) and self.levels[call].timestep == timestep

    def note_seen(self, watched: Sequence[str]) -> list[str]:
        """Note which blocks ran in this evaluation of the current call; those that did not."""
        index = len(self.calls) - 1
        self.seen[index] = self.seen.get(index, frozenset(watched)) & self.reported
        return [name for name in watched if name not in self.reported]

    def leave_out(self) -> None:
        """Keep nothing of the current call: the next one that is kept takes its place."""
        self.kept.pop()
        self.keeping = False

    def coverage(self, *, complete: bool) -> RunCoverage:
        """Which blocks were seen at which calls."""
        assert self.shape is not None
        done = self.calls[:-1] if self.evaluating else self.calls
        seen = tuple(self.seen.get(call.index, frozenset()) for call in done)
        kept = tuple(call.index for call in self.kept if call in done)
        return RunCoverage(self.shape.watched, tuple(done), seen, kept, complete)


@dataclass(frozen=True)
class Place:
    """Where something was seen.

    Attributes:
        block: Module path in the denoiser.
        half: Which half of guidance.
        image: Number of the image in the batch.
        entry: Number of the denoiser call among those that are kept.
    """

    block: str
    half: Half
    image: int
    entry: int


@runtime_checkable
class Recorder(Protocol):
    """What becomes of the queries."""

    def begin(self, shape: RunShape) -> None:
        """A run's first denoiser call is about to be made."""

    def observe(self, place: Place, parts: Mapping[str, torch.Tensor]) -> None:
        """Tensors of one image in one block at one kept call, by part (`ovam.tracing.parts`).

        In the order the blocks run; averages come once the call is over.
        """

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """The run is complete."""
