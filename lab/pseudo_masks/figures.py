"""From counts to figures: IoU pooled per class, its mean over the classes, gains with their 95 % bounds."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.stats import spearmanr

from lab.pseudo_masks.counts import Count
from lab.pseudo_masks.examples import in_order
from lab.pseudo_masks.rows import DEFAULT, PUBLISHED, RETUNED, SPREAD, SPREAD_AT_FINEST, TOKEN, WORD
from ovam.evaluate import Interval, paired_bootstrap
from ovam.methods.grounded import Grounded

Which = Literal["published", "final"]
RESAMPLES = 1000

Key = tuple[str, str]
"""Row and form."""


def by_key(counts: Sequence[Count]) -> dict[Key, list[Count]]:
    found: dict[Key, list[Count]] = {}
    for one in counts:
        found.setdefault((one.row, one.form), []).append(one)
    return found


def class_iou(counts: Sequence[Count], which: Which) -> dict[str, float]:
    """IoU by class, pooled over the pictures; classes without a pixel are left out."""
    sums: dict[str, np.ndarray] = {}
    for one in counts:
        pair = getattr(one, which)
        if pair is not None:
            sums[one.name] = sums.get(one.name, np.zeros(2)) + pair
    return {name: float(sums[name][0] / sums[name][1]) for name in in_order(sums) if sums[name][1]}


def miou(counts: Sequence[Count], which: Which) -> float | None:
    """Mean over the classes; None without one."""
    of = class_iou(counts, which)
    return float(np.mean(list(of.values()))) if of else None


def table(counts: Sequence[Count]) -> list[dict[str, Any]]:
    """A line for each row and form."""
    lines = []
    for (row, form), own in by_key(counts).items():
        per_image = [one.final[0] / one.final[1] for one in own if one.final and one.final[1]]
        lines.append(
            {
                "method": row,
                "form": form,
                "mIoU": miou(own, "final"),
                "published threshold": miou(own, "published"),
                "IoU by image": float(np.mean(per_image)) if per_image else None,
                "AP": float(np.mean([one.precision for one in own])),
                "classes": class_iou(own, "final"),
                "pairs": len(own),
            }
        )
    return lines


def gain(counts: Sequence[Count], above: Key, below: Key) -> Interval:
    """By how much the mIoU of one row and form is above another's on the same pictures; over classes and pictures."""
    rows, names = by_key(counts), in_order({one.name for one in counts})
    other = {(one.name, one.example): one.final for one in rows.get(below, [])}
    pairs = [
        (names.index(one.name), *one.final, *beside)
        for one in rows.get(above, [])
        if one.final is not None and (beside := other.get((one.name, one.example))) is not None
    ]
    if not pairs:
        return Interval(float("nan"), float("nan"), float("nan"))
    data = np.array(pairs)
    return paired_bootstrap(data[:, 1:], [data[:, 0]], statistic=_mean_gap, resamples=RESAMPLES)


def _mean_gap(rows: np.ndarray, draws: np.ndarray) -> float:
    sums = np.stack([np.bincount(draws, column) for column in rows.T])
    return float((sums[0] / np.maximum(sums[1], 1) - sums[2] / np.maximum(sums[3], 1)).mean())


def lifts(counts: Sequence[Count]) -> dict[str, list[float]]:
    """By method, how much its tokens add to its words."""
    keys = by_key(counts)
    names = [row for row, form in keys if form == TOKEN and (row, WORD) in keys]
    return {name: gain(counts, (name, TOKEN), (name, WORD)).listed() for name in names}


def leads(counts: Sequence[Count]) -> dict[str, list[float]]:
    """By how much the default with tokens is above each other method with tokens."""
    keys = by_key(counts)
    names = [row for row, form in keys if form == TOKEN and row != DEFAULT]
    return {name: gain(counts, (DEFAULT, TOKEN), (name, TOKEN)).listed() for name in names}


LIFTED = ("DAAM", "Attn2Mask", SPREAD, SPREAD_AT_FINEST, PUBLISHED)
"""Methods that tokens are claimed to lift, beside Grounded Diffusion however it was trained."""


def bars(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bars with their figures in points of mIoU, by set."""
    lines = []
    for name, each in found.items():
        for method, lift in each["lifts"].items():
            if method in LIFTED or method.startswith(Grounded.name):
                value, low, high = (100 * x for x in lift)
                met = value >= 5 and low > 0
                lines.append(
                    {"bar": f"tokens lift {method} by 5", "set": name, "figure": [value, low, high], "met": met}
                )
        for rival, least in ((PUBLISHED, 8), (RETUNED, 4)):
            if rival in each["leads"]:
                value, low, high = (100 * x for x in each["leads"][rival])
                bar = f"default {least} above {rival}"
                lines.append({"bar": bar, "set": name, "figure": [value, low, high], "met": value >= least})
        best = max(each["leads"], key=lambda rival: -each["leads"][rival][0], default=None)
        if best is not None:
            value, low, high = (100 * x for x in each["leads"][best])
            bar = f"default above every method, the best of which is {best}"
            lines.append({"bar": bar, "set": name, "figure": [value, low, high], "met": value > 0})
    return lines


def rank_agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Spearman's correlation over the names that both have."""
    shared = [name for name in ours if name in theirs]
    if len(shared) < 3:
        return float("nan")
    return float(spearmanr([ours[name] for name in shared], [theirs[name] for name in shared]).statistic)


def picked(counts: Sequence[Count], key: Key, per_kind: int = 4) -> dict[str, list[Count]]:
    """Good, median and bad cases of a row by a rule: evenly around the 90th, 50th and 10th percentile of its IoU."""
    own = [one for one in by_key(counts).get(key, []) if one.final and one.final[1]]
    own.sort(key=lambda one: (_iou(one), one.example, one.name))
    found = {}
    for kind, share in (("good", 0.9), ("median", 0.5), ("bad", 0.1)):
        middle = round(share * (len(own) - 1))
        start = max(0, min(middle - per_kind // 2, len(own) - per_kind))
        found[kind] = own[start : start + per_kind]
    return found


def _iou(one: Count) -> float:
    assert one.final is not None
    return one.final[0] / one.final[1]
