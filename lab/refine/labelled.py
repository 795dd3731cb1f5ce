"""Label maps and absent words: with the true list given, and with all class names asked of every picture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lab.refine.cases import Case
from ovam.evaluate import Confusion, calibration_error, presence_auroc
from ovam.maps.result import AttentionMaps
from ovam.maps.thresholds import Thresholds
from ovam.masks.masks import segment
from ovam.masks.options import MaskOptions
from ovam.masks.presence import presences
from ovam.mini.scenes import CLASSES, LABELS
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import refined
from ovam.tokens.thresholds import best_presence

GIVEN, ALL = "list given", "all names asked"
GATED = ", with the gate"
WITH_GAINS, TOKENS_WITH_GAINS = "words, gains", "tokens, gains"
GATES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_RULERS = ("calibration_error", "calibration_error_by_picture", "false_positive_area")
_BORDER = 0.5


def of_words(case: Case) -> AttentionMaps:
    """Return the maps of the class words."""
    return case.maps.only(list(CLASSES))


def of_gains(case: Case) -> AttentionMaps:
    """Return the maps of the class words with their gains."""
    assert case.gains is not None
    return of_words(case).with_gains(case.gains)


def best_gate(seen: Sequence[Case], maps: Sequence[AttentionMaps], options: MaskOptions) -> float:
    """Return the least presence with which label maps of all names have the greatest mIoU, on validation pictures."""
    fine = [refined(each, RefineOptions()) for each in maps]
    found = {gate: _labels(seen, fine, replace(options, presence=gate, crf=False), False)["miou"] for gate in GATES}
    return max(found, key=lambda gate: found[gate])


def with_thresholds(maps: AttentionMaps, chosen: Mapping[str, Thresholds]) -> AttentionMaps:
    """Return maps of tokens as if their file had carried these thresholds."""
    known = {name: chosen[name] for name in maps.words if name in chosen}
    plain = maps.plain and replace(maps.plain, thresholds=known)
    return replace(maps, thresholds=known, plain=plain)


def label_maps(
    seen: Sequence[Case], maps: Sequence[AttentionMaps], options: MaskOptions, gate: float
) -> dict[str, Any]:
    """Return the figures of label maps, refined and with a CRF, for both questions, with and without the gate.

    Args:
        seen: Pictures with exact labels.
        maps: Maps of some classes for each picture, not refined.
        options: With the CRF and the threshold; without a gate.
        gate: Minimum presence.
    """
    fine = [refined(each, RefineOptions()) for each in maps]
    found = {}
    for question, listed in ((GIVEN, True), (ALL, False)):
        for label, least in (("", 0.0), (GATED, gate)):
            found[question + label] = _labels(seen, fine, replace(options, presence=least), listed)
    return found


def _labels(
    seen: Sequence[Case], maps: Sequence[AttentionMaps], options: MaskOptions, listed: bool
) -> dict[str, float]:
    total, false, errors = Confusion.empty(len(CLASSES) + 1), list[float](), list[float]()
    shares, truths = list[np.ndarray](), list[np.ndarray]()
    for case, each in zip(seen, maps, strict=True):
        names = [name for name in case.truth if name in each.words] if listed else list(each.words)
        if not names:
            continue
        result = segment(each.only(names), options)
        numbers = np.array([0, *(LABELS[name] for name in names)])
        labels = numbers[result.labels.numpy()]
        total += Confusion.of(labels, case.labels, len(CLASSES) + 1)
        best = result.scores.max(0).values.numpy().clip(0, 1)[case.counted]
        thing = (case.labels > 0)[case.counted]
        errors.append(calibration_error(best, thing))
        shares.append(best.astype(np.float32))
        truths.append(thing)
        false.append(float(np.isin(labels[case.counted], np.unique(case.labels), invert=True).mean()))
    if not false:
        return {**dict.fromkeys(("miou", *_RULERS), float("nan")), "pictures": 0}
    return {
        "miou": total.mean_iou(),
        "calibration_error": calibration_error(np.concatenate(shares), np.concatenate(truths)),
        "calibration_error_by_picture": float(np.mean(errors)),
        "false_positive_area": float(np.mean(false)),
        "pictures": len(false),
    }


def levels_of(seen: Sequence[Case], maps: Sequence[AttentionMaps]) -> dict[str, tuple[list[float], list[float]]]:
    """Return for each class its presence in pictures that show it, and in those without a pixel of it."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for case, each in zip(seen, maps, strict=True):
        for name, level in presences(each).items():
            if name in case.truth or not (case.labels == LABELS[name]).any():
                found.setdefault(name, ([], []))[name not in case.truth].append(level)
    return found


def auroc(levels: Mapping[str, tuple[list[float], list[float]]]) -> float:
    """Return the mean over the classes of the AUROC of presence; NaN if no class is both there and absent."""
    each = [presence_auroc(*pair) for pair in levels.values() if all(pair)]
    return float(np.mean(each)) if each else float("nan")


def thresholds_of(
    seen: Sequence[Case], maps: Sequence[AttentionMaps], masks: Mapping[str, float]
) -> dict[str, Thresholds]:
    """Return what token files would carry: thresholds of masks that are known, and of presence chosen on `seen`."""
    return {
        name: Thresholds(
            mask=masks.get(name, _BORDER),
            presence=best_presence(*pair) if all(pair) else None,
            pictures=sum(map(len, pair)),
            refined=True,
        )
        for name, pair in levels_of(seen, maps).items()
    }
