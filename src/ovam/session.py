"""Watching a pipeline: wrappers and hooks go in, runs are told apart, and everything is put back as it was."""

import functools
import inspect
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakSet

import torch
from PIL import Image
from torch import nn

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Observation, Request
from ovam.errors import MissingStepError, NestedCaptureError, NothingCapturedError
from ovam.trace import BlockChoice, Call, Grid, Half, choose_blocks

_watched: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Plan:
    """What a run will show, known at its first denoiser call, before anything is kept.

    Attributes:
        blocks: The chosen blocks, in running order.
        grids: Their grids.
        halves: The halves of guidance to keep.
        images: Number of images in the batch.
        calls: Number of denoiser calls to keep, as far as the scheduler tells.
    """

    blocks: Mapping[str, BlockSpec]
    grids: Mapping[str, Grid]
    halves: tuple[Half, ...]
    images: int
    calls: int


@dataclass
class Run:
    """One run of the pipeline, from its prompt to its pictures."""

    request: Request | None = None
    seeds: tuple[int | None, ...] = ()
    plan: Plan | None = None
    calls: list[Call] = field(default_factory=list)  # all of them
    kept: list[Call] = field(default_factory=list)
    halves_seen: set[Half] = field(default_factory=set)  # of the current call
    evaluation: Evaluation | None = None
    keeping: bool = False  # whether the current call's step is to be kept
    latent: Grid = (0, 0)
    planned_calls: int | None = None  # where the loop knows better than the scheduler


