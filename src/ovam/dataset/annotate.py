"""Make the mask of one generated image, with its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ovam.dataset.duplicates import hash_of
from ovam.dataset.prompts import PlannedItem
from ovam.dataset.recipe import Recipe
from ovam.dataset.votes import agreed, vote_shares
from ovam.dataset.words import Vocabulary, as_text
from ovam.maps.words import OptimisedTokens, names_of
from ovam.masks.mask_like import IGNORE
from ovam.masks.masks import segment, segment_words
from ovam.masks.options import SegmentOptions
from ovam.masks.result import Segmentation
from ovam.methods.registry import by_name
from ovam.refine.options import RefineOptions
from ovam.trace.trace import Trace

_STEP = 0.1  # distance of the thresholds whose masks are compared


@dataclass(frozen=True, eq=False)
class Annotated:
    """A mask and what is known of it.

    Attributes:
        labels: Numbers of classes, 0 background, 255 undecided.
        areas: Share of the pixels of each class of the prompt.
        ignored: Share of the undecided pixels.
        scores: `presence`, `confidence` and `stability` by class, perhaps `unrefined`, `agreement` and `vote`; `grey`,
            the standard deviation of the picture's grey values.
        hash: Perceptual hash of the picture.
    """

    labels: UInt8[np.ndarray, "height width"]
    areas: Mapping[str, float]
    ignored: float
    scores: Mapping[str, Any]
    hash: str


def options_of(recipe: Recipe) -> SegmentOptions:
    """Return the options of masks that a recipe asks for."""
    masks = recipe.masks
    refine = RefineOptions(method=masks.refine_method, products=masks.products) if masks.refine else False  # type: ignore[arg-type]
    return SegmentOptions(
        threshold=masks.threshold,
        presence=masks.presence or None,
        crf=masks.crf,
        ignore=masks.ignore,
        min_area=masks.min_area,
        max_hole=masks.max_hole,
        refine=refine,
    )


def annotated(
    trace: Trace, item: PlannedItem, vocabulary: Vocabulary, recipe: Recipe, looks: Sequence[Trace] = ()
) -> Annotated:
    """Make the mask of an item.

    Args:
        trace: Its run.
        item: The item, as it was planned.
        vocabulary: Embedded words and tokens; nothing here runs the text encoder, so that the model may run meanwhile.
        recipe: How masks are made.
        looks: Traces of the finished picture with other noise.
    """
    result, names = _segmented(trace, item, vocabulary, recipe)
    ids = {one.name: one.id for one in recipe.classes if one.name in item.classes}
    labels = _numbered(result, names, ids)
    masks, picture = [labels], trace.image  # pixels on which the masks do not all agree are undecided
    scores: dict[str, Any] = {
        "presence": {name: result.presence[word] for word, name in names.items() if name in item.words},
        "confidence": _confidence(result, names, item.classes),
        "stability": _stability(result, names, item.classes),
        "grey": _grey(picture),
    }
    if (recipe.masks.refine or recipe.masks.crf) and not recipe.masks.method:
        plain = _numbered(_unrefined(result, item, vocabulary, recipe), names, ids)
        scores["unrefined"] = _agreement(labels, plain, ids, item.classes)
        if recipe.masks.ignore_changed:
            masks.append(plain)
    if recipe.masks.agreement:
        other, _ = _segmented(trace, item, vocabulary, recipe, by_words=True)
        by_words = {word: name for name, word in item.words.items()}
        scores["agreement"] = _agreement(labels, _numbered(other, by_words, ids), ids, item.classes)
    if looks:
        votes = [_voted(look, item, vocabulary, recipe, ids) for look in looks]
        scores["vote"] = vote_shares([labels, *votes], ids)
        masks += votes
    labels = agreed(masks)
    areas = {name: float((labels == ids[name]).mean()) for name in item.classes}
    rounded = {name: _rounded(value) for name, value in scores.items()}
    return Annotated(labels, _rounded(areas), _rounded(float((labels == IGNORE).mean())), rounded, hash_of(picture))


def _voted(
    look: Trace, item: PlannedItem, vocabulary: Vocabulary, recipe: Recipe, ids: Mapping[str, int]
) -> UInt8[np.ndarray, "height width"]:
    result, names = _segmented(look, item, vocabulary, recipe)
    return _numbered(result, names, {name: ids[name] for name in item.classes})


def _segmented(
    trace: Trace, item: PlannedItem, vocabulary: Vocabulary, recipe: Recipe, *, by_words: bool = False
) -> tuple[Segmentation, dict[str, str]]:
    """Return the masks, and the class of each of their words."""
    entries, against = vocabulary.entries(item, by_words=by_words)
    if recipe.masks.method:
        result = by_name(recipe.masks.method).segment(trace, [as_text(one) for one in (*entries, *against)])
    else:
        result = segment_words(trace, entries, replace(options_of(recipe), against=against))
    named = {word: name for name, word in item.words.items()}
    return result, {word: named.get(word, word) for word in _names(entries)}


def _unrefined(result: Segmentation, item: PlannedItem, vocabulary: Vocabulary, recipe: Recipe) -> Segmentation:
    """Return the masks of the same maps without refinement and CRF."""
    _, against = vocabulary.entries(item)
    return segment(result.maps.plain or result.maps, replace(options_of(recipe), against=against, crf=False))


def _names(entries: Sequence[OptimisedTokens]) -> tuple[str, ...]:
    return names_of(entries)


def _numbered(
    result: Segmentation, names: Mapping[str, str], ids: Mapping[str, int]
) -> UInt8[np.ndarray, "height width"]:
    """Return labels with numbers of classes; classes that only share a token group with these are background."""
    table = np.zeros(256, dtype=np.uint8)
    table[IGNORE] = IGNORE
    for label, word in enumerate(result.words, start=1):
        table[label] = ids.get(names.get(word, word), 0)
    return table[result.labels.cpu().numpy()]


def _best(result: Segmentation) -> tuple[Tensor, Tensor]:
    best, winner = result.scores.max(dim=0)
    return best, winner


def _confidence(result: Segmentation, names: Mapping[str, str], classes: Sequence[str]) -> dict[str, float]:
    """Return the mean score of each class inside its mask; 0 if the mask is empty."""
    found = dict.fromkeys(classes, 0.0)
    for place, word in enumerate(result.words):
        inside = result.labels == place + 1
        if names.get(word) in found and bool(inside.any()):
            found[names[word]] = float(result.scores[place][inside].mean())
    return found


def _stability(result: Segmentation, names: Mapping[str, str], classes: Sequence[str]) -> dict[str, float]:
    """Return the IoU of each class's masks at the threshold minus 0.1 and plus 0.1."""
    best, winner = _best(result)
    low, high = max(0.0, result.threshold - _STEP), min(1.0, result.threshold + _STEP)
    found = dict.fromkeys(classes, 0.0)
    for place, word in enumerate(result.words):
        if names.get(word) in found:
            own = winner == place
            found[names[word]] = _iou(own & (best > high), own & (best > low))
    return found


def _iou(one: Tensor, other: Tensor) -> float:
    """Return the intersection over the union; 0 if both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def _agreement(
    labels: np.ndarray, others: np.ndarray, ids: Mapping[str, int], classes: Sequence[str]
) -> dict[str, float]:
    pairs = {name: (torch.from_numpy(labels == ids[name]), torch.from_numpy(others == ids[name])) for name in classes}
    return {name: _iou(one, other) for name, (one, other) in pairs.items()}


def _grey(picture: Image.Image) -> float:
    values: Float[np.ndarray, "height width"] = np.asarray(picture.convert("L"), dtype=np.float64)
    return float(values.std())


def _rounded(value: Any) -> Any:
    """Return a number, or numbers by name, with six digits, so that files do not hold noise."""
    return {name: round(each, 6) for name, each in value.items()} if isinstance(value, Mapping) else round(value, 6)
