"""The ways from a word, as the authors' protocol normalises it, to a fitted token: each changes one thing more."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.fits.methods import DEFAULT, WORD, Method, registry
from lab.fits.plan import Plan
from lab.fits.traces import Traces
from lab.fits.tune import best_threshold, counts_of
from lab.mini.measures.choices import DEVELOPMENT
from lab.rivals.harness import Fitted, Mask, bordered
from ovam.maps.compute import half_of
from ovam.masks.annotations import annotation_of
from ovam.tokens.objective import Objective, target_on
from ovam.tokens.optimize import descend
from ovam.tokens.options import AGAINST, EVALUATIONS, PULL
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.trace import Trace

PUBLISHED_THRESHOLD = 0.4
"""Of the authors' settings for words that are not optimised, the one without refinement."""

FIXED, MAXIMUM, START, CALIBRATED = (
    "word, map / max, published threshold",
    "word, map / max, chosen threshold",
    "against everyday words",
    "calibration fitted",
)
RUNGS = {
    FIXED: f"the word's map over its greatest value, cut at {PUBLISHED_THRESHOLD:g}, as the paper's authors do",
    MAXIMUM: "the same, at the best threshold of validation scenes",
    WORD: "the map stretched to [0, 1] by its least and greatest value, at the threshold of `chosen.json`",
    START: "the word's last token, in a few phrases, against the start token and everyday words: where a fit begins",
    CALIBRATED: "scale and offset fitted to the annotation as in a fit, all vectors as they began",
    DEFAULT: "the whole fit, vectors and calibration",
}
"""Each rung with what it is, lowest first."""


def rungs(chosen: Mapping[str, Any], threshold: float) -> list[Method]:
    """All rungs in order.

    Args:
        chosen: What `lab.fits tune` chose.
        threshold: Of a word's map over its greatest value.
    """
    known = registry(chosen)
    given = {"evaluations": EVALUATIONS, "pull": PULL}
    return [
        _over_maximum(FIXED, PUBLISHED_THRESHOLD),
        _over_maximum(MAXIMUM, threshold),
        known[WORD],
        Method(START, _fit_start, {}, drawn=False),
        Method(CALIBRATED, _fit_calibration, given),
        known[DEFAULT],
    ]


def choose_threshold(traces: Traces, count: int) -> float:
    """The best threshold of a word's map over its greatest value, chosen as `lab.fits tune` chooses the word's.

    Args:
        traces: Of the model that is measured.
        count: Number of validation scenes.
    """
    plan = Plan("validation", (), DEVELOPMENT, count=count)
    tasks = [plan.task_of(name, ()) for name in DEVELOPMENT]
    counts = [counts_of(over_maximum(task.name, 0.5), task, traces) for task in tasks if task.scored]
    return best_threshold(counts)[0]


def over_maximum(word: str, threshold: float) -> Fitted:
    """The scores of a word in any trace: its map at the image's size over its greatest value."""

    def scores(trace: Trace) -> np.ndarray:
        word_map = trace.maps([word]).resized()[word]
        return bordered(word_map / word_map.max(), threshold)

    return scores


class CalibrationAlone(Objective):
    """The loss as a function of the calibrations' steps alone; all vectors stay where a fit begins."""

    @property
    def parameters(self) -> int:
        return 2 * len(self.classes)

    def loss(self, steps: Tensor, pull: float) -> Tensor:
        return super().loss(self.padded(steps), pull)

    def padded(self, steps: Tensor) -> Tensor:
        """The steps of a whole fit, with none of the vectors."""
        return torch.cat([torch.zeros(self.start.numel()), steps])


def _over_maximum(name: str, threshold: float) -> Method:
    def fit(traces: Sequence[Trace], masks: Sequence[Mask], word: str) -> Fitted:
        return over_maximum(word, threshold)

    return Method(name, fit, {"threshold": threshold}, drawn=False)


def _fit_start(traces: Sequence[Trace], masks: Sequence[Mask], word: str) -> Fitted:
    objective = Objective(traces, [], (word,), against=_against(word))
    return _scores_of(objective, torch.zeros(objective.parameters))


def _fit_calibration(traces: Sequence[Trace], masks: Sequence[Mask], word: str) -> Fitted:
    marks = (annotation_of({word: mask}, trace.size) for trace, mask in zip(traces, masks, strict=True))
    targets = [target_on(trace, mark, (word,)) for trace, mark in zip(traces, marks, strict=True)]
    half = half_of(traces[0], None)
    objective = CalibrationAlone(traces, targets, (word,), against=_against(word), half=half)
    best, *_ = descend(objective, EVALUATIONS, PULL / len(traces))
    return _scores_of(objective, objective.padded(best))


def _against(word: str) -> tuple[str, ...]:
    return tuple(other for other in AGAINST if other != word)


def _scores_of(objective: Objective, steps: Tensor) -> Fitted:
    vectors, calibrations = objective.unpacked(steps)
    rows = (*[BACKGROUND] * (len(vectors) - objective.rows), *tuple(objective.classes) * objective.rows)
    group = TokenGroup(rows, vectors, calibrations, Fit("mini"))
    tokens = TokenSet((group,), objective.traces[0].text.space)
    return partial(_scores, tokens)


@torch.no_grad()
def _scores(tokens: TokenSet, trace: Trace) -> np.ndarray:
    found: np.ndarray = trace.segment(tokens).scores[0].numpy()
    return found
