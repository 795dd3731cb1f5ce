"""What labels generated pictures: the oracles, a trained segmenter, or label maps that somebody drew."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lab.digest import digest
from lab.fits.generated import labels_of, oracle_hashes
from lab.mini.measures.images import Entry
from lab.mini.oracle import IGNORE
from ovam.errors import DatasetError, OptionError
from ovam.json_text import read_json
from ovam.mini.scenes import CLASSES, LABELS
from ovam.train.files import read_mask
from ovam.train.predict import Segmenter, load

ORACLE = "oracle"


class Annotator(Protocol):
    """Labels generated pictures.

    Attributes:
        description: What it is, for the page.
        basis: What its labels depend on, as JSON.
    """

    @property
    def description(self) -> str: ...

    @property
    def basis(self) -> Any: ...

    def labels(self, kind: str, entries: Sequence[Entry], images: np.ndarray) -> np.ndarray:
        """Numbers of the world's classes, 0 for all else, `IGNORE` where nobody knows.

        Args:
            kind: Name of the set.
            entries: The pictures' entries.
            images: (picture, height, width, 3) uint8.

        Returns:
            (picture, height, width) uint8.
        """


def annotator_of(given: str) -> Annotator:
    """The annotator of an option: "oracle", the folder of a segmenter, or a folder of label maps.

    Raises:
        OptionError: it is none of these.
    """
    folder = Path(given)
    if given == ORACLE:
        return Oracles()
    if (folder / "config.json").is_file():
        return Trained(folder)
    if (folder / "names.json").is_file():
        return Drawn(folder)
    raise OptionError(
        f"--annotator {given}: expected 'oracle', the folder of a segmenter with config.json, as `ovam train` writes "
        "it, or a folder with names.json and a folder of label maps for each set, such as simple/00000.png"
    )


class Oracles(Annotator):
    """Both oracles of the embedded model's world; what they differ on nobody knows."""

    description = "two oracles that agree"

    @property
    def basis(self) -> Any:
        """Hashes of their weights."""
        return oracle_hashes()

    def labels(self, kind: str, entries: Sequence[Entry], images: np.ndarray) -> np.ndarray:
        """What both agree on."""
        return labels_of(images, ("a", "b"))


class Trained(Annotator):
    """A segmenter of transformers; its classes are taken by their names, those without a number count as background."""

    description = "a trained segmenter"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def basis(self) -> Any:
        """State of its files."""
        return state_of(sorted(file for file in self._folder.iterdir() if file.is_file()))

    @cached_property
    def _segmenter(self) -> Segmenter:
        return load(self._folder)

    def labels(self, kind: str, entries: Sequence[Entry], images: np.ndarray) -> np.ndarray:
        """What it sees.

        Raises:
            DatasetError: it knows no class of a name that a prompt has.
        """
        classes = self._segmenter.classes
        _check_knows(self._folder, classes.names, kind, entries)
        table = _table(dict(zip(classes.ids, classes.names, strict=True)))
        return np.stack([table[self._segmenter(image)] for image in images])


class Drawn(Annotator):
    """Label maps in files, one for each picture and under its name, as `ovam evaluate` reads them."""

    description = "label maps in files"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def basis(self) -> Any:
        """State of the files."""
        return state_of(sorted(self._folder.rglob("*.*")))

    def labels(self, kind: str, entries: Sequence[Entry], images: np.ndarray) -> np.ndarray:
        """What the files hold.

        Raises:
            DatasetError: a file is missing, damaged, of another size, or holds the number of no class; a prompt's class
                has no number.
        """
        numbers = _numbers(self._folder / "names.json")
        _check_knows(self._folder, list(numbers.values()), kind, entries)
        return np.stack(
            [self._read(kind, entry, image.shape[:2], numbers) for entry, image in zip(entries, images, strict=True)]
        )

    def _read(self, kind: str, entry: Entry, size: tuple[int, ...], numbers: Mapping[int, str]) -> np.ndarray:
        file = self._folder / kind / entry.file
        if not file.is_file():
            raise DatasetError(
                f"{file} is not there: expected a label map for each picture of the set {kind}; draw it, or take fewer "
                "pictures (--pictures)"
            )
        values = read_mask(file)
        if values.shape != size:
            raise DatasetError(
                f"label map {file} is {values.shape[0]} x {values.shape[1]} pixels, its picture {size[0]} x {size[1]}: "
                "expected the same size"
            )
        stray = sorted(set(np.unique(values).tolist()) - {0, IGNORE, *numbers})
        if stray:
            raise DatasetError(
                f"label map {file} holds {', '.join(map(str, stray[:10]))}, the number of no class in "
                f"{self._folder / 'names.json'}: expected 0 for the background, {IGNORE} for what nobody knows, and "
                f"{', '.join(map(str, numbers))}"
            )
        return _table(numbers)[values]


def state_of(files: Sequence[Path]) -> str:
    """Digest of files' names, sizes and times of their last change."""
    states = [(file, file.stat()) for file in files]
    return digest([[str(file), found.st_size, found.st_mtime_ns] for file, found in states])


def _table(named: Mapping[int, str]) -> np.ndarray:
    """Number in the world of each number: (256,) uint8."""
    table = np.zeros(256, np.uint8)
    for number, name in named.items():
        table[number] = LABELS[name] if name in CLASSES else 0
    table[IGNORE] = IGNORE
    return table


def _numbers(path: Path) -> dict[int, str]:
    try:
        found = read_json(path)
        listed = found.get("labels", found)
        return {int(number): str(name) for number, name in listed.items() if int(number) not in (0, IGNORE)}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DatasetError(
            f'{path} can\'t be read ({error}): expected names by number, like {{"1": "aeroplane", ...}}'
        ) from error


def _check_knows(folder: Path, names: Sequence[str], kind: str, entries: Sequence[Entry]) -> None:
    lacking = sorted({name for entry in entries for name in entry.classes} - set(names))
    if lacking:
        raise DatasetError(
            f"annotator {folder} knows no {', '.join(map(repr, lacking[:5]))}, which prompts of the set {kind} name: "
            f"expected classes of these names among its own, {', '.join(map(repr, list(names)[:10]))}; name others "
            "with --annotator"
        )
