"""What masks are made of, from wherever it comes: a picture, the classes of its pixels, and how to trace it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lab.fits.scenes import LEAST_SCORED
from lab.mini.oracle import IGNORE
from ovam.masks.annotations import Annotation
from ovam.mini.scenes import CLASSES, LABELS
from ovam.trace.trace import Trace

VALIDATION, SCENES, SIMPLE, CAPTIONS, TRUTH = "validation", "scenes", "simple", "captions", "truth"
WORLD_NUMBERS = {name: LABELS[name] for name in CLASSES}

Needs = Mapping[str, Any]
"""Options of a capture."""


@dataclass(frozen=True)
class Example:
    """One picture.

    Attributes:
        name: Unique in its set.
        image: (height, width, 3) uint8.
        labels: Class numbers, 0 for all else, `IGNORE` where nobody knows, (height, width) uint8.
        prompt: What it was generated from; empty for a scene and a photograph.
        traced: From options of a capture to the picture's trace.
        numbers: Number of each class.
    """

    name: str
    image: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    prompt: str
    traced: Callable[[Needs], Trace] = field(repr=False)
    numbers: Mapping[str, int] = field(default_factory=lambda: WORLD_NUMBERS, repr=False)

    @property
    def counted(self) -> np.ndarray:
        """Pixels whose class is known, (height, width) bool."""
        return np.ascontiguousarray(self.labels != IGNORE)

    @property
    def classes(self) -> list[str]:
        """Classes that cover more than a hundredth of the picture."""
        return [name for name in self.numbers if self.truth(name).mean() > LEAST_SCORED]

    def truth(self, name: str) -> np.ndarray:
        """Where a class is, (height, width) bool."""
        return np.ascontiguousarray(self.labels == self.numbers[name])


@dataclass(frozen=True)
class Annotated:
    """A picture that a token is fitted on.

    Attributes:
        image: A file, or (height, width, 3) uint8.
        marks: Where the class is.
        seed: Of the noise that the picture enters with.
    """

    image: Path | np.ndarray = field(repr=False)
    marks: Annotation | Mapping[str, np.ndarray] = field(repr=False)
    seed: int


class Source(Protocol):
    """Where pictures come from.

    Attributes:
        classes: All that may be shown.
        sets: Names of the sets that are scored.
        main: The set that ablations are made on.
        fitted_on: What a token is fitted on, for the page.
        chosen_on: What thresholds are chosen on, for the page.
    """

    classes: Sequence[str]
    sets: Sequence[str]
    main: str
    fitted_on: str
    chosen_on: str

    def examples(self, pipe: Any, name: str, count: int) -> Iterator[Example]:
        """The first `count` pictures of a set, or of `VALIDATION`."""

    def annotated(self, classes: Sequence[str], count: int) -> dict[str, list[Annotated]]:
        """The first `count` pictures of each class that tokens are fitted on; there may be fewer, or none."""

    def basis(self, name: str) -> Any:
        """What the truth of a set depends on; of "annotated" what the fits depend on."""

    def heading(self, name: str) -> str:
        """What a set is, for the page."""


def encoded(needs: Needs) -> dict[str, Any]:
    """The options of a capture that encoding a picture has as well: it has no guidance and its own steps."""
    return {name: value for name, value in needs.items() if name not in ("guidance", "steps")}


def captured(needs: Needs) -> dict[str, Any]:
    """The options of a capture alone: a run has its own time steps."""
    return {name: value for name, value in needs.items() if name != "timesteps"}


def seen_of(examples: Iterable[Example]) -> tuple[int, float]:
    """Number of pictures, and the mean share of their pixels whose class nobody knows."""
    shares = [float((~example.counted).mean()) for example in examples]
    return len(shares), float(np.mean(shares)) if shares else 0.0


def in_order(names: Iterable[str]) -> list[str]:
    """Classes in the world's order, then others by name."""
    return sorted(names, key=lambda name: (CLASSES.index(name) if name in CLASSES else len(CLASSES), name))
