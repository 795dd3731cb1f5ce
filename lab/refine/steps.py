"""The steps from a word or a token to its mask, and what needs no model: scores of the classes that are there.

Each step is a row of the table. A word has one threshold for all classes, a token one for each class; all are chosen on
validation scenes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lab.mini.baselines import BASELINES, constant
from lab.mini.measures.choices import DEVELOPMENT
from lab.refine.cases import Case
from ovam.evaluate import average_precision, boundary_band, through_grid
from ovam.maps.result import AttentionMaps
from ovam.masks.compete import after_crf
from ovam.masks.masks import calibrated
from ovam.mini.scenes import CLASSES
from ovam.refine.crf_options import CrfOptions
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import refined
from ovam.tokens.thresholds import TRIED, best_mask, counts

WORD, REFINED, CRF = "word", "word, refined", "word, refined, CRF"
GAINED, GAINED_CRF = "word, gains, refined", "word, gains, refined, CRF"
TOKEN, TOKEN_REFINED, TOKEN_CRF = "token", "token, refined", "token, refined, CRF"
BLIND = "word-blind foreground, refined, CRF"
GRID = "exact mask through the finest grid"
WORDS, TOKENS = (WORD, REFINED, CRF), (TOKEN, TOKEN_REFINED, TOKEN_CRF)
MODEL_FREE = (*BASELINES, "constant")
BASES = {
    **dict.fromkeys((*WORDS, GAINED, GAINED_CRF, *MODEL_FREE, BLIND, TOKEN, GRID), WORD),
    **dict.fromkeys((TOKEN_REFINED, TOKEN_CRF), TOKEN),
}
"""Each step with the one that its gain is over."""

EDGE = 2  # pixels on either side of an outline, left out of the inner IoU
_BORDER = 0.5

Thresholds = Mapping[str, Mapping[str, float]]
"""By step and class."""


@dataclass(frozen=True)
class Row:
    """One question about one picture: a class that is there, asked by its name or by another word.

    Attributes:
        name: The class.
        case: Number of the picture.
        own: Whether it was asked by its name.
        slices: Slices it belongs to.
        counts: By step, pixels in both masks and in either; the same away from the outline.
        precision: By step, average precision.
    """

    name: str
    case: int
    own: bool
    slices: tuple[str, ...]
    counts: dict[str, tuple[int, int, int, int]]
    precision: dict[str, float]


def scores_of(case: Case, thresholds: Thresholds) -> dict[str, dict[str, np.ndarray]]:
    """Return the scores of each class that is there, by step: (height, width), in [0, 1].

    A CRF knows the background's level, so it is given the threshold of its step; steps after a CRF are left out where
    no threshold is known.
    """
    there = list(case.truth)
    found = _from_maps(case.maps.only(there), WORDS, thresholds) if there else {}
    if there and case.gains is not None:
        gained = refined(case.maps.only(there).with_gains(case.gains), RefineOptions())
        found |= _with_crf(gained, calibrated(gained), (GAINED, GAINED_CRF), thresholds)
    if there and CRF in thresholds:
        found[BLIND] = dict.fromkeys(there, blind(case.maps.only(there), thresholds[CRF][there[0]]))
    if case.tokens is not None and (known := [name for name in there if name in case.tokens.words]):
        found |= _from_maps(case.tokens.only(known), TOKENS, thresholds)
    picture = np.asarray(case.maps.picture())
    for name, baseline in (*BASELINES.items(), ("constant", constant)):
        found[name] = dict.fromkeys(there, baseline(picture))
    found[GRID] = {name: through_grid(mask, case.maps.grid) for name, mask in case.truth.items()}
    return found


def _from_maps(maps: AttentionMaps, steps: Sequence[str], thresholds: Thresholds) -> dict[str, dict[str, np.ndarray]]:
    plain, *later = steps
    of_plain = dict(zip(maps.words, calibrated(maps).numpy(), strict=True))
    return {plain: of_plain, **_with_crf(maps, calibrated(refined(maps, RefineOptions())), later, thresholds)}


def _with_crf(
    maps: AttentionMaps, scores: torch.Tensor, steps: Sequence[str], thresholds: Thresholds
) -> dict[str, dict[str, np.ndarray]]:
    """Return scores by step and word: as they are, and after a CRF if its threshold is known."""
    fine, fitted = steps
    found = {fine: scores}
    if fitted in thresholds:
        levels = [thresholds[fitted][name] for name in maps.words]
        found[fitted] = fitted_alone(scores, levels, np.asarray(maps.picture()))
    return {step: dict(zip(maps.words, each.numpy(), strict=True)) for step, each in found.items()}


def fitted_alone(scores: torch.Tensor, thresholds: Sequence[float], picture: np.ndarray) -> torch.Tensor:
    """Return the scores (word, height, width) after a CRF of each word with the background alone."""
    each = zip(scores, thresholds, strict=True)
    return torch.cat([after_crf(one[None], scores[:0], level, picture, CrfOptions())[0] for one, level in each])


def blind(maps: AttentionMaps, threshold: float) -> np.ndarray:
    """Return one foreground that knows no word: the greatest of the words' maps, refined, after a CRF."""
    foreground = replace(maps.only(list(maps.words[:1])), token_maps=maps.stacked().amax(0, keepdim=True))
    scores = calibrated(refined(foreground, RefineOptions()))
    found: np.ndarray = fitted_alone(scores, [threshold], np.asarray(maps.picture()))[0].numpy()
    return found


