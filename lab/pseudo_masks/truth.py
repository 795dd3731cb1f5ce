"""Annotated pictures of the user, in the place of the embedded model's world."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lab.fits.scenes import LEAST_ANNOTATED
from lab.pseudo_masks.annotators import state_of
from lab.pseudo_masks.examples import TRUTH, VALIDATION, Annotated, Example, Needs, Source, encoded
from ovam.errors import DatasetError, OptionError
from ovam.masks.annotations import annotation_from_labels
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode
from ovam.train.classes import IGNORE, Classes
from ovam.train.files import read_mask, read_picture
from ovam.train.folder import Labelled, read_labelled
from ovam.train.survey import survey

Pairs = tuple[tuple[Path, Path], ...]
"""Pictures with their masks."""

LEAST_PICTURES = 4
"""Fewer can't be dealt to fits, thresholds and figures."""


@dataclass(frozen=True)
class Parts:
    """Which pictures are used for what; none is used for two things.

    Attributes:
        annotated: Tokens are fitted on some of them.
        validation: Thresholds are chosen on them.
        measured: What is scored.
    """

    annotated: Pairs
    validation: Pairs
    measured: Pairs


def parts_of(folder: Path) -> tuple[Labelled, Parts]:
    """Read a folder and deal its pictures.

    A folder with a validation part (`val`) is measured on that part. The pictures of its training part are dealt in
    turns: one to the fits, one to the thresholds. In a folder without parts, and in one whose only part is `val`, every
    four pictures are dealt so: one to the fits, one to the thresholds, two to the figures.

    Raises:
        DatasetError: the folder can't be read; see `ovam.train.read_labelled`.
        OptionError: it has too few pictures.
    """
    found = read_labelled(folder, "val")
    others: Pairs = ()
    if found.split is not None:
        held = set(found.pairs)
        others = tuple(pair for pair in _training_of(folder) if pair not in held)
    if len(others) >= 2:
        parts = Parts(others[::2], others[1::2], found.pairs)
    else:
        rest = tuple(pair for i, pair in enumerate(found.pairs) if i % 4 > 1)
        parts = Parts(found.pairs[::4], found.pairs[1::4], rest)
    if len(found.pairs) < LEAST_PICTURES and len(others) < 2:
        raise OptionError(
            f"--truth {folder} has {len(found.pairs)} pictures: expected at least {LEAST_PICTURES}, which are dealt to "
            "fits of tokens, to the choice of thresholds, and to the figures"
        )
    return found, parts


def _training_of(folder: Path) -> Pairs:
    """Return the pictures of the training part, of which there may be none."""
    try:
        return read_labelled(folder, "train").pairs
    except DatasetError as error:
        if "has no pictures" not in str(error):
            raise
        return ()


class Annotations(Source):
    """Annotated pictures in a folder, measured through `encode` with the empty prompt.

    All masks are looked at first.

    Args:
        folder: As `ovam.train.read_labelled` reads it: Pascal VOC's layout, pictures with label maps and `names.json`,
            or a data set of `ovam dataset`.

    Raises:
        DatasetError: the folder can't be read, a mask and its picture differ in size, or a mask holds the number of no
            class.
        OptionError: it has too few pictures.
    """

    sets: Sequence[str] = (TRUTH,)
    main = TRUTH
    fitted_on = "picture of the folder, which is neither measured nor chosen on"
    chosen_on = "other pictures of the folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found, self._parts = parts_of(folder)
        pairs = (*self._parts.annotated, *self._parts.validation, *self._parts.measured)
        survey(replace(found, pairs=pairs), Classes.of(found.classes))
        self._named = dict(found.classes)
        self._numbers = {name: number for number, name in found.classes.items()}
        self.classes: Sequence[str] = list(self._numbers)

    def examples(self, pipe: Any, name: str, count: int) -> Iterator[Example]:
        """The first `count` measured pictures, or those that thresholds are chosen on."""
        pairs = (self._parts.validation if name == VALIDATION else self._parts.measured)[:count]
        for number, (picture, mask) in enumerate(track(pairs, name, len(pairs))):
            yield self._example(pipe, number, picture, mask)

    def _example(self, pipe: Any, number: int, picture: Path, mask: Path) -> Example:
        image = np.array(read_picture(picture))

        def traced(needs: Needs) -> Trace:
            return encode(pipe, image, seed=number, **encoded(needs))

        return Example(f"{number:05d}", image, read_mask(mask), "", traced, self._numbers)

    def annotated(self, classes: Sequence[str], count: int) -> dict[str, list[Annotated]]:
        """The first pictures in which a class covers some of the pixels; ignored pixels stay ignored."""
        found: dict[str, list[Annotated]] = {name: [] for name in classes}
        for seed, (picture, mask) in enumerate(self._parts.annotated):
            if all(len(some) == count for some in found.values()):
                break
            labels = read_mask(mask)
            for name, some in found.items():
                number = self._numbers[name]
                elsewhere = (labels != number) & (labels != IGNORE)
                if len(some) < count and (labels == number).mean() >= LEAST_ANNOTATED and elsewhere.any():
                    marks = annotation_from_labels(labels, {number: name}, labels.shape[:2], others=True)
                    some.append(Annotated(picture, marks, seed))
        return found

    def basis(self, name: str) -> Any:
        """State of the files of a part."""
        pairs = {VALIDATION: self._parts.validation, "annotated": self._parts.annotated}.get(name, self._parts.measured)
        return [state_of([file for pair in pairs for file in pair]), self._named]

    def heading(self, name: str) -> str:
        """What the set is; no place of this machine."""
        return f"Annotated pictures of {self._folder.resolve().name} (empty prompt)"
