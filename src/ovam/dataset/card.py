"""The card of a data set, `README.md`: front matter for the Hub, provenance, licences, statistics."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset
from ovam.dataset.names import SHEET
from ovam.tokens.card import licence_lines

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_WHOLE = "1M<n<10M"
_MEANING = {
    "presence": "how likely the class is in the picture; below 0.5 it is probably absent",
    "confidence": "mean score of the class inside its mask",
    "stability": "IoU of the mask with itself at thresholds 0.1 below and above",
    "unrefined": "IoU of the mask with the mask before refinement and CRF",
    "agreement": "IoU of the masks of word and token",
    "vote": "IoU of all masks of one picture, made with other noise each",
    "clip": "probability of the class by CLIP",
    "grey": "standard deviation of the picture's grey values; flat pictures have about 0",
}


def card(dataset: Dataset) -> str:
    """Return the card as Markdown."""
    about, items = dataset.about, dataset.items
    parts = [
        _front(dataset),
        f"# {about.name}",
        f"{len(items)} generated images of {about.size[0]} x {about.size[1]} pixels (height x width), each with a "
        "mask.\nImages and masks were made by a model. Nobody has looked at each of them: masks have errors.",
        f"![Some images and their masks]({SHEET})",
        "## Classes",
        _classes(dataset),
        "## Splits",
        _table(("split", "images"), [(split, len(dataset.of_split(split))) for split in dataset.splits]),
        "Near duplicates share a split.",
        "## Scores",
        _scores(items),
        "## How it was made",
        _made(dataset),
        "## Licences",
        _licences(dataset),
        "## Files",
        _FILES,
    ]
    return "\n\n".join(parts) + "\n"


def _front(dataset: Dataset) -> str:
    count = len(dataset.items)
    size = next((name for most, name in _SIZES if count < most), _WHOLE)
    lines = [
        "---",
        f"pretty_name: {json.dumps(dataset.about.name, ensure_ascii=False)}",
        *licence_lines(dataset.about.licence or "unknown"),
        "task_categories:",
        "- image-segmentation",
        "tags:",
        "- synthetic",
        "- ovam",
        "size_categories:",
        f"- {size}",
        "---",
    ]
    return "\n".join(lines)


def _classes(dataset: Dataset) -> str:
    images = Counter(name for item in dataset.items for name in item.classes)
    empty = Counter(name for item in dataset.items for name, area in item.areas.items() if not area)
    areas: dict[str, list[float]] = {}
    for item in dataset.items:
        for name, area in item.areas.items():
            areas.setdefault(name, []).append(area)
    rows = [
        (one.id, _cell(one.name), images[one.name], f"{_mean(areas.get(one.name, ())):.1%}", empty[one.name])
        for one in dataset.about.classes
    ]
    undecided = _mean([item.ignored for item in dataset.items])
    note = f"0 is the background, 255 undecided ({undecided:.1%} of the pixels), which training should leave out."
    return _table(("number", "class", "images that ask for it", "mean area", "empty masks"), rows) + f"\n\n{note}"


def _scores(items: Sequence[Item]) -> str:
    values: dict[str, list[float]] = {}
    for item in items:
        for name, value in item.scores.items():
            values.setdefault(name, []).extend(value.values() if isinstance(value, Mapping) else [value])
    rows = []
    for name, found in values.items():
        low, middle, high = np.quantile(found, (0.05, 0.5, 0.95))
        rows.append((name, _MEANING.get(name, ""), f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}"))
    return _table(("score", "meaning", "5 %", "median", "95 %"), rows)


def _made(dataset: Dataset) -> str:
    about = dataset.about
    view = about.view
    lines = [
        f"* model `{about.model['name']}`, weights `{about.model['hash']}`",
        f"* recipe `{about.recipe}`: `recipe.toml` has all options; `metadata.jsonl` has each prompt and seed",
        f"* ovam {about.version}; masks from attention maps (OVAM, CVPR 2024)",
    ]
    if about.tokens:
        lines.append(f"* optimised tokens for {', '.join(map(_cell, about.tokens))}; the files are in `inputs/`")
    chosen = list[str]()
    while view is not None:
        dropped = ", ".join(f"{name} {count}" for name, count in view.get("dropped", {}).items()) or "nothing"
        how = "chosen at random" if view.get("random") else f"taken out: {dropped}"
        earlier = view.get("before")
        of = "that recipe" if earlier is None else "these"
        chosen.append(f"* a choice of {view.get('kept')} images of {of}; {how}")
        view = earlier
    lines += reversed(chosen)
    return "\n".join(lines)


def _licences(dataset: Dataset) -> str:
    own = dataset.about.licence or "not stated"
    return (
        f"* images and masks: {own}\n"
        f"* the licence of the model `{dataset.about.model['name']}` says what its pictures may be used for"
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


_FILES = """```python
from datasets import load_dataset

rows = load_dataset("imagefolder", data_dir="this folder", split="train")  # all images; "split" is a column
image, mask = rows[0]["image"], rows[0]["mask"]  # the mask's pixels are numbers of classes
```

* `images/`, `masks/`: PNG; masks have Pascal VOC's palette
* `metadata.jsonl`: a line for each image: prompt, seed, classes, split, scores
* `dataset.json`: classes, sizes, model; `items/`: all that is known of an image, with the SHA-256 of its files"""
