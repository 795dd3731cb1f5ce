"""Compare label maps, and optionally soft maps, with exact truths: a table, or an entry of a leaderboard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from PIL import Image

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.commands.entry import Entry
from ovam.commands.scoring import IGNORE, LabelTally, ScoreTally, Thing
from ovam.errors import GroundTruthError, NotFiniteError
from ovam.evaluate.overlap import check_sizes
from ovam.input_file import regular
from ovam.json_text import parsed, read_json
from ovam.picture_formats import FORMATS
from ovam.voc_names import VOC

_MOST_NUMBER = 4095  # maximum class number: the counts of all pairs take 128 MB


def evaluate(
    predicted: str | Path,
    truth: str | Path,
    *,
    names: str | Path | None = None,
    scenes: str | Path | None = None,
    scores: str | Path | None = None,
    entry: Entry | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare label maps with their truths.

    Args:
        predicted: A PNG of label numbers, or a folder of them; 255 is undecided and counts as wrong.
        truth: A PNG or a folder with files of the same names; pixels with 255 are ignored.
        names: JSON file of label numbers and names, like `names.json` of `ovam mini scenes`; None for Pascal VOC's 20
            classes. Numbers of the truth without a name count as background.
        scenes: `scenes.jsonl` with the slices of each file's objects; None for the one next to the truth's folder, if
            it exists.
        scores: Folder with an NPY file for each PNG: floats (class, height, width) of any range, classes by rising
            number.
        entry: The method, for a leaderboard.
        progress: Called for each file.

    Returns:
        The method, the figures (means over classes and files), a record for each class, a record for each slice.
        docs/benchmark.md lists the keys.

    Raises:
        GroundTruthError: a truth, a scene or a soft map is missing, invalid, or of another size.
        NotFiniteError: a soft map contains NaN or infinity.
    """
    classes, split = _names(names)
    if entry is not None and split is None:
        raise GroundTruthError(
            f"names {'of Pascal VOC' if names is None else names} have no split: an entry of a leaderboard needs the "
            "names.json that `ovam mini scenes` writes; give it with --names"
        )
    pairs = _pairs(Path(predicted), Path(truth))
    things = _things(scenes, Path(truth), classes, [right for _, right in pairs])
    tally, soft, black_and_white = LabelTally(classes), ScoreTally(classes), True
    for done, (guess, right) in enumerate(pairs):
        progress("files", done, len(pairs))
        found, expected = _labels(guess), _labels(right)
        _check_sizes(guess, found, expected)
        black_and_white &= set(np.unique(expected).tolist()) == {0, IGNORE}
        expected = np.where(np.isin(expected, [*classes, IGNORE]), expected, 0)
        tally.add(right.name, found, expected)
        if scores is not None:
            soft.add(_scores(Path(scores) / f"{guess.stem}.npy", (len(classes), *expected.shape)), expected)
    if black_and_white:
        raise GroundTruthError(
            f"{truth} contains only 0 and {IGNORE}, like black-and-white masks, and {IGNORE} is ignored: "
            "expected label numbers; write each object as the number of its class"
        )
    figures, rows = tally.figures(), tally.of_classes()
    if scores is not None:
        figures |= soft.figures()
        rows = [row | more for row, more in zip(rows, soft.of_classes(), strict=True)]
    return {
        "command": "evaluate",
        "version": __version__,
        **_about(entry),
        "split": split,
        "n": len(pairs),
        "predicted": str(predicted),
        "truth": str(truth),
        "truth_hash": tally.truth_hash,
        "figures": _rounded(figures),
        "classes": [_rounded(row) for row in rows],
        "slices": [_rounded(row) for row in tally.slices(things)],
    }


def _about(entry: Entry | None) -> dict[str, str | None]:
    if entry is None:
        return dict.fromkeys(("method", "question", "model", "made_with"))
    return {
        "method": entry.method,
        "question": entry.question.value,
        "model": entry.model,
        "made_with": entry.made_with,
    }


def _names(names: str | Path | None) -> tuple[dict[int, str], str | None]:
    """Return the names by rising number, and the split of the scenes they belong to."""
    if names is None:
        return VOC, None
    try:
        content = read_json(regular(Path(names)))
        listed = content.get("labels", content)
        numbers = {int(number): str(name) for number, name in listed.items() if int(number) not in (0, IGNORE)}
        if not numbers or min(numbers) < 0:
            raise ValueError(f"numbers {', '.join(map(str, numbers)) or 'are missing'}")
        if max(numbers) > _MOST_NUMBER:
            raise ValueError(f"number {max(numbers)}, more than {_MOST_NUMBER}")
        split = content.get("split")
        if not isinstance(split, str | None):
            raise ValueError(f"split {split!r}")
    except (OSError, ValueError, OverflowError, AttributeError, TypeError) as error:
        raise GroundTruthError(
            f'names file {names} can\'t be read ({error}): expected JSON like {{"1": "aeroplane", ...}}'
        ) from error
    return dict(sorted(numbers.items())), split


