"""The result of a segmentation: a label map and masks of words."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ovam.errors import UnknownWordError
from ovam.maps.result import AttentionMaps
from ovam.prompt import folded
from ovam.shapes import LabelMap, Mask


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of words at the image's size.

    Attributes:
        labels: 0 is background, i + 1 is the i-th word.
        words: The words, in the order of the maps.
        scores: Calibrated map of each word, (word, height, width), in [0, 1].
        presence: How strongly the image attends to each word, in [0, 1], from its map before calibration. Values of
            one word can be compared between images of one model. There is no threshold for it, and words with more
            tokens have a higher base level.
        threshold: Score of the background.
        maps: The maps from which the masks were made, contrast words included.
    """

    labels: LabelMap
    words: tuple[str, ...]
    scores: Tensor
    presence: Mapping[str, float]
    threshold: float
    maps: AttentionMaps

    def __getitem__(self, word: str) -> Mask:
        """Return the binary mask of a word; the other words do not matter for it.

        Raises:
            UnknownWordError: the word was not segmented.
        """
        places = [i for i, name in enumerate(self.words) if folded(name) == folded(word)]
        if not places:
            raise UnknownWordError(
                f"word {word!r} was not segmented, but {', '.join(map(repr, self.words))} were: "
                "segment the trace again with it in the list, which needs no new run of the model"
            )
        return self.scores[places[0]] > self.threshold

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"Segmentation({', '.join(map(repr, self.words))}; {height} x {width} pixels)"
