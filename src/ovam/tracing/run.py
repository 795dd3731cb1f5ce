"""The state of one watched run of a pipeline, and the interface of recorders."""

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
from ovam.tracing.parts import PARTS, Shapes, Taken
from ovam.tracing.schedule import Level
from ovam.tracing.wanted import Wanted


@dataclass(frozen=True)
class RunShape:
    """What a run will keep and in which sizes, known at its first denoiser call, before anything is kept.

    Attributes:
        blocks: The blocks to watch, in the order the model runs them: those whose queries are kept and, in joint
            attention, all blocks before the last of these. After them come the blocks whose self-attention is kept, and
            the layers whose features are kept.
        chosen: Names of the blocks whose queries are kept.
        grids: Grids of all blocks.
        halves: The halves of guidance to keep.
        images: Number of images in the batch.
        calls: Number of denoiser calls to keep, as the scheduler lists them.
        parts: Shapes of the tensors kept per call, image and half, by part (`ovam.tracing.parts`) and the name under
            which each is kept.
        sources: The names under which the blocks' tensors are kept, by part and block.
        optional: Blocks whose self-attention is kept if it can be read, because nobody asked for it.
        request: Prompts and guidance, if known.
    """

    blocks: Mapping[str, BlockSpec]
    chosen: tuple[str, ...]
    grids: Mapping[str, Grid]
    halves: tuple[Half, ...]
    images: int
    calls: int
    parts: Mapping[str, Shapes]
    sources: Mapping[str, Mapping[str, str]]
    optional: frozenset[str] = frozenset()
    request: Request | None = None

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the blocks to watch."""
        return tuple(self.blocks)

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the watched blocks that must run in every call."""
        return tuple(name for name in self.blocks if name not in self.optional)


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
    """Return the shape of a run with a latent of this size; for the arguments see `RunShape` and `Evaluation`.

    Raises:
        MissingBlockError: the options fit no block.
    """
    specs, grids = backbone.blocks(), backbone.grids(latent)
    if options.blocks is None:
        chosen = tuple(name for name, spec in specs.items() if spec.default)
    else:
        chosen = choose_blocks({name: grids[name] for name in specs}, options.blocks)
    wanted = Wanted(backbone, options, grids, chosen, calls, further)
    parts = {part.name: shapes for part in PARTS.values() if (shapes := part.shapes(wanted))}
    sources = {name: PARTS[name].sources_of(wanted) for name in parts}
    every = {**specs, **backbone.self_blocks(), **backbone.feature_layers()}
    kept = {block for names in sources.values() for block in names}
    needed = {block for part, names in sources.items() for block in names if part != "self_attention"}
    return RunShape(
        blocks={name: spec for name, spec in every.items() if name in kept},
        chosen=chosen,
        grids=grids,
        halves=options.halves,
        images=images,
        calls=calls,
        parts=parts,
        sources=sources,
        optional=frozenset(kept - needed) if options.self_attention is None else frozenset(),
        request=request,
    )


Waiting = tuple[str, Observation, Mapping[Half, slice]]
"""An observation of a block that is not passed on yet, with the rows of the batch that belong to each half."""


@dataclass
class Run:
    """One run of the pipeline, from its prompt to its pictures."""

    request: Request | None = None
    seeds: tuple[int | None, ...] = ()
    shape: RunShape | None = None
    calls: list[Call] = field(default_factory=list)  # all calls
    kept: list[Call] = field(default_factory=list)
    halves_seen: set[Half] = field(default_factory=set)  # in the current call
    levels: list[Level] = field(default_factory=list)  # of all calls, as the scheduler lists them
    last_level: Level | None = None
    reported: set[str] = field(default_factory=set)  # blocks that ran in the current evaluation
    waiting: list[Waiting] = field(default_factory=list)  # for averages and last calls, until the call is complete
    last: list[Waiting] = field(default_factory=list)  # of the last kept call, until the run is over
    seen: dict[int, frozenset[str]] = field(default_factory=dict)  # blocks that ran, by the index of the call
    evaluation: Evaluation | None = None
    steps: frozenset[int] | None = None  # steps to keep, None for all
    keeping: bool = False  # whether the current call's step is to be kept
    averaged: bool = False  # whether a call has counted in the averages
    spare: list[Waiting] = field(default_factory=list)  # of the last complete call, which counts if no other does
    latent: Grid = (0, 0)
    planned_calls: int | None = None  # number of calls to keep, if the run was started by `Session.begin`
    evaluating: bool = False  # whether the denoiser is running, or failed
    by_pipeline: bool = False  # whether the user called `pipe(...)`; if not, a custom loop
    thread_id: int | None = None  # of the thread that runs it
    crossed: bool = False  # whether another thread interfered
    text: torch.Tensor | None = None  # text embedding of the last call
    warned_of_text: bool = False
    warned_of_halves: bool = False
    error_before: BaseException | None = None  # the error that was being handled when the pipeline's call began
    pictures: Sequence[bytes | None] | None = None
    size: tuple[int, int] = (0, 0)

    def level(self, call: int, timestep: float) -> Level:
        """Return the noise level of a call: as planned, or only its time step if the loop differs from the plan."""
        return self.levels[call] if self.is_planned(call, timestep) else Level(timestep, None)

    def is_planned(self, call: int, timestep: float) -> bool:
        """Return whether the scheduler has this time step for the call of this index."""
        return call < len(self.levels) and self.levels[call].timestep == timestep

    def continued_by(self, evaluation: Evaluation) -> bool:
        """Return whether an evaluation is the second half of the last call: the halves of FLUX run one by one."""
        if not self.calls or self.calls[-1].timestep != evaluation.timestep:
            return False
        return not self.halves_seen & set(evaluation.halves)

    def note_seen(self, watched: Sequence[str]) -> None:
        """Record which blocks ran in this evaluation of the current call."""
        index = len(self.calls) - 1
        self.seen[index] = self.seen.get(index, frozenset(watched)) & self.reported

    def leave_out(self) -> None:
        """Leave the current call out of the trace; the next kept call takes its place."""
        self.kept.pop()
        self.keeping = False

    def coverage(self, *, complete: bool) -> RunCoverage:
        """Return which blocks ran in which calls."""
        assert self.shape is not None
        done = self.calls[:-1] if self.evaluating else self.calls
        seen = tuple(self.seen.get(call.index, frozenset()) for call in done)
        kept = tuple(call.index for call in self.kept if call in done)
        return RunCoverage(self.shape.watched, tuple(done), seen, kept, complete)


@dataclass(frozen=True)
class Place:
    """Where a tensor was observed.

    Attributes:
        block: Module path in the denoiser.
        half: Half of guidance.
        image: Index of the image in the batch.
        kept_index: Position of the denoiser call among the kept calls (`ovam.trace.calls`).
    """

    block: str
    half: Half
    image: int
    kept_index: int


@runtime_checkable
class Recorder(Protocol):
    """Receives the observed tensors of a run."""

    def begin(self, shape: RunShape) -> None:
        """Prepare for a run; called just before its first denoiser call."""

    def observe(self, place: Place, parts: Mapping[str, Taken]) -> None:
        """Receive what was taken of one image in one block at one kept call, by part (`ovam.tracing.parts`).

        Blocks come in the order they run. Averages come when the call is over. Parts that are kept only of the last
        call come when the run is over.
        """

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """Complete the run."""
