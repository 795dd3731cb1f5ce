"""From a method's values to an ordinary `Segmentation`: one border for all words, labels, presence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import NotFiniteError, OptionError
from ovam.maps.compute import attention_maps
from ovam.maps.options import MapOptions
from ovam.maps.result import AttentionMaps
from ovam.maps.words import OptimisedTokens, names_of
from ovam.masks.annotations import IGNORE
from ovam.masks.presence import presences
from ovam.masks.result import Segmentation
from ovam.methods.hard_crf import hard_crf
from ovam.prompt import Span
from ovam.refine.crf_options import CrfOptions
from ovam.trace.trace import Trace

_BORDER = 0.5


@dataclass(frozen=True, eq=False)
class WordScores:
    """What a method found for each word.

    Attributes:
        maps: Map of each word at the method's grid, in [0, 1]; they are shown and saved, nothing is computed from them.
        values: The method's values at the image's size, finite. A word is where they exceed its threshold. Scores of
            values below 0 and above 1 are cut to that range.
        thresholds: Threshold of each word, in (0, 1).
    """

    maps: Float[Tensor, "word grid_height grid_width"]
    values: Float[Tensor, "word height width"]
    thresholds: tuple[float, ...]


def segmentation_of(
    trace: Trace,
    entries: Sequence[str | OptimisedTokens],
    found: WordScores,
    *,
    crf: CrfOptions | None = None,
    band: float = 0.0,
) -> Segmentation:
    """Return the segmentation that follows from a method's values.

    A pixel has the label of the word with the highest score of those above their threshold. Scores are made of the
    values by `bordered`: each word's threshold lies at 0.5, and the order of the values stays.

    Args:
        trace: The run.
        entries: Words and fitted tokens, as `checked_words` returns them.
        found: The method's values, one for each word and each class of the tokens.
        crf: Options of a CRF that changes the mask of each word, on hard labels (`ovam.methods.hard_crf`).
        band: Pixels of the background with a value at most this far below its word's threshold are labelled 255.

    Raises:
        OptionError: the values are no tensor of the expected shape, or there are other numbers of maps or thresholds.
        NotFiniteError: the values contain NaN or infinity.
        NothingCapturedError: a CRF was asked for, and the run ended with latents.
    """
    _check(found, names_of(entries), trace.size)
    thresholds = torch.tensor(found.thresholds)[:, None, None]
    scores = bordered(found.values.float().cpu(), thresholds)
    if crf is not None:
        scores = _after_crf(scores, np.asarray(trace.image), crf)
    best, winner = scores.max(0)
    labels = torch.where(best > _BORDER, winner + 1, 0)
    if band:
        near = (found.values.cpu() >= thresholds - band).any(0)
        labels = torch.where(near & (labels == 0), IGNORE, labels)
    names = names_of(entries)
    plain = attention_maps(trace, list(entries), MapOptions())
    spans = tuple(Span(name, (i,)) for i, name in enumerate(names))
    maps = AttentionMaps(
        found.maps.float().cpu(), names, spans, trace.size, {}, len(names), image_png=trace.image_png, plain=plain
    )
    return Segmentation(labels, names, scores.clamp(0, 1), presences(maps), _BORDER, maps)


def _check(found: WordScores, names: Sequence[str], size: tuple[int, int]) -> None:
    """Check what a method found against the words and the image's size, as `segmentation_of` says."""
    for name, expected in (("maps", "(height, width) of the method's grid"), ("values", f"{size} of the image")):
        given = getattr(found, name)
        fits = isinstance(given, Tensor) and given.ndim == 3 and len(given) == len(names)
        if not fits or (name == "values" and tuple(given.shape[1:]) != size):
            kind = f"of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
            raise OptionError(
                f"WordScores.{name} is {kind}: expected a tensor with a map for each of {', '.join(map(repr, names))}, "
                f"each {expected}"
            )
    if len(found.thresholds) != len(names):
        raise OptionError(
            f"WordScores.thresholds has {len(found.thresholds)} numbers for {len(names)} words: expected one for each, "
            "as ovam.methods.thresholds_of returns them"
        )
    if not bool(torch.isfinite(found.values).all()):
        raise NotFiniteError("WordScores.values contain NaN or infinity: expected finite numbers")


def bordered(
    values: Float[Tensor, "word height width"], thresholds: Float[Tensor, "word 1 1"]
) -> Float[Tensor, "word height width"]:
    """Return scores that rise with the values and are above 0.5 exactly where a value exceeds its threshold."""
    below = _BORDER * values / thresholds
    above = _BORDER + (1 - _BORDER) * (values - thresholds) / (1 - thresholds)
    return torch.where(values > thresholds, _above_border(above), below.clamp_max(_BORDER))


def _above_border(values: Tensor) -> Tensor:
    """Return values, those that rounding has put on the border moved just above it."""
    border = torch.tensor(_BORDER, dtype=values.dtype)
    return values.clamp_min(torch.nextafter(border, torch.ones_like(border)))


def _after_crf(scores: Tensor, picture: np.ndarray, options: CrfOptions) -> Tensor:
    """Return scores that exceed the border where the word's mask is after the CRF, in the order they had before."""
    masks = torch.stack([hard_crf(one > _BORDER, picture, options) for one in scores])
    half = _BORDER * scores.clamp(0, 1)
    return torch.where(masks, _above_border(half + _BORDER), half)
