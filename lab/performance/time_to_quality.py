"""How soon a fit is as good as what the authors' protocol ends with, on mini and at Stable Diffusion 1.5's size.

This library's fit is run anew with a few numbers of `evaluations`, so that every time is that of a call which a user
could make; the rivals are timed to their ends. Scoring is outside the clock.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.fits.methods import PUBLISHED, TUNED, Method, variant
from lab.fits.opened import CHOSEN, open_mini, read_chosen
from lab.fits.outcome import Task, pooled, reach
from lab.fits.plan import SCENES, Plan
from lab.gain import ladder
from lab.measure import ratio
from lab.performance.options import Options
from lab.performance.ours import Subject
from lab.performance.queries import make_blocks
from lab.rivals import authors
from ovam.maps.calibration import stretched
from ovam.masks.annotations import annotation_of
from ovam.mini.scenes import CLASSES
from ovam.tokens.class_maps import class_maps
from ovam.tokens.loss import Target
from ovam.tokens.objective import Objective, target_on
from ovam.tokens.optimize import optimize_tokens
from ovam.tokens.options import AGAINST, EVALUATIONS, PULL
from ovam.trace.trace import Trace

GIVEN = (2, 3, 5, 8, 12, EVALUATIONS, 2 * EVALUATIONS)
"""Values of `evaluations`; the first is of the start."""

CALLS, RATES, TUNING_SEED = 1, (1.0, 10.0, 100.0, 1e3, 1e4, 1e5), 1000
WORD = "thing"
WORK_DIR = Path("runs/fits")
USUAL, ONE_ROW = "as by default", "one row each"
SERIES: dict[str, dict[str, Any]] = {USUAL: {}, ONE_ROW: {"rows": 1, "against": []}}
"""Options of fits: those that a user has, and as many vectors as the rivals fit, one of the class and one of the
background."""

START = "nothing fitted"
"""Beside them where a fit begins, with nothing fitted: shown, so that nobody takes it for the fit's work."""
PULLED = f"`evaluations={EVALUATIONS}` with the default pull"
"""At full size fits have no pull: it holds steps back for other images' sake, and random queries have none."""

QUICK_ITERATIONS, QUICK_GIVEN = 30, (2, 5, EVALUATIONS)

Better = Literal["higher", "lower"]
Rivals = Mapping[str, authors.Settings]
P = TypeVar("P")


@dataclass(frozen=True)
class Reached:
    """What one contender did on one problem.

    Attributes:
        seconds: Until it was done.
        quality: IoU or loss.
    """

    seconds: float
    quality: float


def run(options: Options) -> dict[str, Any]:
    """Both sizes."""
    tuned = authors.Settings(**json.loads(CHOSEN.read_text())[TUNED])
    published = replace(authors.PUBLISHED, iterations=QUICK_ITERATIONS) if options.quick else authors.PUBLISHED
    rivals = {TUNED: tuned, PUBLISHED: published}
    given = QUICK_GIVEN if options.quick else GIVEN
    problems = {"mini": on_mini(rivals, given, options), "full_size": at_full_size(rivals, given, options)}
    return {
        "model": f"mini: {problems['mini']['weights']}; full size: synthetic queries of SD 1.5 size",
        "seed": TUNING_SEED,
        "problems": problems,
    }


def on_mini(rivals: Rivals, given: Sequence[int], options: Options) -> dict[str, Any]:
    """Mean IoU on validation scenes of a fit to one annotation: one of every class, which are the pairs."""
    traces, _ = open_mini(WORK_DIR)
    chosen = read_chosen(CHOSEN, traces)
    classes, count = (CLASSES[6:9], 20) if options.quick else (CLASSES, SCENES)
    plan = Plan("validation", (), classes, draws=1, count=count)
    tasks = [replace(plan.task_of(name, plan.annotated[name]), without=()) for name in classes]
    methods = {START: next(rung for rung in ladder.rungs(chosen, 0.5) if rung.name == ladder.START)}
    methods |= {name: variant(options) for name, options in _fits(given).items()}
    for name, settings in rivals.items():
        methods[name] = Method(name, partial(authors.fit, settings=settings), asdict(settings))

    def reached(task: Task, method: Method) -> Reached:
        outcome = reach(method, task, traces)
        both, either = pooled(outcome.rows)
        return Reached(outcome.seconds, both / either)

    contenders = {name: partial(reached, method=method) for name, method in methods.items()}
    return {
        **compare([task for task in tasks if task.scored], contenders, rivals, "higher"),
        "weights": traces.model,
        "encoded": traces.encoded,
        "scenes": count,
        "settings": {name: asdict(settings) for name, settings in rivals.items()},
    }


