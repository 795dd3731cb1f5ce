"""Second opinions: what other people's code makes of the same masks and probabilities.

What is not installed is told and counts as not measured: torchmetrics and pydensecrf2 are no part of the project.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from lab.refine.cases import Case
from lab.refine.steps import fitted_alone
from ovam.evaluate import Confusion
from ovam.masks.compete import after_crf
from ovam.masks.masks import calibrated, segment
from ovam.masks.options import MaskOptions
from ovam.masks.outlines import polygons_of
from ovam.masks.regions import box_of
from ovam.masks.run_lengths import rle_of
from ovam.mini.scenes import CLASSES, LABELS
from ovam.refine.crf_options import CrfOptions
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import refined


@dataclass(frozen=True)
class Opinion:
    """One comparison.

    Attributes:
        package: Whose code.
        most: Greatest difference that counts as agreement.
        unit: What differs.
        difference: From some pictures to the greatest difference.
    """

    package: str
    most: float
    unit: str
    difference: Callable[[Sequence[Case]], float]


def _iou(seen: Sequence[Case]) -> float:
    from torchmetrics import JaccardIndex

    theirs = JaccardIndex(task="multiclass", num_classes=len(CLASSES) + 1, ignore_index=255, average="none")
    total = Confusion.empty(len(CLASSES) + 1)
    for case in seen:
        labels = _labels(case)
        total += Confusion.of(labels, case.labels, len(CLASSES) + 1)
        theirs.update(torch.from_numpy(labels), torch.from_numpy(case.labels))
    ours, known = total.iou(), total.counts.sum(1) > 0
    return float(np.abs(ours - theirs.compute().numpy())[known].max())


def _labels(case: Case) -> np.ndarray:
    there = list(case.truth) or [CLASSES[0]]
    numbers = np.array([0, *(LABELS[name] for name in there)])
    found: np.ndarray = numbers[segment(case.maps.only(there), MaskOptions()).labels.numpy()]
    return found


def _masks(seen: Sequence[Case]) -> list[np.ndarray]:
    masks = [mask for case in seen for mask in case.truth.values()]
    return [*masks, *(_labels(case) == LABELS[name] for case in seen for name in case.truth)]


def _run_lengths(seen: Sequence[Case]) -> float:
    from pycocotools import mask as coco

    theirs = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in _masks(seen)]
    return float(sum(rle_of(m)["counts"] != t["counts"].decode() for m, t in zip(_masks(seen), theirs, strict=True)))


def _boxes(seen: Sequence[Case]) -> float:
    from pycocotools import mask as coco

    found = [(np.array(box_of(mask)), coco.toBbox(rle_of(mask))) for mask in _masks(seen) if mask.any()]
    return float(max((np.abs(ours - theirs).max() for ours, theirs in found), default=0.0))


def _polygons(seen: Sequence[Case]) -> float:
    from pycocotools import mask as coco

    wrong = 0
    for mask in _masks(seen):
        polygons = polygons_of(mask, tolerance=0)
        if polygons:
            read = coco.merge(coco.frPyObjects([polygon.coco() for polygon in polygons], *mask.shape))
            wrong += int((coco.decode(read).astype(bool) != mask).sum())
    return float(wrong)


def _crf(seen: Sequence[Case]) -> float:
    worst = 0.0
    for case in seen:
        if not case.truth:
            continue
        maps, picture = case.maps.only(list(case.truth)), np.asarray(case.maps.picture())
        scores, options = calibrated(refined(maps, RefineOptions())), CrfOptions()
        ours = fitted_alone(scores, [0.5] * len(scores), picture)
        other = replace(options, backend="pydensecrf")
        theirs = torch.cat([after_crf(one[None], scores[:0], 0.5, picture, other)[0] for one in scores])
        worst = max(worst, float((ours - theirs).abs().max()))
    return worst


OPINIONS: Mapping[str, Opinion] = {
    "IoU": Opinion("torchmetrics", 1e-5, "IoU of a class", _iou),
    "run lengths": Opinion("pycocotools", 0.0, "masks", _run_lengths),
    "boxes": Opinion("pycocotools", 0.0, "pixels", _boxes),
    "polygons without tolerance": Opinion("pycocotools", 0.0, "pixels", _polygons),
    "CRF": Opinion("pydensecrf2", 1e-3, "score", _crf),
}
_MODULES = {"pydensecrf2": "pydensecrf"}


def opinions(seen: Sequence[Case]) -> dict[str, Any]:
    """Return for each comparison the package, the greatest difference, None if it is not installed, and the limit."""
    found = {}
    for name, each in OPINIONS.items():
        known = find_spec(_MODULES.get(each.package, each.package)) is not None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # pycocotools' own
            difference = each.difference(seen) if known else None
        found[name] = {"package": each.package, "difference": difference, "most": each.most, "unit": each.unit}
    return found