def _pairs(predicted: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Return pairs of files with equal names; a file without its partner, in either folder, is an error."""
    if predicted.is_file():
        return [(predicted, truth / predicted.name if truth.is_dir() else truth)]
    guesses, rights = (
        {file.name: file for file in (folder.iterdir() if folder.is_dir() else ()) if file.suffix.lower() == ".png"}
        for folder in (predicted, truth)
    )
    if not guesses:
        raise GroundTruthError(f"{predicted} is no PNG file and no folder with PNG files: expected label maps")
    for name in sorted(guesses.keys() ^ rights.keys()):
        side = ("truth", truth) if name in guesses else ("prediction", predicted)
        raise GroundTruthError(f"{name} has no {side[0]} in {side[1]}: expected the same names in both folders")
    return [(guesses[name], rights[name]) for name in sorted(guesses)]


def _labels(path: Path) -> np.ndarray:
    """Read the label numbers of a PNG with a palette or a single channel: (height, width) int64."""
    try:
        with Image.open(regular(path), formats=FORMATS) as picture:
            form, mode, values = picture.format, picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, of damaged files
        raise GroundTruthError(f"label map {path} can't be read ({error}): expected a PNG file") from error
    if form != "PNG":
        raise GroundTruthError(f"label map {path} is a {form}: expected a PNG file, which stores numbers exactly")
    if mode not in ("P", "L", "I", "I;16", "1"):
        raise GroundTruthError(
            f"label map {path} has several channels (mode {mode}): expected one number per pixel; save one channel, or "
            "a palette"
        )
    return values.astype(np.int64)


def _scores(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read the soft maps of one picture: floats of `shape`."""
    try:
        # a memory map can't fill memory with a wrong header, refuses pickles and archives, and leaves no file open
        values = np.lib.format.open_memmap(regular(path), mode="r")
    # numpy parses the header as Python code, so a damaged one can raise the compiler's errors, or overflow
    except (OSError, ValueError, EOFError, ArithmeticError, LookupError, SyntaxError, TokenError, TypeError) as error:
        raise GroundTruthError(f"scores {path} can't be read ({error}): expected an NPY file for each PNG") from error
    if values.shape != shape or not np.issubdtype(values.dtype, np.floating):
        raise GroundTruthError(
            f"scores {path} are {values.dtype} of shape {values.shape}: expected floats of shape {shape}, "
            "(class, height, width), with a map for each number of the names file except 0, by rising number, "
            "at the truth's size"
        )
    if not np.isfinite(values).all():
        raise NotFiniteError(f"scores {path} contain NaN or infinity: expected finite numbers of any range")
    return values


def _check_sizes(file: Path, found: np.ndarray, expected: np.ndarray) -> None:
    try:
        check_sizes(found, expected)
    except GroundTruthError as error:
        raise GroundTruthError(f"{file}: {error}") from error


def _things(
    scenes: str | Path | None, truth: Path, classes: Mapping[int, str], files: Sequence[Path]
) -> dict[str, list[Thing]]:
    """Return each file's objects with their slices; empty if there is no scenes file."""
    beside = (truth if truth.is_dir() else truth.parent).resolve().parent / "scenes.jsonl"
    if scenes is None and not beside.is_file():
        return {}
    path = beside if scenes is None else Path(scenes)
    things = _read_scenes(path)
    for file in files:
        if file.name not in things:
            raise GroundTruthError(
                f"{file} has no line in {path}: expected one for each file; export the scenes again, into a new folder"
            )
    known = {name for file in files for name, _ in things[file.name]} & set(classes.values())
    if scenes is not None and not known:
        raise GroundTruthError(
            f"the classes of the objects in {path} have no number in the names: expected the truth's labels and their "
            "names; part maps have no slices"
        )
    return things


def _read_scenes(path: Path) -> dict[str, list[Thing]]:
    try:
        lines = [parsed(line) for line in regular(path).read_text(encoding="utf-8").split("\n") if line]
        return {
            line["file"]: [(str(thing["name"]), tuple(map(str, thing["slices"]))) for thing in line["objects"]]
            for line in lines
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GroundTruthError(
            f"scenes {path} can't be read ({error}): expected lines like those of `ovam mini scenes`"
        ) from error


def _rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Round every float to four digits; NaN becomes None."""
    return {
        name: value if not isinstance(value, float) else None if np.isnan(value) else round(value, 4)
        for name, value in record.items()
    }
