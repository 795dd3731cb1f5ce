"""One training run, from pictures to a file of weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lab.digest import digest
from lab.methods.learners import DatasetDMLearner, GroundedLearner, Learner
from lab.methods.samples import Sample, Source, samples
from lab.methods.training import Schedule, measured, train
from ovam.errors import OptionError
from ovam.methods.trained_file import FORMAT, Trained, module_for, save_weights
from ovam.methods.unet_read import Outline, outline_of
from ovam.models import MINI, load
from ovam.tensor_file import check_writable
from ovam.trace.trace import Trace
from ovam.tracing.plan import native_side

FEWEST: Mapping[str, Schedule] = {
    "grounded": Schedule(iterations=3000, rate=3e-4),
    "datasetdm": Schedule(iterations=3000, rate=3e-4, late=0.7),
}
"""Schedules that a small UNet can be trained with in minutes."""
PUBLISHED: Mapping[str, str] = {
    "grounded": "up to 500,000 iterations of Adam at 1e-5, a new picture in each",
    "datasetdm": "up to 5,000 epochs of Adam at 1e-4, a tenth after each 350, random scale 0.5 to 3 and a crop",
}
"""What the authors do instead."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a training run; see `python -m lab.methods train --help`."""

    method: str
    output: Path
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    model: str = MINI
    size: int | None = None
    pictures: Source = "scenes"
    count: int = 300
    iterations: int | None = None
    rate: float | None = None
    seed: int = 0
    top_instance: bool = False
    as_released: bool = False
    validation: int = 50
    work_dir: Path = Path("runs/methods")

    def __post_init__(self) -> None:
        if self.top_instance and self.method != "grounded":
            raise OptionError("--top-instance with datasetdm, whose target is all of a class: expected grounded")
        if self.as_released and self.method != "datasetdm":
            raise OptionError("--as-released with grounded, whose released code is told the true class: use datasetdm")
        if self.pictures == "generated" and self.model != MINI:
            raise OptionError(
                f"--pictures generated with --model {self.model}: the oracles judge mini's own pictures alone; "
                "expected --pictures scenes for another model"
            )

    @property
    def schedule(self) -> Schedule:
        """The schedule, with what was asked for in the place of its own numbers."""
        usual = FEWEST[self.method]
        iterations, rate = self.iterations or usual.iterations, self.rate or usual.rate
        return Schedule(iterations, rate, usual.late, self.seed)


def run(options: TrainingOptions) -> None:
    """Train a method and write its weights; says what it does."""
    check_writable(options.output, FORMAT)
    pipe = load(options.model)
    pipe.set_progress_bar_config(disable=True)
    size = options.size or native_side(pipe) * pipe.vae_scale_factor
    learnt = samples(pipe, options.work_dir, options.count, source=options.pictures, size=size, classes=options.seen)
    learner, first = _learner(options, learnt[0], pipe)
    schedule = options.schedule
    _say(options, learner, schedule, size)
    train_with_bar(learner, learnt, schedule, _checkpoint(options, learner, schedule, size))
    facts = {"pictures": options.pictures, "count": options.count, "size": size, "model": first.source.model}
    facts |= {"seen": options.seen, "unseen": options.unseen, **asdict(schedule), **_variant(options)}
    if options.validation:
        judged = samples(
            pipe, options.work_dir, options.validation, source=options.pictures, size=size, split="validation"
        )
        facts["iou"] = _judged(options, learner, judged)
    trained = Trained(
        options.method, learner.outline, learner.halves, _tokens(first), learner.module.state_dict(), facts
    )
    save_weights(trained, options.output)
    print(f"wrote {options.output}")


def _learner(options: TrainingOptions, sample: Sample, pipe: Any) -> tuple[Learner, Trace]:
    """Return the learner with a new module, and a trace of the model."""
    trace = Trace.load(sample.file, pipe)
    outline = outline_of(trace)
    torch.manual_seed(options.seed)
    module = module_for(options.method, outline, trace.halves, _tokens(trace))
    common = (trace.text, outline, trace.halves, module, options.seen)
    if options.method == "grounded":
        return GroundedLearner(*common, top_instance=options.top_instance), trace
    return DatasetDMLearner(*common, as_released=options.as_released), trace


def _tokens(trace: Trace) -> int:
    return len(trace.text.embed("thing", padded=True).vectors)


def _variant(options: TrainingOptions) -> dict[str, bool]:
    return (
        {"top_instance": options.top_instance} if options.method == "grounded" else {"as_released": options.as_released}
    )


def _checkpoint(options: TrainingOptions, learner: Learner, schedule: Schedule, size: int) -> Path:
    about = [
        options.method,
        _unet(learner.outline),
        asdict(schedule),
        size,
        options.pictures,
        options.count,
        options.seen,
    ]
    return options.work_dir / f"{options.method}-{digest([*about, _variant(options)])}.checkpoint.safetensors"


def _unet(outline: Outline) -> list[Any]:
    return [dict(outline.channels), dict(outline.projections)]


def _say(options: TrainingOptions, learner: Learner, schedule: Schedule, size: int) -> None:
    numbers = sum(parameter.numel() for parameter in learner.module.parameters())
    variant = ", ".join(name.replace("_", " ") for name, value in _variant(options).items() if value)
    print(
        f"{options.method}{f' ({variant})' if variant else ''} on {options.model}: {numbers / 1e6:.2f} million "
        f"weights, features of {' and '.join(learner.halves)}\n"
        f"{options.count} {options.pictures} of {size} x {size} pixels; seen: {', '.join(options.seen)}; "
        f"not seen: {', '.join(options.unseen) or 'none'}\n"
        f"{schedule.iterations} iterations of Adam at {schedule.rate:g}, one picture each, no augmentation "
        f"(published: {PUBLISHED[options.method]})"
    )


def train_with_bar(learner: Learner, learnt: list[Sample], schedule: Schedule, checkpoint: Path) -> None:
    """Train with a progress bar that shows the loss, a moving mean."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("loss {task.fields[loss]:.4f}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        shown, task = float("nan"), bar.add_task("training", total=schedule.iterations, loss=float("nan"))

        def update(iteration: int, loss: float) -> None:
            nonlocal shown
            shown = loss if shown != shown else 0.98 * shown + 0.02 * loss
            bar.update(task, completed=iteration, loss=shown)

        train(learner, learnt, schedule, checkpoint, update)
    if shown == shown:
        print(f"loss at the end {shown:.4f}, a moving mean of about 50 steps")


def _judged(options: TrainingOptions, learner: Learner, judged: list[Sample]) -> dict[str, float]:
    """Measure on pictures that were not learnt from, each asked for its true classes, and print means."""
    found = measured(learner, judged, [*options.seen, *options.unseen])
    for what, names in (("seen", options.seen), ("not seen", options.unseen)):
        values = [found[name] for name in names if name in found]
        if values:
            shown = f"{len(values)} classes {what}, {len(judged)} validation {options.pictures}, list given"
            print(f"mean IoU of {shown}: {mean(values):.3f}")
    return {name: round(value, 4) for name, value in found.items()}