def at_full_size(rivals: Rivals, given: Sequence[int], options: Options) -> dict[str, Any]:
    """A loss that both share, of a fit to a disc on random queries; every pair has queries of its own."""
    calls, rates = (1, RATES[:2]) if options.quick else (CALLS, RATES)
    tried = tried_rates(Drawn.of(TUNING_SEED, calls), rivals[TUNED], rates)
    best = min(tried, key=lambda each: each["loss"])["rate"]
    settings = {**rivals, TUNED: replace(rivals[TUNED], rate=best)}
    contenders: dict[str, Callable[[Drawn], Reached]] = {START: start_ours}
    contenders |= {name: partial(fit_ours, options={**own, "pull": 0.0}) for name, own in _fits(given).items()}
    contenders[PULLED] = partial(fit_ours, options={"evaluations": EVALUATIONS, "pull": PULL})
    contenders |= {name: partial(fit_rival, settings=each) for name, each in settings.items()}
    return {
        **compare(range(options.pairs), _drawing(contenders, calls), rivals, "lower"),
        "calls": calls,
        "settings": {name: asdict(each) for name, each in settings.items()},
        "tried": tried,
    }


def compare(
    problems: Sequence[P], contenders: Mapping[str, Callable[[P], Reached]], rivals: Collection[str], better: Better
) -> dict[str, Any]:
    """Every contender on every problem, in turns, after a round of this library's that is not counted.

    Args:
        problems: The pairs.
        contenders: By name: those of `_fits`, rivals, and others that are only shown.
        rivals: Names of those whose quality is to be reached.
        better: Which quality is.

    Returns:
        For each fit and each rival the seconds of every problem and the mean quality; for each rival and series of
        fits the least number of evaluations from which on this library's mean quality is as good, and how much sooner
        that is, pair by pair.
    """
    for name in contenders:
        if name not in rivals:
            contenders[name](problems[0])
    reached: dict[str, list[Reached]] = {name: [] for name in contenders}
    for number, problem in enumerate(problems):
        for name in contenders if number % 2 == 0 else reversed(list(contenders)):
            reached[name].append(contenders[name](problem))
    found = {
        name: {
            "seconds": [each.seconds for each in every],
            "quality": float(np.mean([each.quality for each in every])),
        }
        for name, every in reached.items()
    }
    ours = {name: each for name, each in found.items() if name not in rivals}
    ends = {name: {**found[name], "reached": _reached(ours, found[name], better)} for name in rivals}
    return {"better": better, "ours": ours, "rivals": ends}


def _reached(ours: Mapping[str, Any], rival: Mapping[str, Any], better: Better) -> dict[str, Any]:
    """For each series of fits with which of them a rival's end is reached, and how much sooner; None where it isn't."""
    reached: dict[str, Any] = {}
    for series in SERIES:
        qualities = {name: ours[name]["quality"] for name in _fits(GIVEN, series) if name in ours}
        name = first_as_good(qualities, rival["quality"], better)
        reached[series] = name and {"with": name, "sooner": asdict(ratio(rival["seconds"], ours[name]["seconds"]))}
    return reached


def _fits(given: Sequence[int], *series: str) -> dict[str, dict[str, Any]]:
    """Options of fits by their names in the tables, of all series unless some are named."""
    found = {}
    for options in (SERIES[each] for each in series or SERIES):
        for number in given:
            every = {"evaluations": number, **options}
            found["`" + ", ".join(f"{name}={value}" for name, value in every.items()) + "`"] = every
    return found


def first_as_good(qualities: Mapping[str, float], target: float, better: Better) -> str | None:
    """The first of some numbers of evaluations from which on the target is met; None where the last misses it."""
    first = None
    for name, quality in qualities.items():
        good = quality >= target if better == "higher" else quality <= target
        first = (first or name) if good else None
    return first


