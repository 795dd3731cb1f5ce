"""Label maps against their truths, file by file, in the project's own columns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.errors import GroundTruthError
from ovam.evaluate import Confusion, boundary_band, boundary_f, mean_per_image_iou
from ovam.evaluate.overlap import check_sizes
from ovam.mini.scenes import CLASSES

IGNORE = 255
_BAND = 2  # pixels on each side of an outline that the boundary-excluded figure leaves out
VOC = dict(enumerate(CLASSES, start=1))


def evaluate(
    predicted: str | Path,
    truth: str | Path,
    *,
    names: str | Path | None = None,
    method: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare label maps with their truths.

    Args:
        predicted: A PNG of label numbers, or a folder of them; 255 is undecided, and counts as wrong.
        truth: A PNG or a folder with files of the same names; 255 counts for nothing.
        names: JSON file of label numbers and names, as `names.json` of `ovam mini scenes`; Pascal VOC's 20 classes
            when None. Numbers of the truth that have no name are background.
        method: Name of the method, for a leaderboard.
        progress: Told of each file.

    Returns:
        IoU pooled for each class, its mean with and without the background, the mean of per-image IoU, the mean
        IoU away from outlines, boundary F, shares of undecided and ignored pixels, numbers of files.

    Raises:
        GroundTruthError: a truth is missing, of another size, or no map of labels.
    """
    classes = _classes(names)
    pairs = _pairs(Path(predicted), Path(truth))
    labels = max(classes) + 2  # the last one stands for what was left undecided
    confusion, inner = Confusion.empty(labels), Confusion.empty(labels)
    undecided, pixels, outlines = 0, 0, list[float]()
    of_class: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {number: [] for number in classes}
    for done, (guess, right) in enumerate(pairs):
        progress("files", done, len(pairs))
        found, expected = _labels(guess), _labels(right)
        expected = np.where(np.isin(expected, [*classes, IGNORE]), expected, 0)
        check_sizes(found, expected)
        ignored = expected == IGNORE
        undecided, pixels = undecided + int(((found == IGNORE) & ~ignored).sum()), pixels + found.size
        found = np.where(found == IGNORE, labels - 1, np.where(np.isin(found, list(classes)), found, 0))
        confusion += Confusion.of(found, expected, labels, ignore=IGNORE)
        edges = boundary_band(expected, _BAND)
        inner += Confusion.of(found, np.where(edges, IGNORE, expected), labels, ignore=IGNORE)
        for number in (set(np.unique(expected)) | set(np.unique(found))) & set(classes):
            of_class[number].append((found == number, expected == number, ignored))
            outlines.append(boundary_f(found == number, expected == number, ignored))
    iou = confusion.iou()
    there = [number for number in classes if confusion.counts[number].any()]
    per_image = [mean_per_image_iou(of_class[number]) for number in there]
    return {
        "command": "evaluate",
        "version": __version__,
        "method": method,
        "predicted": str(predicted),
        "truth": str(truth),
        "files": len(pairs),
        "miou": _rounded(confusion.mean_iou()),
        "miou without background": _rounded(confusion.mean_iou(background=False)),
        "mean of per-image IoU": _rounded(np.mean(per_image) if per_image else np.nan),
        f"miou {_BAND} pixels away from outlines": _rounded(inner.mean_iou()),
        "boundary F": _rounded(np.nanmean(outlines) if np.isfinite(outlines).any() else np.nan),
        "undecided": round(undecided / pixels, 4),
        "ignored": round(confusion.ignored / pixels, 4),
        "classes": [
            {"class": name, "IoU": _rounded(iou[number]), "images": len(of_class.get(number, ())) or None}
            for number, name in ({0: "background"} | classes).items()
        ],
    }


def _classes(names: str | Path | None) -> dict[int, str]:
    if names is None:
        return VOC
    try:
        content = json.loads(Path(names).read_text())
        listed = content.get("labels", content)
        return {int(number): str(name) for number, name in listed.items() if int(number) not in (0, IGNORE)}
    except (OSError, ValueError, AttributeError) as error:
        raise GroundTruthError(
            f"names file {names} can't be read ({error}): expected JSON as {{'1': 'aeroplane', ...}}"
        ) from error


def _pairs(predicted: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Files of equal names; every prediction needs its truth, a truth without a prediction is named too."""
    if predicted.is_file():
        return [(predicted, truth / predicted.name if truth.is_dir() else truth)]
    guesses, rights = ({file.name: file for file in folder.glob("*.png")} for folder in (predicted, truth))
    if not guesses:
        raise GroundTruthError(f"{predicted} is no PNG file and no folder with PNG files: expected label maps")
    for name in sorted(guesses.keys() ^ rights.keys()):
        side = ("truth", truth) if name in guesses else ("prediction", predicted)
        raise GroundTruthError(f"{name} has no {side[0]} in {side[1]}: expected the same names in both folders")
    return [(guesses[name], rights[name]) for name in sorted(guesses)]


def _labels(path: Path) -> np.ndarray:
    """Label numbers of a PNG with a palette or a single channel: (height, width) int64."""
    try:
        with Image.open(path) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise GroundTruthError(f"label map {path} can't be read ({error}): expected a PNG file") from error
    if mode not in ("P", "L", "I", "I;16", "1"):
        raise GroundTruthError(f"label map {path} has colours (mode {mode}): expected one number a pixel")
    return values.astype(np.int64)


def _rounded(value: float | np.floating[Any]) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
