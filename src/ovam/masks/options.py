"""Options for making masks from maps."""

from dataclasses import dataclass

from ovam.checks import inner_share, number, whole
from ovam.maps.gains import WordGains, checked_gains
from ovam.maps.options import MapOptions, check_at_least_two
from ovam.maps.words import Listed, check_different, contrast_of, entries_of, names_of
from ovam.refine.crf_options import CrfChoice, crf_choice
from ovam.refine.options import RefineChoice, refine_choice


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Options for making masks from maps. Values are checked when the object is made.

    Attributes:
        against: Contrast words. Pixels where a contrast word is stronger become background in masks and labels; the
            scores of the words are lowered there.
        threshold: Score of the background, in (0, 1): a pixel is background if no word has a higher score. If an
            optimised token has a threshold of its own, its scores are moved so that this threshold lies at 0.5.
        presence: Minimum presence, in [0, 1): a word with a smaller presence counts as absent and gets no pixels. By
            default only optimised tokens with a presence threshold of their own can count as absent: the presence of
            such a token is moved so that its threshold lies at 0.5, and the token counts as absent if the moved
            presence is below 0.5. With 0 no word is absent. A word with a presence below 0.5 is probably not in the
            picture.
        crf: Whether a dense CRF makes masks follow the picture's edges: True, False or `CrfOptions`.
        ignore: Undecided margin: half the width of a range of scores around the threshold, in [0, 0.5). Pixels whose
            best score is in this range are undecided and get the label 255; training on the label map should ignore
            these pixels. (The `ignore` of `annotation_of` is something else: the value of pixels to ignore.)
        min_area: Pieces of the label map with fewer pixels become background.
        max_hole: Holes of up to this many pixels are filled.

    Raises:
        OptionError: a value is not allowed.
        EmptyWordsError: an entry of `against` has no word.
    """

    against: Listed = ()
    threshold: float = 0.5
    presence: float | None = None
    crf: CrfChoice = False
    ignore: float = 0.0
    min_area: int = 0
    max_hole: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "against", contrast_of(self.against))
        object.__setattr__(self, "threshold", inner_share("threshold", self.threshold))
        if self.presence is not None:
            object.__setattr__(self, "presence", number("presence", self.presence, least=0.0, below=1.0))
        crf_choice(self.crf)
        object.__setattr__(self, "ignore", number("ignore", self.ignore, least=0.0, below=0.5))
        for name in ("min_area", "max_hole"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=0))


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(MaskOptions, MapOptions):
    """Options for all steps from a trace to masks: maps, refinement and masks.

    Attributes:
        refine: Whether the image's self-attention refines the maps first: True, False or `RefineOptions`.
        gains: Word gains of the same picture, from `ovam.word_gains`, for all words and contrast words. The gains are
            added to the maps, and presence is computed from them: masks of words that are not there get rare.
    """

    refine: RefineChoice = False
    gains: WordGains | None = None

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        MaskOptions.__post_init__(self)
        refine_choice(self.refine)
        if self.gains is not None:
            checked_gains(self.gains)

    def check(self, words: Listed) -> None:
        """Check, before there is a trace, that these words can be segmented with these options.

        Raises:
            EmptyWordsError: there is no word.
            OptionError: a word is listed twice, an entry is not a word, or the strategy needs at least two words.
            UnknownWordError: a word has no gains, although `gains` are given.
        """
        every = names_of([*entries_of(words), *contrast_of(self.against)])
        check_different(every)
        if self.strategy == "output":
            check_at_least_two(every)
        if self.gains is not None:
            for word in every:
                self.gains.place(word)