class Recorder(Protocol):
    """What becomes of the queries."""

    def begin(self, plan: Plan) -> None:
        """A run's first denoiser call is about to be made."""

    def observe(self, block: str, half: Half, image: int, entry: int, query: torch.Tensor) -> None:
        """Queries (head, pixel, head_dim) of one image in the kept call number `entry`."""

    def finish(self, run: Run, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """The run is complete."""


@dataclass(frozen=True)
class Choice:
    """What to keep: see `ovam.capture`."""

    blocks: BlockChoice
    steps: frozenset[int] | None
    halves: tuple[Half, ...]


class Session:
    """Follows the runs of one pipeline and hands what is chosen to a recorder."""

    def __init__(self, backbone: Backbone, choice: Choice, recorder: Recorder) -> None:
        self.backbone, self.choice, self.recorder = backbone, choice, recorder
        self.run = Run()
        self._watchers = ExitStack()

    @contextmanager
    def installed(self) -> Iterator["Session"]:
        """Watch the pipeline inside the `with` block; afterwards, also after an error, it is as before.

        Raises:
            NestedCaptureError: the pipeline's denoiser is watched already.
        """
        pipe, denoiser = self.backbone.pipe, self.backbone.denoiser
        if denoiser in _watched:
            raise NestedCaptureError(
                f"{type(pipe).__name__} is being captured already, by an outer capture or stream on the same "
                f"{type(denoiser).__name__}: leave that `with` block first, or use its traces"
            )
        with ExitStack() as installed:
            _watched.add(denoiser)
            installed.callback(_watched.discard, denoiser)
            installed.callback(self._unwatch)
            installed.enter_context(_wrapped(pipe, self.backbone.prompt_method, self._on_prompt))
            installed.enter_context(_wrapped(pipe, "prepare_latents", self._on_latents))
            installed.enter_context(_wrapped(pipe.image_processor, "postprocess", self._on_pictures))
            handle = denoiser.register_forward_pre_hook(self._on_denoiser, with_kwargs=True)
            installed.callback(handle.remove)
            yield self
            if self.run.calls:  # a loop of the user's own, which decodes no picture
                self._finish([None] * self._images(), (0, 0))

    def begin(self, request: Request, seeds: tuple[int | None, ...], calls: int) -> None:
        """Start a run by hand, for a loop that does not go through the pipeline's own call."""
        self._drop()
        self.run = Run(request=request, seeds=seeds, planned_calls=calls)

    def finish(self, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """End a run that was started by hand."""
        self._finish(pictures, size)

    def _on_prompt(self, arguments: Mapping[str, Any], result: Any) -> None:
        if self.run.calls:  # the last run broke off between its denoiser calls and its pictures
            self._drop()
        self.run.request = self.backbone.request(arguments, result, self.run.request)

    def _on_latents(self, arguments: Mapping[str, Any], result: Any) -> None:
        given = arguments.get("generator")
        generators = given if isinstance(given, list) else [given] * len(result)
        self.run.seeds = tuple(None if g is None else g.initial_seed() for g in generators)

    def _on_pictures(self, arguments: Mapping[str, Any], result: Any) -> None:
        if not self.run.calls:
            return
        latent_only = arguments.get("output_type") == "latent"
        pictures = [None] * self._images() if latent_only else [_png(picture) for picture in _pictures(result)]
        factor = getattr(self.backbone.pipe, "vae_scale_factor", 1)
        self._finish(pictures, (self.run.latent[0] * factor, self.run.latent[1] * factor))

    def _on_denoiser(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        evaluation = self.backbone.evaluation(arguments, self.run.request)
        run, last = self.run, self.run.calls[-1] if self.run.calls else None
        if last is None:
            self._begin(evaluation)
        run.evaluation = evaluation
        if last is not None and last.timestep == evaluation.timestep and not run.halves_seen & set(evaluation.halves):
            run.halves_seen |= set(evaluation.halves)  # the other half of the same call, as FLUX makes it
            return
        run.halves_seen = set(evaluation.halves)
        same_step = last is not None and last.timestep == evaluation.timestep
        step = 0 if last is None else last.step + (0 if same_step else 1)
        sigma = _sigma(self.backbone.pipe.scheduler, evaluation.timestep)
        call = Call(len(run.calls), step, evaluation.timestep, sigma)
        run.calls.append(call)
        run.keeping = self.choice.steps is None or step in self.choice.steps
        if run.keeping:
            run.kept.append(call)

    def _begin(self, evaluation: Evaluation) -> None:
        """Make the plan, let the recorder accept or refuse it, and only then watch the blocks."""
        run, specs = self.run, self.backbone.blocks()
        run.latent = evaluation.latent
        grids = self.backbone.grids(evaluation.latent)
        if self.choice.blocks is None:
            names = tuple(name for name, spec in specs.items() if spec.default)
        else:
            names = choose_blocks(grids, self.choice.blocks)
        run.plan = Plan(
            blocks={name: specs[name] for name in names},
            grids={name: grids[name] for name in names},
            halves=self._halves(evaluation),
            images=self._images(evaluation),
            calls=self._expected_calls(evaluation),
        )
        self.recorder.begin(run.plan)
        for handle in self.backbone.watch(names, self._on_block):
            self._watchers.callback(handle.remove)

    def _halves(self, evaluation: Evaluation) -> tuple[Half, ...]:
        guided = (self.run.request is not None and self.run.request.guided) or len(evaluation.halves) > 1
        there: tuple[Half, ...] = ("cond", "uncond") if guided else ("cond",)
        missing = [half for half in self.choice.halves if half not in there]
        if missing:
            raise NothingCapturedError(
                f"guidance={'both' if len(self.choice.halves) == 2 else missing[0]!r} asks for unconditional queries, "
                "but this run has no guidance: expected a guidance scale above 1; raise it, or capture with "
                "guidance='cond'"
            )
        return self.choice.halves

    def _images(self, evaluation: Evaluation | None = None) -> int:
        if self.run.plan is not None:
            return self.run.plan.images
        assert evaluation is not None
        positions = next(iter(evaluation.halves.values()))
        return positions.stop - positions.start

    def _expected_calls(self, evaluation: Evaluation) -> int:
        """How many calls will be kept, from the scheduler's time steps that still lie ahead.

        Raises:
            MissingStepError: a chosen step lies beyond the run's last.
        """
        if self.run.planned_calls is not None:
            return self.run.planned_calls
        timesteps = [float(t) for t in getattr(self.backbone.pipe.scheduler, "timesteps", ())]
        if evaluation.timestep not in timesteps:
            return 1
        ahead = timesteps[timesteps.index(evaluation.timestep) :]
        steps, step = [0], 0
        for before, after in itertools.pairwise(ahead):
            step += before != after
            steps.append(step)
        if self.choice.steps is None:
            return len(steps)
        beyond = sorted(self.choice.steps - set(steps))
        if beyond or not self.choice.steps:
            raise MissingStepError(
                f"step {beyond} will not be reached: this run has the steps 0 to {step}; "
                "choose among them, or raise num_inference_steps"
            )
        return sum(step in self.choice.steps for step in steps)

    def _on_block(self, name: str, observation: Observation) -> None:
        run = self.run
        if not run.keeping or run.plan is None or run.evaluation is None:
            return
        for half, positions in run.evaluation.halves.items():
            if half in run.plan.halves:
                for image, query in enumerate(observation.query[positions]):
                    self.recorder.observe(name, half, image, len(run.kept) - 1, query)

    def _finish(self, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        run = self.run
        self._drop()
        self.recorder.finish(run, pictures, size)

    def _drop(self) -> None:
        self._unwatch()
        self.run = Run()

    def _unwatch(self) -> None:
        self._watchers.close()


@contextmanager
def _wrapped(owner: Any, name: str, after: Callable[[Mapping[str, Any], Any], None]) -> Iterator[None]:
    """Call `after(arguments by name, result)` behind a method of one object, by an attribute of that object."""
    original, attributes = getattr(owner, name), vars(owner)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        after(signature.bind(*args, **kwargs).arguments, result)
        return result

    had_own = name in attributes
    attributes[name] = wrapper
    try:
        yield
    finally:
        if had_own:
            attributes[name] = original
        else:
            del attributes[name]


def _sigma(scheduler: Any, timestep: float) -> float | None:
    """Noise over signal at a time step of a variance-preserving schedule, sqrt((1 - a) / a)."""
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or not 0 <= round(timestep) < len(alphas):
        return None
    signal = float(alphas[round(timestep)])
    return ((1 - signal) / signal) ** 0.5


def _pictures(result: Any) -> list[Image.Image]:
    """Pictures as a pipeline returns them, PIL, (image, height, width, 3) or (image, 3, height, width) in [0, 1]."""
    if isinstance(result, list):
        return result
    array = result.detach().float().cpu().permute(0, 2, 3, 1).numpy() if isinstance(result, torch.Tensor) else result
    return [Image.fromarray((picture * 255).round().astype("uint8")) for picture in array]


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "PNG", compress_level=1)  # 10 times as fast as level 6, 10 % larger
    return stream.getvalue()
