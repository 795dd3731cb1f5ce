"""Make masks from maps.

The steps have a fixed order: calibrate the maps, set the scores of words with low presence (the probability that the
picture shows the word) to 0, apply the CRF, lower the scores where contrast words (the words of `against`) are
stronger, label the pixels, and clean the labels. Maps that are to be refined are refined before all these steps.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ovam.defaults import CHOSEN
from ovam.errors import (
    EmptyWordsError,
    NothingCapturedError,
    OptionError,
    UnknownWordError,
)
from ovam.maps.calibration import Calibration, stretched
from ovam.maps.compute import attention_maps
from ovam.maps.resize import resize
from ovam.maps.result import AttentionMaps
from ovam.maps.thresholds import Thresholds, moved
from ovam.maps.words import Listed, check_different, contrast_of, entries_of, names_of
from ovam.masks.annotations import IGNORE
from ovam.masks.compete import Scores, after_crf, contested
from ovam.masks.options import MaskOptions, SegmentOptions
from ovam.masks.presence import absent, presences
from ovam.masks.regions import cleaned
from ovam.masks.result import Segmentation
from ovam.precision import float32
from ovam.prompt import folded
from ovam.refine.crf_options import CrfOptions, crf_choice
from ovam.refine.options import refine_choice
from ovam.refine.self_attention import refined
from ovam.shapes import Map
from ovam.trace.trace import Trace


@float32()
def segment(maps: AttentionMaps, options: MaskOptions) -> Segmentation:
    """Label every pixel of the image with one of the words of the maps, or as background.

    Args:
        maps: Maps of words, phrases and optimised tokens, each once. The contrast words (`against`) must be among the
            words of these maps; `Trace.segment` makes maps of the contrast words itself. For optimised tokens use the
            threshold 0.5: their scores are calibrated for this threshold. If a token has a threshold of its own, its
            scores are moved so that the token's threshold lies at 0.5.
        options: See `MaskOptions`.

    Raises:
        UnknownWordError: a word in `against` has no map here.
        EmptyWordsError: all words are in `against`.
        OptionError: a word occurs twice, the maps keep axes apart, or an option has a value that is not allowed.
        NothingCapturedError: the options ask for a CRF, but the maps have no picture.
    """
    word_places, contrast_places = _places(maps, options)
    words = tuple(maps.words[i] for i in word_places)
    every_score, every_presence = calibrated(maps), presences(maps)
    presence = {word: every_presence[word] for word in words}
    scores, contrast = every_score[word_places], every_score[contrast_places]
    gone = absent(maps, presence, options.presence)
    scores[[i for i, word in enumerate(words) if word in gone]] = 0.0
    crf = crf_choice(options.crf)
    if crf is not None:
        scores, contrast = after_crf(scores, contrast, options.threshold, _picture(maps, crf), crf)
    scores = contested(scores, contrast, options.threshold)
    labels, areas = _labels(scores, options), (options.min_area, options.max_hole)
    return Segmentation(labels, words, scores, presence, options.threshold, maps, *areas)


def _places(maps: AttentionMaps, options: MaskOptions) -> tuple[list[int], list[int]]:
    """Return the positions of the words, and the positions of the contrast words, in `maps.words`."""
    if maps.kept:
        raise OptionError(
            f"these maps keep {' and '.join(maps.kept)} apart: expected one map per word; make the maps without "
            "keep=..."
        )
    check_different(maps.words)
    contrast = {folded(name) for name in names_of(contrast_of(options.against))}
    missing = contrast.difference(map(folded, maps.words))
    if missing:
        raise UnknownWordError(
            f"word {min(missing)!r} in `against` has no map here: expected one of "
            f"{', '.join(map(repr, maps.words))}; include the word when you make the maps, trace.maps([..., 'word']), "
            "or use trace.segment(words, against=[...])"
        )
    word_places = [i for i, word in enumerate(maps.words) if folded(word) not in contrast]
    if not word_places:
        raise EmptyWordsError("every word of these maps is in `against`: expected at least one that is not")
    return word_places, [i for i in range(len(maps.words)) if i not in word_places]


def _labels(scores: Scores, options: MaskOptions) -> Tensor:
    """Label each pixel with its strongest word above the threshold, with 0 for background or with 255 for undecided."""
    best, winner = scores.max(dim=0)
    labels = torch.where(best > options.threshold, winner + 1, 0)
    labels = cleaned(labels, min_area=options.min_area, max_hole=options.max_hole)
    undecided = (best - options.threshold).abs() < options.ignore
    return torch.where(undecided, IGNORE, labels)


def _picture(maps: AttentionMaps, crf: CrfOptions) -> np.ndarray:
    """Return the run's picture (height, width, 3) uint8."""
    if maps.image_png is None:
        raise NothingCapturedError(
            f"a CRF with {crf} needs the picture, and the run of these maps returned latents: run the pipeline with "
            "output_type='pil', or leave crf out"
        )
    return np.asarray(maps.picture())


