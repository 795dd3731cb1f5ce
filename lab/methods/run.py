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
class Asked:
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


def run(asked: Asked) -> None:
    """Train a method and write its weights; says what it does."""
    check_writable(asked.output, FORMAT)
    pipe = load(asked.model)
    pipe.set_progress_bar_config(disable=True)
    size = asked.size or native_side(pipe) * pipe.vae_scale_factor
    learnt = samples(pipe, asked.work_dir, asked.count, source=asked.pictures, size=size, classes=asked.seen)
    learner, first = _learner(asked, learnt[0], pipe)
    schedule = asked.schedule
    _say(asked, learner, schedule, size)
    train_with_bar(learner, learnt, schedule, _checkpoint(asked, learner, schedule, size))
    told = {"pictures": asked.pictures, "count": asked.count, "size": size, "model": first.source.model}
    told |= {"seen": asked.seen, "unseen": asked.unseen, **asdict(schedule), **_variant(asked)}
    if asked.validation:
        judged = samples(pipe, asked.work_dir, asked.validation, source=asked.pictures, size=size, split="validation")
        told["iou"] = _judged(asked, learner, judged)
    trained = Trained(asked.method, learner.outline, learner.halves, _tokens(first), learner.module.state_dict(), told)
    save_weights(trained, asked.output)
    print(f"wrote {asked.output}")


def _learner(asked: Asked, sample: Sample, pipe: Any) -> tuple[Learner, Trace]:
    """Return the learner with a new module, and a trace of the model."""
    trace = Trace.load(sample.file, pipe)
    outline = outline_of(trace)
    torch.manual_seed(asked.seed)
    module = module_for(asked.method, outline, trace.halves, _tokens(trace))
    common = (trace.text, outline, trace.halves, module, asked.seen)
    if asked.method == "grounded":
        return GroundedLearner(*common, top_instance=asked.top_instance), trace
    return DatasetDMLearner(*common, as_released=asked.as_released), trace


def _tokens(trace: Trace) -> int:
    return len(trace.text.embed("thing", padded=True).vectors)


def _variant(asked: Asked) -> dict[str, bool]:
    return {"top_instance": asked.top_instance} if asked.method == "grounded" else {"as_released": asked.as_released}


def _checkpoint(asked: Asked, learner: Learner, schedule: Schedule, size: int) -> Path:
    about = [asked.method, _unet(learner.outline), asdict(schedule), size, asked.pictures, asked.count, asked.seen]
    return asked.work_dir / f"{asked.method}-{digest([*about, _variant(asked)])}.checkpoint.safetensors"


def _unet(outline: Outline) -> list[Any]:
    return [dict(outline.channels), dict(outline.projections)]


def _say(asked: Asked, learner: Learner, schedule: Schedule, size: int) -> None:
    numbers = sum(parameter.numel() for parameter in learner.module.parameters())
    variant = ", ".join(name.replace("_", " ") for name, value in _variant(asked).items() if value)
    print(
        f"{asked.method}{f' ({variant})' if variant else ''} on {asked.model}: {numbers / 1e6:.2f} million weights, "
        f"features of {' and '.join(learner.halves)}\n"
        f"{asked.count} {asked.pictures} of {size} x {size} pixels; seen: {', '.join(asked.seen)}; "
        f"not seen: {', '.join(asked.unseen) or 'none'}\n"
        f"{schedule.iterations} iterations of Adam at {schedule.rate:g}, one picture each, no augmentation "
        f"(published: {PUBLISHED[asked.method]})"
    )


def train_with_bar(learner: Learner, learnt: list[Sample], schedule: Schedule, checkpoint: Path) -> None:
    """Train with a progress bar that shows the loss, a moving mean."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("loss {task.fields[loss]:.4f}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        shown, task = float("nan"), bar.add_task("training", total=schedule.iterations, loss=float("nan"))

        def tell(iteration: int, loss: float) -> None:
            nonlocal shown
            shown = loss if shown != shown else 0.98 * shown + 0.02 * loss
            bar.update(task, completed=iteration, loss=shown)

        train(learner, learnt, schedule, checkpoint, tell)
    if shown == shown:
        print(f"loss at the end {shown:.4f}, a moving mean of about 50 steps")


def _judged(asked: Asked, learner: Learner, judged: list[Sample]) -> dict[str, float]:
    """Measure on pictures that were not learnt from, each asked for its true classes, and print means."""
    found = measured(learner, judged, [*asked.seen, *asked.unseen])
    for what, names in (("seen", asked.seen), ("not seen", asked.unseen)):
        values = [found[name] for name in names if name in found]
        if values:
            shown = f"{len(values)} classes {what}, {len(judged)} validation {asked.pictures}, list given"
            print(f"mean IoU of {shown}: {mean(values):.3f}")
    return {name: round(value, 4) for name, value in found.items()}
