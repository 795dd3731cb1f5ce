"""Make masks from maps: calibrate each word's map, let the words compete with the background, and label pixels.

The order is fixed: calibrate, presence, compete, mask.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import EmptyWordsError, OptionError, UnknownWordError
from ovam.maps.calibration import stretched
from ovam.maps.compute import attention_maps
from ovam.maps.resize import resize
from ovam.maps.result import AttentionMaps
from ovam.maps.words import Listed, check_different, contrast_of, entries_of, names_of
from ovam.masks.options import MaskOptions, SegmentOptions
from ovam.masks.result import Segmentation
from ovam.precision import float32
from ovam.prompt import folded
from ovam.shapes import Map
from ovam.trace.trace import Trace

Scores = Float[Tensor, "word height width"]
_PRESENCE_SHARE = 0.02


@float32()
def segment(maps: AttentionMaps, options: MaskOptions) -> Segmentation:
    """Label every pixel of the image with one of the maps' words or as background.

    Args:
        maps: Maps of words, phrases and fitted tokens, each once. They must include the words in `against`;
            `Trace.segment` adds these itself. The score of a fitted token has its border at 0.5.
        options: See `MaskOptions`.

    Raises:
        UnknownWordError: a word in `against` has no map here.
        EmptyWordsError: all words are in `against`.
        OptionError: a word occurs twice, the maps keep axes apart, or an option has a value that is not allowed.
    """
    if maps.kept:
        raise OptionError(
            f"these maps keep {' and '.join(maps.kept)} apart: expected one map a word; make them without keep=..."
        )
    check_different(maps.words)
    rivals = {folded(name) for name in names_of(contrast_of(options.against))}
    absent = rivals.difference(map(folded, maps.words))
    if absent:
        raise UnknownWordError(
            f"word {min(absent)!r} in `against` has no map here, only {', '.join(map(repr, maps.words))} have: make "
            "the maps with it, trace.maps([..., 'word']), or use trace.segment(words, against=[...])"
        )
    shown = [i for i, word in enumerate(maps.words) if folded(word) not in rivals]
    if not shown:
        raise EmptyWordsError("every word of these maps is in `against`: expected at least one that is not")
    scores = calibrated(maps)
    best, winner = scores.max(dim=0)
    numbers = torch.zeros(len(maps.words), dtype=torch.long)
    numbers[shown] = torch.arange(1, len(shown) + 1)
    labels = torch.where(best > options.threshold, numbers[winner], 0)
    names = tuple(maps.words[i] for i in shown)
    found = {name: presence(maps[i]) for i, name in zip(shown, names, strict=True)}
    kept = scores if len(shown) == len(scores) else scores[shown]
    return Segmentation(labels, names, kept, found, options.threshold, maps)


def segment_words(trace: Trace, words: Listed, options: SegmentOptions) -> Segmentation:
    """Make the maps of the words and of those in `against`, and segment them.

    Args:
        trace: Queries of one run.
        words: Words or phrases, each its own attribution prompt, or `TokenSet`s, or both in one list.
        options: See `SegmentOptions`.

    Raises:
        The errors of `SegmentOptions.check`, `attention_maps` and `segment`.
    """
    options.check(words)
    return segment(attention_maps(trace, [*entries_of(words), *contrast_of(options.against)], options), options)


def calibrated(maps: AttentionMaps) -> Scores:
    """Return the scores of all words at the image's size, in [0, 1].

    The map of a fitted token is calibrated; a word's map is stretched to [0, 1] by its own minimum and maximum.
    """
    scores = torch.empty(len(maps), *maps.image_size)
    for i, name in enumerate(maps.words):  # one at a time: for a photograph each takes 50 MB
        calibration = maps.calibrations.get(name)
        if calibration is None:
            scores[i] = stretched(resize(maps[i], maps.image_size))
        else:
            scores[i] = calibration(resize(stretched(maps[i]), maps.image_size))
    return scores


def presence(word_map: Map) -> float:
    """Return the mean of the strongest 2 % of an uncalibrated map; high if some pixels attend mostly to the word."""
    strongest = max(1, int(_PRESENCE_SHARE * word_map.numel()))
    return float(word_map.flatten().topk(strongest).values.mean())
