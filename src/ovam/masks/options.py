"""Options for making masks from maps."""

from dataclasses import dataclass

from ovam.checks import number
from ovam.errors import OptionError
from ovam.maps.options import MapOptions, check_rivals
from ovam.maps.words import Listed, check_different, contrast_of, entries_of, names_of


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Options for making masks from maps. Values are checked when the object is made.

    Attributes:
        against: Contrast words. They compete with the words; the pixels that they win become background.
        threshold: Score of the background, in (0, 1): a pixel whose best word does not exceed it is background.

    Raises:
        OptionError: a value is not allowed.
        EmptyWordsError: an entry of `against` has no word.
    """

    against: Listed = ()
    threshold: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "against", contrast_of(self.against))
        threshold = number("threshold", self.threshold, least=0.0, below=1.0)
        if threshold == 0:
            raise OptionError(f"threshold={self.threshold!r}: expected a number between 0 and 1, exclusive")
        object.__setattr__(self, "threshold", threshold)


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(MaskOptions, MapOptions):
    """Options for both steps from a trace to masks: maps and masks."""

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        MaskOptions.__post_init__(self)

    def check(self, words: Listed) -> None:
        """Check, before there is a trace, that these words can be segmented with these options.

        Raises:
            EmptyWordsError: there is no word.
            OptionError: a word is listed twice, an entry is not a word, or the strategy needs more words.
        """
        every = names_of([*entries_of(words), *contrast_of(self.against)])
        check_different(every)
        if self.strategy == "output":
            check_rivals(every)
