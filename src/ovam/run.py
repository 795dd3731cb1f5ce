"""What is known of one run of a pipeline while it is watched, and who is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Observation, Request
from ovam.blocks import choose_blocks
from ovam.calls import Call, Half
from ovam.capture_options import CaptureOptions
from ovam.coverage import RunCoverage
from ovam.replay import ImageStream
from ovam.schedule import Level
from ovam.shapes import Grid

StepChoice = int | Iterable[int] | Literal["middle"] | None
"""Step numbers or one, all of them (None), or the one in the middle of however many a run has."""


@dataclass(frozen=True)
class Plan:
    """What a run will show, known at its first denoiser call, before anything is kept.

    Attributes:
        blocks: The chosen blocks, in running order.
        grids: Grids of these, of all that are replayed, and of those whose self-attention is kept.
        halves: The halves of guidance to keep.
        images: Number of images in the batch.
        calls: Number of denoiser calls to keep, as far as the scheduler tells.
        replayed: In joint attention, every block that a text passes up to the last chosen one, in running order, and
            the shapes of what is kept of each in one call: `key`, `value` and `conditioning`.
        outputs: Whether the attention outputs of the chosen blocks' pixels are wanted.
        self_blocks: The blocks whose self-attention is wanted, in running order.
        request: What the run was asked for, where it is known.
    """

    blocks: Mapping[str, BlockSpec]
    grids: Mapping[str, Grid]
    halves: tuple[Half, ...]
    images: int
    calls: int
    replayed: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    outputs: bool = False
    self_blocks: Mapping[str, BlockSpec] = field(default_factory=dict)
    request: Request | None = None

    @property
    def watched(self) -> tuple[str, ...]:
        """Blocks to look at, in running order: the chosen ones, and those that their words pass before.

        Those whose self-attention is wanted stand behind them.
        """
        return (*(self.replayed or self.blocks), *self.self_blocks)


def plan_run(
    backbone: Backbone,
    options: CaptureOptions,
    latent: Grid,
    *,
    images: int,
    calls: int,
    request: Request | None = None,
    further: int = 0,
) -> Plan:
    """The plan of a run with a latent of this size; the rest as `Plan` and `Evaluation` name it.

    Raises:
        MissingBlockError: the options fit no block.
    """
    specs, grids = backbone.blocks(), backbone.grids(latent)
    if options.blocks is None:
        names = tuple(name for name, spec in specs.items() if spec.default)
    else:
        names = choose_blocks({name: grids[name] for name in specs}, options.blocks)
    own: Mapping[str, BlockSpec] = {}
    self_names: tuple[str, ...] = ()
    if options.self_attention is not None:
        own = backbone.self_blocks()
        self_names = choose_blocks({name: grids[name] for name in own}, options.self_attention)
    replayed = dict[str, dict[str, tuple[int, ...]]]()
    if backbone.text_kind == "replayed":
        for name in list(specs)[: list(specs).index(names[-1]) + 1]:
            spec, (height, width) = specs[name], grids[name]
            image = (spec.heads, height * width + further, spec.head_dim)
            replayed[name] = {"key": image, "value": image, "conditioning": (spec.conditioning,)}
    return Plan(
        blocks={name: specs[name] for name in names},
        grids={name: grids[name] for name in (*(replayed or names), *self_names)},
        halves=options.halves,
        images=images,
        calls=calls,
        replayed=replayed,
        outputs=options.outputs,
        self_blocks={name: own[name] for name in self_names},
        request=request,
    )


@dataclass
class Run:
    """One run of the pipeline, from its prompt to its pictures."""

    request: Request | None = None
    seeds: tuple[int | None, ...] = ()
    plan: Plan | None = None
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
        assert self.plan is not None
        done = self.calls[:-1] if self.evaluating else self.calls
        seen = tuple(self.seen.get(call.index, frozenset()) for call in done)
        kept = tuple(call.index for call in self.kept if call in done)
        return RunCoverage(self.plan.watched, tuple(done), seen, kept, complete)


@runtime_checkable
class Recorder(Protocol):
    """What becomes of the queries."""

    def begin(self, plan: Plan) -> None:
        """A run's first denoiser call is about to be made."""

    def observe(self, block: str, half: Half, image: int, entry: int, query: torch.Tensor) -> None:
        """Queries (head, pixel, head_dim) of one image in the kept call number `entry`."""

    def output(self, block: str, half: Half, image: int, entry: int, output: torch.Tensor) -> None:
        """Attention outputs likewise, told after the queries, where the plan asks for them."""

    def self_attention(
        self, block: str, half: Half, image: int, entry: int, query: torch.Tensor, key: torch.Tensor
    ) -> None:
        """Queries and keys (head, pixel, head_dim) of self-attention, told once the call is over, if it is kept."""

    def replay(self, block: str, half: Half, image: int, entry: int, stream: ImageStream) -> None:
        """What a text of this image meets in a block; told before the block's queries, in joint attention only."""

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """The run is complete."""
