"""What the rivals need chosen: on validation scenes, the ten development classes and one draw of annotations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.progress import track

from lab.fits.digest import code
from lab.fits.methods import SLIME_TUNED, TUNED, WORD
from lab.fits.outcome import Task
from lab.fits.plan import SCENES, Plan
from lab.fits.scenes import mask_of
from lab.fits.traces import Traces
from lab.mini.measures.choices import DEVELOPMENT
from lab.rivals import authors, slime, words
from lab.rivals.harness import Fitted
from ovam.mini.scenes import WORLD

THRESHOLDS = np.linspace(0.05, 0.95, 37)
RATES = (0.1, 1.0, 10.0, 100.0, 1000.0)
ITERATIONS = (3, 10, 30, 100, 300, 800)
SLIME_RATES, SLIME_ITERATIONS = (0.001, 0.003, 0.01, 0.03, 0.1), (3, 10, 30, 50, 100, 200)
WIDER = 10.0
"""The next rate beyond those tried, over the last: taken as long as the best of all rates is the least or the
greatest."""

Counts = np.ndarray
"""Pixels in both and in either at each threshold: (threshold, 2)."""


def tune(
    traces: Traces,
    *,
    classes: Sequence[str] = DEVELOPMENT,
    count: int = SCENES,
    rates: Sequence[float] = RATES,
    iterations: Sequence[int] = ITERATIONS,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The word's threshold, and the settings of both rivals without their defects, with all that was tried.

    SLiMe, which needs self-attention, is left out where the traces have none.

    Args:
        traces: Of the model that is measured.
        classes: On which it is chosen.
        count: Number of validation scenes.
        rates: Of the authors' descent, the first that are tried; without any the word's threshold alone is chosen.
        iterations: One descent goes as far as the greatest; what it is at the others is what shorter ones give.
        known: What an earlier call found; rates that it tried on the same basis are not tried again.
    """
    plan = Plan("validation", (), classes, draws=1, count=count)
    every = [plan.task_of(name, plan.annotated[name][:1]) for name in classes]
    tasks = [task for task in every if task.scored]
    word = words.Settings(threshold=0.5)
    of_word = [counts_of(words.fitted(task.name, word), task, traces) for task in track(tasks, "word")]
    threshold, reached = best_threshold(of_word)
    descents = {TUNED: _Descent(authors, _of_authors, iterations, rates)}
    if rates and traces.self_attention:
        descents[SLIME_TUNED] = _Descent(slime, _of_slime, SLIME_ITERATIONS, SLIME_RATES)
    basis = {"encoded": traces.encoded, "world": WORLD, "code": code(), "classes": list(classes), "scenes": count}
    basis |= {"iterations": {name: list(descent.iterations) for name, descent in descents.items()}}
    same = known is not None and known.get("model") == traces.model and known.get("basis") == basis
    before = known["tried"] if known is not None and same else {}
    tried = {name: _searched(each, tasks, traces, before.get(name, ())) for name, each in descents.items()}
    best = {name: _best(rows) for name, rows in tried.items() if rows}
    return {
        WORD: {"threshold": threshold},
        **{
            name: asdict(descents[name].settings(row["rate"], row["iterations"], row["threshold"]))
            for name, row in best.items()
        },
        "model": traces.model,
        "basis": basis,
        "word, mIoU": reached,
        "tried": tried,
    }


@dataclass(frozen=True)
class _Descent:
    """A rival, its settings by rate, iterations and threshold, and what of them is tried."""

    rival: Any
    settings: Callable[[float, int, float], Any]
    iterations: Sequence[int]
    rates: Sequence[float]


def _of_authors(rate: float, iterations: int, threshold: float) -> authors.Settings:
    """The protocol with every defect turned off."""
    return authors.Settings(
        rate=rate,
        iterations=iterations,
        every=authors.SCRIPT.every,
        keep="best",
        scale="mean",
        loss="shares",
        queries="cond",
        threshold=threshold,
    )


def _of_slime(rate: float, iterations: int, threshold: float) -> slime.Settings:
    return slime.Settings(rate=rate, iterations=iterations, threshold=threshold)


def _searched(
    descent: _Descent, tasks: Sequence[Task], traces: Traces, before: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What all rates reach, with as many beyond the first as it takes for the best to lie between others."""
    rows = list(before)
    rates = [rate for rate in descent.rates if rate not in {row["rate"] for row in rows}]
    while rates:
        rows += [row for rate in rates for row in _tried(descent, rate, tasks, traces)]
        rates = beyond(rows)
    return rows


def beyond(rows: Sequence[dict[str, Any]]) -> list[float]:
    """The rate to try next: none where the best of those tried lies between others."""
    rates, best = sorted({row["rate"] for row in rows}), _best(rows)["rate"]
    if best == rates[0]:
        return [rates[0] / WIDER]
    return [rates[-1] * WIDER] if best == rates[-1] else []


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of equal ones that which was tried first, so that a search of ever smaller steps comes to an end."""
    return max(rows, key=lambda row: row["mIoU"])


def _tried(descent: _Descent, rate: float, tasks: Sequence[Task], traces: Traces) -> list[dict[str, Any]]:
    rival, iterations = descent.rival, descent.iterations
    settings = descent.settings(rate, max(iterations), 0.5)
    found: dict[int, list[Counts]] = {number: [] for number in iterations}
    for task in track(tasks, f"{rival.__name__} at a rate of {rate:g}"):
        kept: dict[int, Any] = {}

        def watch(iteration: int, seconds: float, vectors: Any, kept: dict[int, Any] = kept) -> None:
            if iteration in iterations:
                kept[iteration] = vectors

        shown, masks = traces(task.annotated[0]), mask_of(task.annotated[0], task.name)
        rival.fit([shown], [masks], task.name, settings, watch)
        for number, vectors in kept.items():
            found[number].append(counts_of(rival.fitted(vectors, settings), task, traces))
    rows = ((number, *best_threshold(counts)) for number, counts in found.items())
    return [
        {"rate": rate, "iterations": number, "threshold": threshold, "mIoU": reached}
        for number, threshold, reached in rows
    ]


def counts_of(fitted: Fitted, task: Task, traces: Traces) -> Counts:
    """Summed over a class's scored scenes."""
    return np.sum([counts_at(fitted(traces(scene)), mask_of(scene, task.name)) for scene in task.scored], axis=0)


def counts_at(scores: np.ndarray, truth: np.ndarray, thresholds: Iterable[float] = THRESHOLDS) -> Counts:
    masks = ((scores > threshold) for threshold in thresholds)
    return np.array([((mask & truth).sum(), (mask | truth).sum()) for mask in masks])


def best_threshold(of_classes: Sequence[Counts]) -> tuple[float, float]:
    """The threshold, one for all classes, with the greatest mean of their pooled IoU, and that mean."""
    reached = np.mean([counts[:, 0] / counts[:, 1] for counts in of_classes], axis=0)
    best = int(np.argmax(reached))
    return float(THRESHOLDS[best]), float(reached[best])
