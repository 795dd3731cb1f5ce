"""Options for fitting tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovam.checks import listed, number, text, whole
from ovam.errors import OptionError
from ovam.masks.annotations import IGNORE
from ovam.masks.pictures import Colour
from ovam.prompt import list_of_words
from ovam.trace.blocks import BlockChoice, checked_blocks
from ovam.trace.calls import Half, StepChoice, step_numbers

AGAINST = ("sky", "grass", "tree", "water", "road", "building", "wall", "floor")
"""Things that most pictures show. By default, further rows of the background start as these words."""
PHRASES = ("{}", "a photograph of the {}", "the {}")
"""Phrases for the rows of a class. Each row starts as the last token of the class name in one phrase; the text encoder
gives this token another vector in each phrase."""
EVALUATIONS = 20
PULL = 30.0
"""Between the best ones on validation scenes of two versions of mini, 10 and 100."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options for fitting tokens. Values are checked when the object is made.

    Attributes:
        against: Words for other things in the pictures, such as ["sky", "grass"]: one more row of the background
            starts as each word. None means `AGAINST` without the classes. An empty list leaves one row of the
            background; the fit is then faster and, on mini, worse.
        rows: Number of vectors per class, at most one per phrase of `PHRASES`. Several can describe several looks of
            one class.
        ignore: Number of ignored pixels in the masks.
        mask_threshold: Share of white above which a mask's pixel belongs to the object, as in `annotation_of`.
        mask_colour: Colour of the object in masks with several colours, as in `annotation_of`.
        guidance: As in `Trace.maps`.
        blocks: As in `Trace.maps`.
        steps: As in `Trace.maps`.
        evaluations: Maximum number of evaluations of the loss; the first one is at the start.
        pull: Weight of the mean square of all steps away from the start, in units of the spread of a word's vectors.
            Steps of the calibration's two numbers count ten times. The weight is divided by the number of annotations,
            because each one adds information.
        distance: Where all rows start, on the line from the background's start (0) to their words (1). If attention is
            sharp, a start near 0, where attention is even, makes the fit easier, but it keeps less of the words.
        licence: Licence under which the tokens may be used.

    Raises:
        OptionError: a value is not allowed.
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
        """How masks are read, as keywords of `annotation_of`."""
        return {"ignore": self.ignore, "mask_threshold": self.mask_threshold, "mask_colour": self.mask_colour}

    def rivals(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the words as which further rows of the background start.

        Raises:
            OptionError: a class is among them.
        """
        known = {name.casefold() for name in classes}
        if self.against is None:
            return tuple(word for word in AGAINST if word not in known)
        words = [self.against] if isinstance(self.against, str) else self.against
        rivals = list_of_words(words) if words else ()
        for name in rivals:
            if name.casefold() in known:
                raise OptionError(
                    f"class {name!r} is in `against` as well: expected only words for things that are not annotated"
                )
        return tuple(dict.fromkeys(rivals))


def _texts(words: Sequence[str]) -> tuple[str, ...]:
    found = listed("against", words)
    if not all(isinstance(word, str) for word in found):
        raise OptionError(f"against={words!r}: expected a list of words")
    return tuple(found)
