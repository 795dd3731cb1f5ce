"""The bars of refinement, CRF and presence on test scenes, with the product's frozen defaults.

Steps from the word to the mask are rows; each has the IoU of classes known to be there, pooled per class, at the
threshold that was best for the word on validation scenes. Label maps stand apart: the true list given, and all names
asked of every scene.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lab.refine.cases import Case, cases
from lab.refine.choose import Soft, best_of
from ovam.evaluate import Confusion, average_precision, calibration_error, paired_bootstrap, presence_auroc
from ovam.maps.result import AttentionMaps
from ovam.masks.masks import segment
from ovam.masks.options import MaskOptions
from ovam.mini.scenes import CLASSES
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import refined

Step = Callable[[AttentionMaps, float], np.ndarray]
"""From the maps of some words and a threshold to their scores (word, height, width)."""


@dataclass(frozen=True)
class Row:
    """One class in one scene: pixels in both masks and in either, and average precision, by step."""

    name: str
    case: int
    both: dict[str, int]
    either: dict[str, int]
    precision: dict[str, float]
    slices: tuple[str, ...]


def _word(maps: AttentionMaps, threshold: float) -> np.ndarray:
    return segment(maps, MaskOptions(threshold=threshold)).scores.numpy()


def _refined(maps: AttentionMaps, threshold: float) -> np.ndarray:
    return _word(refined(maps, RefineOptions()), threshold)


def _fitted(maps: AttentionMaps, threshold: float) -> np.ndarray:
    fine = refined(maps, RefineOptions())
    return np.concatenate(
        [segment(fine.only([word]), MaskOptions(threshold=threshold, crf=True)).scores.numpy() for word in fine.words]
    )


STEPS: Mapping[str, Step] = {"word": _word, "refined": _refined, "refined, CRF": _fitted}


def measure(pipe: Any, count: int) -> dict[str, Any]:
    """Return all figures on `count` test scenes; thresholds are the best ones on half as many validation scenes."""
    validation = list(cases(pipe, "validation", max(20, count // 2)))
    thresholds = {name: best_of(_soft(validation, STEPS[name]))["threshold"] for name in ("word", "refined")}
    thresholds["refined, CRF"] = thresholds["refined"]  # the background's level is known to the CRF
    seen = list(cases(pipe, "test", count))
    rows = [row for case in seen for row in _rows(case, thresholds)]
    gate = MaskOptions(threshold=thresholds["refined, CRF"], crf=True, presence=0.5)
    return {
        "scenes": count,
        "thresholds": thresholds,
        "steps": {name: _step(rows, name) for name in STEPS},
        "slices": {name: {step: _iou(chosen, step) for step in STEPS} for name, chosen in _by_slice(rows).items()},
        "word-blind": _word_blind([case for case in seen if len(case.truth) > 1], gate.threshold),
        "labels": {
            "list given": _labels(seen, replace(gate, presence=None), given=True),
            "all names asked": _labels(seen, gate, given=False),
            "all names asked, no gate": _labels(seen, replace(gate, presence=None), given=False),
        },
        "presence_auroc": _auroc(seen),
        "rows": [vars(row) for row in rows],
    }


def _soft(seen: Sequence[Case], step: Step) -> Soft:
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in CLASSES}
    for case in seen:
        there = list(case.truth)
        for name, score in zip(there, step(case.maps.only(there), 0.5), strict=True):
            found[name].append((score, case.truth[name]))
    return found


def _rows(case: Case, thresholds: Mapping[str, float]) -> list[Row]:
    there = list(case.truth)
    scores = {name: step(case.maps.only(there), thresholds[name]) for name, step in STEPS.items()}
    found = []
    for i, name in enumerate(there):
        truth = case.truth[name]
        masks = {step: each[i] > thresholds[step] for step, each in scores.items()}
        found.append(
            Row(
                name,
                case.number,
                {step: int((mask & truth).sum()) for step, mask in masks.items()},
                {step: int((mask | truth).sum()) for step, mask in masks.items()},
                {step: average_precision(truth, each[i]) for step, each in scores.items()},
                case.slices[name],
            )
        )
    return found


def _iou(rows: Sequence[Row], step: str) -> float:
    """Mean over the classes of the IoU pooled over their scenes."""
    names = sorted({row.name for row in rows})
    each = [[row for row in rows if row.name == name] for name in names]
    return float(np.mean([sum(r.both[step] for r in own) / max(1, sum(r.either[step] for r in own)) for own in each]))


def _step(rows: Sequence[Row], step: str) -> dict[str, Any]:
    """IoU, average precision, and what was gained over the word with its 95 % bounds over classes and scenes."""
    groups = np.array([CLASSES.index(row.name) for row in rows])
    counts = np.array([[row.both[step], row.either[step], row.both["word"], row.either["word"]] for row in rows])
    gain = paired_bootstrap(counts, [groups], statistic=_gain, resamples=1000)
    return {
        "iou": _iou(rows, step),
        "gain": gain.listed(),
        "average_precision": float(np.mean([row.precision[step] for row in rows])),
    }


def _gain(counts: np.ndarray, draws: np.ndarray) -> float:
    sums = np.stack([np.bincount(draws, column) for column in counts.T])
    return float((sums[0] / np.maximum(sums[1], 1) - sums[2] / np.maximum(sums[3], 1)).mean())


def _by_slice(rows: Sequence[Row]) -> dict[str, list[Row]]:
    names = sorted({name for row in rows for name in row.slices})
    return {name: [row for row in rows if name in row.slices] for name in names}


def _word_blind(seen: Sequence[Case], threshold: float) -> dict[str, float]:
    """IoU on scenes of two things or more of our mask, and of a foreground that knows no word after the same CRF."""
    ours, blind = dict[str, list[tuple[int, int]]](), dict[str, list[tuple[int, int]]]()
    for case in seen:
        there = list(case.truth)
        foreground = replace(
            case.maps.only(there[:1]), token_maps=case.maps.only(there).token_maps.amax(0, keepdim=True)
        )
        mask_of_all = (
            segment(refined(foreground, RefineOptions()), MaskOptions(threshold=threshold, crf=True)).scores[0].numpy()
        )
        for name, score in zip(there, _fitted(case.maps.only(there), threshold), strict=True):
            for kept, each in ((ours, score), (blind, mask_of_all)):
                mask, truth = each > threshold, case.truth[name]
                kept.setdefault(name, []).append((int((mask & truth).sum()), int((mask | truth).sum())))
    pooled = [
        float(np.mean([sum(both for both, _ in own) / max(1, sum(e for _, e in own)) for own in kept.values()]))
        for kept in (ours, blind)
    ]
    return {"scenes": float(len(seen)), "ours": pooled[0], "word-blind": pooled[1]}


def _labels(seen: Sequence[Case], options: MaskOptions, *, given: bool) -> dict[str, float]:
    """Figures of label maps: mIoU with the background, calibration error, and area of classes that are not there."""
    total, errors, false = Confusion.empty(len(CLASSES) + 1), list[float](), list[float]()
    for case in seen:
        there = list(case.truth) if given else list(CLASSES)
        if not there:
            continue
        result = segment(refined(case.maps.only(there), RefineOptions()), options)
        numbers = np.array([0, *(CLASSES.index(name) + 1 for name in there)])
        labels = numbers[result.labels.numpy()]
        total += Confusion.of(labels, case.labels, len(CLASSES) + 1)
        best = result.scores.max(0).values.numpy()
        errors.append(calibration_error(np.clip(best, 0, 1), case.labels > 0))
        false.append(float(np.isin(labels, np.unique(case.labels), invert=True).mean()))
    return {
        "miou": total.mean_iou(),
        "calibration_error": float(np.mean(errors)),
        "false_positive_area": float(np.mean(false)),
    }


def _auroc(seen: Sequence[Case]) -> float:
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in CLASSES}
    for case in seen:
        for name, value in segment(case.maps, MaskOptions()).presence.items():
            if name in case.truth or not (case.labels == CLASSES.index(name) + 1).any():
                found[name][name not in case.truth].append(value)
    return float(np.mean([presence_auroc(*pair) for pair in found.values() if all(pair)]))


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| step | IoU | gain over the word (95 %) | average precision |", "| --- | --- | --- | --- |"]
    for name, row in found["steps"].items():
        value, low, high = row["gain"]
        lines.append(
            f"| {name} | {row['iou']:.3f} | {value:+.3f} ({low:+.3f} to {high:+.3f}) | {row['average_precision']:.3f} |"
        )
    lines += ["", "| label maps | mIoU | calibration error | area of absent classes |", "| --- | --- | --- | --- |"]
    for name, row in found["labels"].items():
        lines.append(
            f"| {name} | {row['miou']:.3f} | {row['calibration_error']:.3f} | {row['false_positive_area']:.3f} |"
        )
    return "\n".join(lines)
