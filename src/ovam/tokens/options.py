"""How tokens are fitted: the options of the stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovam.checks import listed, number, text, whole
from ovam.errors import OptionError
from ovam.masks.annotations import IGNORE
from ovam.masks.pictures import Colour
from ovam.prompt import listed as listed_words
from ovam.trace.blocks import BlockChoice, checked_blocks
from ovam.trace.calls import Half, StepChoice, step_numbers

AGAINST = ("sky", "grass", "tree", "water", "road", "building", "wall", "floor")
"""What else most pictures show; rows of the background begin as these unless other words are given."""
PHRASES = ("{}", "a photograph of the {}", "the {}")
"""Where the rows of a class begin: the last token of its name in each. Text encoders give it other vectors in each."""
EVALUATIONS = 20
PULL = 10.0


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How tokens are fitted. Values are checked when it is made.

    Attributes:
        against: Words for what else pictures show, such as ["sky", "grass"]: further rows of the background, which
            begin as these. `AGAINST` without the classes when None; an empty list leaves one row, whose fit is faster
            and, on mini, worse.
        rows: Vectors of each class, at most one a phrase of `PHRASES`: several tell several looks of one class.
        ignore: Number in the masks of pixels that count for nothing.
        mask_threshold: Share of white above which a mask's pixel is the object's, as in `annotation_of`.
        mask_colour: Colour of the object in masks of several colours, likewise.
        guidance: As in `Trace.maps`.
        blocks: As in `Trace.maps`.
        steps: As in `Trace.maps`.
        evaluations: Most evaluations of the loss; the first is of the start.
        pull: Weight of the mean square of all steps away from the start, in units of the spread of a word's vectors;
            the calibration's two numbers are pulled ten times as hard. Divided by the number of annotations, which
            all tell something.
        distance: Where all rows begin on the way from the background's start, 0, to their words, 1. Where attention is
            sharp, a fit that begins near 0, where all attention is even, is easier, and keeps less of the words.
        licence: Under which the tokens may be used.

    Raises:
        OptionError: a value is none of these.
        EmptyWordsError: an entry of `against` has no word.
    """

    against: str | Sequence[str] | None = None
    rows: int = len(PHRASES)
    ignore: int = IGNORE
    mask_threshold: float | None = None
    mask_colour: Colour | None = None
    guidance: Half | None = None
    blocks: BlockChoice = None
    steps: StepChoice = None
    evaluations: int = EVALUATIONS
    pull: float = PULL
    distance: float = 1.0
    licence: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", checked_blocks(self.blocks))
        object.__setattr__(self, "steps", step_numbers(self.steps))
        if whole("rows", self.rows, least=1) > len(PHRASES):
            raise OptionError(
                f"rows={self.rows}: expected 1 to {len(PHRASES)}, one for each phrase that a row can begin in"
            )
        whole("evaluations", self.evaluations, least=1)
        whole("ignore", self.ignore, least=0)
        text("licence", self.licence)
        if self.against is not None and not isinstance(self.against, str):
            object.__setattr__(self, "against", _texts(self.against))
        number("pull", self.pull, least=0.0)
        if not 0 < number("distance", self.distance, least=0.0) <= 1:
            raise OptionError(f"distance={self.distance}: expected a number above 0 and at most 1")

    @property
    def reading(self) -> dict[str, Any]:
        """How masks are read, as `annotation_of` takes it."""
        return {"ignore": self.ignore, "mask_threshold": self.mask_threshold, "mask_colour": self.mask_colour}

    def rivals(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The words that rows of the background begin as.

        Raises:
            OptionError: a class is among them.
        """
        known = {name.casefold() for name in classes}
        if self.against is None:
            return tuple(word for word in AGAINST if word not in known)
        words = [self.against] if isinstance(self.against, str) else self.against
        rivals = listed_words(words) if words else ()
        for name in rivals:
            if name.casefold() in known:
                raise OptionError(
                    f"class {name!r} is in `against` as well: expected words for what is not annotated there"
                )
        return tuple(dict.fromkeys(rivals))


def _texts(words: Sequence[str]) -> tuple[str, ...]:
    found = listed("against", words)
    if not all(isinstance(word, str) for word in found):
        raise OptionError(f"against={words!r}: expected a list of words")
    return tuple(found)