@dataclass(frozen=True, eq=False)
class Drawn:
    """A problem at full size.

    Attributes:
        trace: Random queries.
        mask: A disc, bool, at the image's size.
        target: The same on the lattice of a fit's loss.
    """

    trace: Trace
    mask: np.ndarray
    target: Target

    @staticmethod
    def of(seed: int, calls: int) -> "Drawn":
        trace = Subject(make_blocks(seed, calls), torch.float32).trace
        rows = (np.arange(trace.size[0]) - trace.size[0] / 2) ** 2
        mask = rows[:, None] + rows < trace.size[0] ** 2 / 30
        return Drawn(trace, mask, target_on(trace, annotation_of({WORD: mask}, trace.size), (WORD,)))


def _drawing(contenders: Mapping[str, Callable[[Drawn], Reached]], calls: int) -> dict[str, Callable[[int], Reached]]:
    """Contenders by seed; one problem is held at a time."""
    held: dict[int, Drawn] = {}

    def drawn(seed: int) -> Drawn:
        if seed not in held:
            held.clear()
            held[seed] = Drawn.of(seed, calls)
        return held[seed]

    def by_seed(contender: Callable[[Drawn], Reached]) -> Callable[[int], Reached]:
        return lambda seed: contender(drawn(seed))

    return {name: by_seed(contender) for name, contender in contenders.items()}


def start_ours(drawn: Drawn) -> Reached:
    """Where a fit begins."""
    begin = time.perf_counter()
    objective = Objective([drawn.trace], [], (WORD,), against=AGAINST)
    seconds = time.perf_counter() - begin
    return Reached(seconds, common_loss(drawn, objective.start, objective.rows))


def fit_ours(drawn: Drawn, options: Mapping[str, Any]) -> Reached:
    """`optimize_tokens` with such options."""
    begin = time.perf_counter()
    tokens = optimize_tokens(drawn.trace, {WORD: drawn.mask}, **options)
    seconds = time.perf_counter() - begin
    (group,) = tokens.groups
    return Reached(seconds, common_loss(drawn, group.vectors, group.rows.count(WORD)))


def fit_rival(drawn: Drawn, settings: authors.Settings) -> Reached:
    """The authors' protocol to its end."""
    kept: list[Tensor] = []

    def watch(iteration: int, seconds: float, vectors: Tensor) -> None:
        kept[:] = [vectors]

    begin = time.perf_counter()
    authors.fit([drawn.trace], [drawn.mask], WORD, settings, watch)
    seconds = time.perf_counter() - begin
    return Reached(seconds, common_loss(drawn, kept[0], 1))


def tried_rates(drawn: Drawn, settings: authors.Settings, rates: Sequence[float]) -> list[dict[str, float]]:
    """What the protocol as it was re-tuned for mini ends with at other rates."""
    return [{"rate": rate, "loss": fit_rival(drawn, replace(settings, rate=rate)).quality} for rate in rates]


def common_loss(drawn: Drawn, vectors: Tensor, rows: int) -> float:
    """What both fits are judged by: the mask's cross entropy given the class's map.

    Neither fit's own: the map of the class, whose rows are the last, is stretched, and the scale and offset that are
    best for it make it a probability, as a fit of ours ends with but the rival has not. The map of a fit that ran
    away counts as empty.
    """
    with torch.no_grad():
        class_map = class_maps(drawn.trace, vectors)[-rows:].sum(0)
    return least_cross_entropy(class_map.nan_to_num(), drawn.target)


def least_cross_entropy(class_map: Tensor, target: Target) -> float:
    """Mean cross entropy of a target of one class under the best scale and offset of a map (height, width)."""
    fine = F.interpolate(stretched(class_map)[None, None], size=target.weight.shape, mode="bilinear")[0, 0]
    calibration = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([calibration], max_iter=200, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        logits = calibration[0] * fine + calibration[1]
        loss = F.binary_cross_entropy_with_logits(logits, target.shares[1], weight=target.weight)
        loss.backward()
        return loss

    optimizer.step(evaluate)
    return float(evaluate().detach())