def rows_of(case: Case, thresholds: Thresholds) -> Iterator[Row]:
    """Yield a row for each class that is there, and one for each other word that names it."""
    scores = scores_of(case, thresholds)
    for name, truth in case.truth.items():
        known = {step: each[name] for step, each in scores.items() if name in each and step in thresholds}
        yield _row(case, name, truth, known, thresholds, True, case.slices[name])
    for word, name, kind in case.others:
        if name in case.truth:
            of_word = _from_maps(case.maps.only([word]), WORDS, {CRF: {word: thresholds[CRF][name]}})
            known = {step: each[word] for step, each in of_word.items() if step in thresholds}
            yield _row(case, name, case.truth[name], known, thresholds, False, (kind,))


def _row(
    case: Case,
    name: str,
    truth: np.ndarray,
    scores: Mapping[str, np.ndarray],
    thresholds: Thresholds,
    own: bool,
    slices: tuple[str, ...],
) -> Row:
    counted = case.counted
    inner = counted & ~boundary_band(truth, EDGE)
    found, precision = dict[str, tuple[int, int, int, int]](), dict[str, float]()
    for step, score in scores.items():
        mask = score > thresholds[step][name]
        both, either = mask & truth, mask | truth
        found[step] = (
            int((both & counted).sum()),
            int((either & counted).sum()),
            int((both & inner).sum()),
            int((either & inner).sum()),
        )
        precision[step] = average_precision(truth[counted], score[counted])
    return Row(name, case.number, own, slices, found, precision)


def choose_thresholds(seen: Iterable[Case]) -> dict[str, dict[str, float]]:
    """Return the thresholds of all steps, chosen on validation pictures.

    A word's is the one with the greatest mean IoU of the development classes, a token's that of its own class; one that
    no picture shows keeps 0.5. After a CRF the threshold is that of the step before. A word-blind foreground is cut as
    the word is.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for case in seen:
        for step, each in scores_of(case, {}).items():
            for name, score in each.items():
                own = counts(score[case.counted], case.truth[name][case.counted])
                sums = found.setdefault(step, {})
                sums[name] = sums[name] + own if name in sums else own
    chosen = {
        step: _of_each(sums) if step in TOKENS else dict.fromkeys(CLASSES, _of_all(sums))
        for step, sums in found.items()
        if step != GRID
    }
    for after, before in ((CRF, REFINED), (BLIND, REFINED), (GAINED_CRF, GAINED), (TOKEN_CRF, TOKEN_REFINED)):
        if before in chosen:
            chosen[after] = chosen[before]
    return chosen | {GRID: dict.fromkeys(CLASSES, _BORDER)}


def _of_each(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: best_mask(sums[name]) if name in sums else _BORDER for name in CLASSES}


def _of_all(sums: Mapping[str, np.ndarray]) -> float:
    known = [sums[name] for name in DEVELOPMENT if name in sums] or list(sums.values())
    iou = np.mean([own[0] / np.maximum(own[1], 1) for own in known], axis=0)
    return float(TRIED[int(iou.argmax())])
