"""Score the pictures of a data set by CLIP, once; filters read the stored scores."""

from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.dataset.card import card
from ovam.dataset.item import Item
from ovam.dataset.kept_scores import head_of, read_scores, score_file
from ovam.dataset.layout import read
from ovam.dataset.manifest import append, mended
from ovam.dataset.matcher import Matcher, load_matcher
from ovam.dataset.names import CARD
from ovam.dataset.store import full_disk_as_error
from ovam.errors import DatasetError
from ovam.output_files import write_bytes
from ovam.progress import Progress, no_progress

_NAME, _BATCH = "clip", 16


def score(
    folder: str | Path, clip: str, *, device: str | torch.device = "cpu", progress: Progress = no_progress
) -> dict[str, Any]:
    """Score the items that have no score yet; a run that was stopped goes on.

    Args:
        folder: A data set.
        clip: Folder or id of a CLIP of transformers, or mini.
        device: Where it runs.
        progress: Called with the number of items.

    Returns:
        Numbers of items, of those that were scored now and before, and the model.

    Raises:
        DatasetError: the folder is no data set, or was scored by another model.
        ModelNotFoundError: there is no such model.
    """
    data = read(folder)
    path = score_file(data.folder, _NAME)
    mended(path)
    known = read_scores(path) if path.is_file() and path.stat().st_size else None
    progress(f"loading {clip}", 0, 0)
    matcher = load_matcher(clip, device)
    if known is not None and known[0]["hash"] != matcher.hash:
        raise DatasetError(
            f"{path} has scores of model {known[0]['model']!r} with weights {known[0]['hash']}, and {clip} has "
            f"{matcher.hash}: expected the same model; delete the file to score anew"
        )
    words = {one.name: one.words[0] for one in data.about.classes}
    left = [item for item in data.items if known is None or set(known[1].get(item.index, ())) != set(item.classes)]
    with full_disk_as_error(data.folder):
        path.parent.mkdir(exist_ok=True)
        if known is None:
            path.write_bytes(head_of(_NAME, matcher.name, matcher.hash).encode())
        for start in range(0, len(left), _BATCH):
            progress("scoring", start, len(left))
            for item, values in _scored(matcher, left[start : start + _BATCH], words):
                append(path, {"index": item.index, "values": values})
    if (data.folder / CARD).is_file():
        write_bytes(data.folder / CARD, card(read(data.folder)).encode())  # with the values of the score
    return {
        "command": "dataset score",
        "version": __version__,
        "folder": str(data.folder),
        "model": matcher.name,
        "items": len(data.items),
        "scored": len(left),
        "skipped": len(data.items) - len(left),
        "results": str(path),
    }


def _scored(matcher: Matcher, items: list[Item], words: dict[str, str]) -> list[tuple[Item, dict[str, float]]]:
    """Return the probability of each class that an item's prompt names."""
    classes = sorted({name for item in items for name in item.classes})
    pictures = [item.picture() for item in items]
    shares = matcher.probabilities(pictures, [words[name] for name in classes])
    return [
        (item, {name: round(float(row[classes.index(name)]), 6) for name in item.classes})
        for item, row in zip(items, shares, strict=True)
    ]
