"""What one fit of one class reaches on scenes that it never saw: counts of pixels, from which every figure is made."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lab.fits.methods import Method
from lab.fits.scenes import Scored, counted_in, mask_of, slices_of
from lab.fits.traces import Traces
from lab.rivals.harness import Fitted
from ovam.evaluate import average_precision
from ovam.mini.scenes import Scene

BORDER = 0.5
OWN_SCENES = 4
"""Scored scenes of each class to which the bound of the mask itself is fitted, each by itself."""


@dataclass(frozen=True)
class Row:
    """One scored scene.

    Attributes:
        seed: Of the scene.
        both: Pixels both in the mask and in the truth.
        either: Pixels in the mask or in the truth.
        precision: Average precision of the scores.
        slices: Slices that it belongs to.
    """

    seed: int
    both: int
    either: int
    precision: float
    slices: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """A method's fit of one class to one draw of annotations.

    Attributes:
        rows: Of the scored scenes.
        own: Pixels in both and in either, on the scenes of the annotations.
        elsewhere: Share of pixels above the border on scenes without the class; None where that was not asked.
        seconds: That the fit took; of several fits the mean.
    """

    rows: tuple[Row, ...]
    own: tuple[int, int]
    elsewhere: float | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Outcome":
        rows = tuple(Row(**{**row, "slices": tuple(row["slices"])}) for row in found["rows"])
        return Outcome(rows, tuple(found["own"]), found["elsewhere"], found["seconds"])


@dataclass(frozen=True)
class Task:
    """What is to be done for one class and one draw.

    Attributes:
        name: The class.
        annotated: Scenes of the annotations.
        scored: Scenes, or generated pictures, with the class.
        without: Those without it.
    """

    name: str
    annotated: Sequence[Scene]
    scored: Sequence[Scored]
    without: Sequence[Scored]


def reach(method: Method, task: Task, traces: Traces) -> Outcome:
    """Fit and score."""
    if method.taken == "own":
        return _on_own_masks(method, task, traces)
    fitted, seconds = _timed_fit(method, task.annotated, task.name, traces)
    rows = tuple(row_of(fitted(traces(scene)), scene, task.name) for scene in task.scored)
    own = [row_of(fitted(traces(scene)), scene, task.name) for scene in task.annotated]
    elsewhere = [float((fitted(traces(scene)) > BORDER).mean()) for scene in task.without]
    return Outcome(rows, pooled(own), float(np.mean(elsewhere)) if elsewhere else None, seconds)


def _on_own_masks(method: Method, task: Task, traces: Traces) -> Outcome:
    rows, times = [], []
    for scene in task.scored[:OWN_SCENES]:
        fitted, seconds = _timed_fit(method, [scene], task.name, traces)
        rows.append(row_of(fitted(traces(scene)), scene, task.name))
        times.append(seconds)
    return Outcome(tuple(rows), pooled(rows), None, float(np.mean(times)))


def _timed_fit(method: Method, scenes: Sequence[Scored], name: str, traces: Traces) -> tuple[Fitted, float]:
    seen = [(scene, view) for scene in scenes for view in method.views]
    shown, masks = [traces(*each) for each in seen], [view.of(mask_of(scene, name)) for scene, view in seen]
    begin = time.perf_counter()
    fitted = method.fit(shown, masks, name)
    return fitted, time.perf_counter() - begin


def row_of(scores: np.ndarray, scene: Scored, name: str) -> Row:
    """Scores (height, width) with the border at 0.5, against a class's mask, where it is known."""
    counted = counted_in(scene)
    truth, scores = mask_of(scene, name)[counted], scores[counted]
    found = scores > BORDER
    both, either = int((found & truth).sum()), int((found | truth).sum())
    return Row(scene.seed, both, either, average_precision(truth, scores), slices_of(scene, name))


def pooled(rows: Iterable[Row]) -> tuple[int, int]:
    """Pixels in both and in either, of all rows."""
    counts = [(row.both, row.either) for row in rows]
    return sum(both for both, _ in counts), sum(either for _, either in counts)
