"""From maps to masks: calibrate each word's map, let the words compete with the background, and label pixels.

First form. The order is fixed: aggregate, (refine, later), calibrate, presence, compete, mask.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.aggregate import resize
from ovam.asked import entries_of, fitted_in
from ovam.calibration import Calibration, stretched
from ovam.errors import OptionError, UnknownWordError
from ovam.map_options import SoftmaxOver, Strategy, check_options, check_rivals
from ovam.maps import attention_maps
from ovam.precision import float32
from ovam.prompt import folded
from ovam.shapes import LabelMap, Map, Mask
from ovam.trace import BlockChoice, Fitted, Half, Listed, Trace
from ovam.word_maps import AttentionMaps

Scores = Float[Tensor, "word height width"]
THRESHOLD = 0.5
_PRESENCE_SHARE = 0.02


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
        places = [i for i, name in enumerate(self.words) if folded(name) == folded(word)]
        if not places:
            raise UnknownWordError(
                f"word {word!r} was not segmented: asked were {', '.join(map(repr, self.words))}; "
                "ask the trace again with it in the list, which needs no new run of the model"
            )
        return self.scores[places[0]] > self.threshold


@float32()
def segment(
    trace: Trace,
    words: Listed,
    *,
    against: Listed = (),
    threshold: float = THRESHOLD,
    half: Half | None = None,
    blocks: BlockChoice = None,
    steps: int | Iterable[int] | None = None,
    softmax_over: SoftmaxOver = "prompt",
    strategy: Strategy = "attention",
) -> Segmentation:
    """Label every pixel of the image with one of the words or as background.

    Args:
        trace: Queries of one run.
        words: Words or phrases, each an attribution prompt of its own; a TokenSet, or several among the words. A
            token's score has its border at 0.5 as it was fitted.
        against: Words that compete as well and are then dropped: what they win becomes background.
        threshold: Score of the background, in (0, 1): a pixel whose best word does not exceed it is background.
        half: As in `attention_maps`.
        blocks: As in `attention_maps`.
        steps: As in `attention_maps`.
        softmax_over: As in `attention_maps`.
        strategy: As in `attention_maps`.

    Raises:
        EmptyWordsError: no words.
        OptionError: a word is listed twice, something is no word, or the threshold is not in (0, 1).
        The errors of `attention_maps`.
    """
    asked, rivals = check_words(words, against, threshold, strategy=strategy)
    names, every = names_of(asked), [*asked, *rivals]
    maps = attention_maps(
        trace, every, half=half, blocks=blocks, steps=steps, softmax_over=softmax_over, strategy=strategy
    )
    scores = calibrated(maps, {name: one for tokens in fitted_in(every) for name, one in tokens.calibrations.items()})
    best, winner = scores.max(dim=0)
    labels = torch.where((best > threshold) & (winner < len(names)), winner + 1, 0)
    found = {name: presence(maps[i]) for i, name in enumerate(names)}
    return Segmentation(labels, names, scores[: len(names)], found, threshold)


def check_words(
    words: Listed, against: Listed = (), threshold: float = THRESHOLD, *, strategy: Strategy = "attention"
) -> tuple[tuple[str | Fitted, ...], tuple[str | Fitted, ...]]:
    """Check what `segment` is asked, without a trace; gives the words and the contrast words, blanks around them cut.

    Raises:
        EmptyWordsError: no words.
        OptionError: a word is listed twice, something is no word, the threshold is not in (0, 1), or the strategy
            needs more words.
    """
    check_options((), "prompt", strategy)
    asked = entries_of(words)
    nothing = isinstance(against, str | Sequence) and not against
    rivals = () if nothing else entries_of(against)
    every = names_of([*asked, *rivals])
    _check_different(every)
    if not 0 < threshold < 1:
        raise OptionError(f"threshold={threshold}: expected a number between 0 and 1, exclusive")
    if strategy == "output":
        check_rivals(every)
    return asked, rivals


def _check_different(words: Sequence[str]) -> None:
    """Most text encoders read all letters as small ones: of "dog" and "Dog", the same map, one would win every pixel.

    Raises:
        OptionError: a word is listed twice, or as another but for its capitals or how its accents are composed.
    """
    for i, word in enumerate(words):
        same = [other for other in words[:i] if folded(other) == folded(word)]
        if same:
            also = "" if same[0] == word else f", as {same[0]!r} as well, which most text encoders read as one"
            raise OptionError(
                f"word {word!r} is listed twice{also}: expected each once, in `words` or in `against`, where the "
                "classes of tokens are words as well; ask a word and its token one after the other"
            )


def names_of(entries: Iterable[str | Fitted]) -> tuple[str, ...]:
    """Words, and the classes of fitted tokens among them, in order."""
    return tuple(name for entry in entries for name in ([entry] if isinstance(entry, str) else entry.classes))


def calibrated(maps: AttentionMaps, calibrations: Mapping[str, Calibration]) -> Scores:
    """Scores of all words at the image's size, in [0, 1].

    A fitted token has a calibration; a word's map is stretched to [0, 1] by its own least and greatest value.
    """
    height, width = maps.image_size
    fine = maps.resized()
    rows = [
        calibrations[name](resize(stretched(maps[i]), (height, width))) if name in calibrations else stretched(fine[i])
        for i, name in enumerate(maps.words)
    ]
    return torch.stack(rows)


def presence(word_map: Map) -> float:
    """Mean of the strongest 2 % of an uncalibrated map: high where some pixels attend to the word above all."""
    strongest = max(1, int(_PRESENCE_SHARE * word_map.numel()))
    return float(word_map.flatten().topk(strongest).values.mean())