def segment_words(trace: Trace, words: Listed, options: SegmentOptions) -> Segmentation:
    """Make maps of `words` and of the contrast words (`against`), refine them if the options say so, and make masks.

    Args:
        trace: Queries of one run.
        words: Words or phrases, `TokenSet`s, or both in one list. Each word is its own attribution prompt.
        options: See `SegmentOptions`.

    Raises:
        The errors of `SegmentOptions.check`, `attention_maps`, `refined` and `segment`.
    """
    options.check(words)
    maps = attention_maps(trace, [*entries_of(words), *contrast_of(options.against)], options)
    if options.gains is not None:
        maps = maps.with_gains(options.gains)
    refine = refine_choice(options.refine)
    if refine is not None:
        maps = refined(maps, refine)
    return segment(maps, options)


WORD_CALIBRATIONS: Mapping[str, Calibration] = {
    kind: Calibration(found["scale"], -found["scale"] * found["border"])
    for kind, found in CHOSEN.get("words", {}).items()
}
"""Calibrations for words: "plain" for plain maps, "refined" for refined maps; with word gains "plain, gains" and
"refined, gains". Without a calibration, a word's score is its stretched map."""
GAIN_WEIGHT: float = CHOSEN["gains"]["weight"]
"""What a word's gain is multiplied with when it is added to the stretched map."""


def word_calibration(maps: AttentionMaps) -> Calibration | None:
    """Return the calibration of words that fits `maps`: plain or refined, with gains or without; None if there is none.

    The calibrations were chosen on validation scenes.
    """
    kind = "refined" if maps.refined else "plain"
    return WORD_CALIBRATIONS.get(kind if maps.gains is None else f"{kind}, gains")


def calibrated(maps: AttentionMaps) -> Scores:
    """Return the scores of all words at the image's size, in [0, 1]; see `scores_by`."""
    return scores_by(maps, word_calibration(maps))


def scores_by(maps: AttentionMaps, of_words: Calibration | None) -> Scores:
    """Return the scores of all words at the image's size, in [0, 1].

    The calibration of words, if there is one, turns a word's share (`share_of`) into scores: a pixel with a score above
    0.5 belongs to the word. A token has a calibration of its own. If it has a threshold of its own too, its scores are
    moved so that this threshold lies at 0.5.
    """
    scores = torch.empty(len(maps), *maps.image_size)
    for i, name in enumerate(maps.words):  # one map after the other: for a photograph each map takes 50 MB
        calibration, shares = maps.calibrations.get(name, of_words), share_of(maps, name)
        scores[i] = shares.clamp(0, 1) if calibration is None else calibration(shares)
        scores[i] = moved(scores[i], maps.thresholds.get(name, Thresholds()).mask)
    return scores


def share_of(maps: AttentionMaps, word: str, *, gain_weight: float = GAIN_WEIGHT) -> Map:
    """Return a word's map at the image's size, stretched to [0, 1], with the word's gains added if the maps have gains.

    A word's map is resized first and then stretched. The map of an optimised token is stretched first, at the map's own
    grid, because the token's calibration was fitted to maps that were stretched at this grid.

    Args:
        maps: Maps of words and tokens.
        word: One of them.
        gain_weight: What the gains are multiplied with.
    """
    size = maps.image_size
    shares = resize(stretched(maps[word]), size) if word in maps.calibrations else stretched(resize(maps[word], size))
    return shares if maps.gains is None else shares + gain_weight * resize(maps.gains[word], size)
