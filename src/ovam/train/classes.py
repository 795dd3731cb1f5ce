"""Classes of data sets: ids in their masks, which may be sparse, and the contiguous labels that a model learns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from ovam.errors import DatasetError

IGNORE = 255
"""Value of pixels that count for nothing, in masks and in labels."""

BACKGROUND = "background"


@dataclass(frozen=True)
class Classes:
    """Label i has the name `names[i]`, and is `ids[i]` in masks; label 0 is the background, id 0.

    Attributes:
        ids: Rising, from 0 to 254.
        names: Of the same length; each name once.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    @staticmethod
    def of(named: Mapping[int, str]) -> "Classes":
        """Make classes from names by id, without the background.

        Raises:
            DatasetError: there is no class, an id is outside 1 to 254, or two classes have the same name.
        """
        ids = sorted(named)
        if not ids or ids[0] < 1 or ids[-1] >= IGNORE:
            raise DatasetError(
                f"class ids {', '.join(map(str, ids)) or 'are missing'}: expected at least one, from 1 to "
                f"{IGNORE - 1}; 0 is the background and {IGNORE} is ignored"
            )
        names = [named[i] for i in ids]
        twice = next((name for name in names if names.count(name) > 1 or name == BACKGROUND), None)
        if twice is not None:
            raise DatasetError(f"class name {twice!r} stands for two ids: expected a name of its own for each")
        return Classes((0, *ids), (BACKGROUND, *names))

    @property
    def by_label(self) -> dict[int, str]:
        """Name of each label, as transformers' `id2label` has it."""
        return dict(enumerate(self.names))

    def labels_of(self, own: Mapping[int, str]) -> UInt8[np.ndarray, "256"]:
        """Return the label of each value of a mask, (256,) uint8; values that are no class's id are ignored, like 255.

        Args:
            own: Names by id in the mask's data set. Its ids may differ from the ids here; its names may not.
        """
        table = np.full(256, IGNORE, np.uint8)
        table[0] = 0
        for i, name in own.items():
            table[i] = self.names.index(name)
        return table

    def ids_of(self) -> UInt8[np.ndarray, " label"]:
        """Return the id of each label, (label,) uint8: `ids_of()[labels]` is a mask."""
        return np.array(self.ids, dtype=np.uint8)


def joint(sets: Sequence[tuple[str, Mapping[int, str]]]) -> Classes:
    """Return the classes of several data sets, which must have the same names; ids are those of the first.

    Args:
        sets: For each data set its name in error messages, and its names by id.

    Raises:
        DatasetError: the names differ; the message lists them.
    """
    (first, named), *others = sets
    classes = Classes.of(named)
    for other, own in others:
        missing = [name for name in named.values() if name not in own.values()]
        more = [name for name in own.values() if name not in named.values()]
        if missing or more:
            differences = [
                f"only in {place}: {_listed(names)}" for place, names in ((first, missing), (other, more)) if names
            ]
            raise DatasetError(
                f"the classes of {first} and {other} differ; {'; '.join(differences)}: expected the same names in all "
                "of them, since what is a class in one and background in the other can't be learned; make both with "
                "the same classes"
            )
        Classes.of(own)
    return classes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
