"""From maps to masks: calibrate each word's map, let the words compete with the background, and label pixels.

First form. The order is fixed: aggregate, (refine, later), calibrate, presence, compete, mask.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovam.errors import OptionError
from ovam.maps import SoftmaxOver, Strategy, attention_maps
from ovam.prompt import listed
from ovam.shapes import LabelMap, Map, Mask
from ovam.trace import BlockChoice, Half, Trace

THRESHOLD = 0.5
_PRESENCE_SHARE = 0.02
_ROUNDING = 1e-5  # a spread below this share of the greatest value is float32 rounding, not a map


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of words at the image's size.

    Attributes:
        labels: 0 is background, i + 1 the i-th word.
        words: The words, in the order they were asked.
        scores: Calibrated map of each word, (word, height, width), in [0, 1].
        presence: How strongly the image attends to a word at all, from its map before calibration, in [0, 1].
            Comparable for one word between images of one model, with no threshold of its own; words of more tokens
            start from a higher level.
        threshold: Score of the background.
    """

    labels: LabelMap
    words: tuple[str, ...]
    scores: Tensor
    presence: Mapping[str, float]
    threshold: float

    def __getitem__(self, word: str) -> Mask:
        """Binary mask of a word, without regard to the other words.

        Raises:
            UnknownWordError: the word was not asked.
        """
        if word not in self.words:
            from ovam.errors import UnknownWordError

            raise UnknownWordError(
                f"word {word!r} was not segmented: asked were {', '.join(map(repr, self.words))}; "
                "ask the trace again with it in the list, which needs no new run of the model"
            )
        return self.scores[self.words.index(word)] > self.threshold

    @property
    def masks(self) -> dict[str, Mask]:
        """Binary mask of each word, without regard to the other words; they may overlap."""
        return {word: self[word] for word in self.words}


def segment(
    trace: Trace,
    words: Sequence[str],
    *,
    against: Sequence[str] = (),
    threshold: float = THRESHOLD,
    half: Half | None = None,
    blocks: BlockChoice = None,
    steps: Iterable[int] | None = None,
    softmax_over: SoftmaxOver = "prompt",
    strategy: Strategy = "attention",
) -> Segmentation:
    """Label every pixel of the image with one of the words or as background.

    Args:
        trace: Queries of one run.
        words: Words or phrases; each is an attribution prompt of its own.
        against: Words that compete as well and are then dropped: what they win becomes background.
        threshold: Score of the background, in (0, 1): a pixel whose best word does not exceed it is background.
        half: As in `attention_maps`.
        blocks: As in `attention_maps`.
        steps: As in `attention_maps`.
        softmax_over: As in `attention_maps`.
        strategy: As in `attention_maps`.

    Raises:
        EmptyWordsError: no words.
        OptionError: a word is listed twice, or the threshold is not in (0, 1).
        The errors of `attention_maps`.
    """
    asked, rivals = check_words(words, against, threshold)
    maps = attention_maps(
        trace,
        [*asked, *rivals],
        half=half,
        blocks=blocks,
        steps=steps,
        softmax_over=softmax_over,
        strategy=strategy,
    )
    raw = maps.stacked()
    scores = torch.stack([calibrated(word_map) for word_map in maps.resized().stacked()])
    best, winner = scores.max(dim=0)
    labels = torch.where((best > threshold) & (winner < len(asked)), winner + 1, 0)
    found = {word: presence(raw[i]) for i, word in enumerate(asked)}
    return Segmentation(labels, asked, scores[: len(asked)], found, threshold)


def check_words(
    words: Sequence[str], against: Sequence[str] = (), threshold: float = THRESHOLD
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Check what `segment` is asked, without a trace; gives the words and the contrast words, blanks around them cut.

    Raises:
        EmptyWordsError: no words.
        OptionError: a word is listed twice, or the threshold is not in (0, 1).
    """
    asked = listed([words] if isinstance(words, str) else words)
    rivals = listed([against] if isinstance(against, str) else against) if against else ()
    every = asked + rivals
    twice = sorted({word for word in every if every.count(word) > 1})
    if twice:
        raise OptionError(f"word {twice[0]!r} is listed twice: expected each word once, in `words` or in `against`")
    if not 0 < threshold < 1:
        raise OptionError(f"threshold={threshold}: expected a number between 0 and 1, exclusive")
    return asked, rivals


def calibrated(word_map: Map) -> Map:
    """Stretch a map to [0, 1] by its own least and greatest value; a constant map becomes 0.

    The one change of scale on the way to a mask. A raw map's level depends on the number of tokens in its
    attribution prompt, so that levels of two words can't be compared as they are.
    """
    low, high = word_map.min(), word_map.max()
    return (word_map - low) / (high - low) if high - low > _ROUNDING * high else torch.zeros_like(word_map)


def presence(word_map: Map) -> float:
    """Mean of the strongest 2 % of an uncalibrated map: high where some pixels attend to the word above all."""
    strongest = max(1, int(_PRESENCE_SHARE * word_map.numel()))
    return float(word_map.flatten().topk(strongest).values.mean())
