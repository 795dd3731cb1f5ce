"""Export a data set: the table of formats, and the way to a folder here or elsewhere."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ovam import __version__
from ovam.dataset.checking import problems_of_mask
from ovam.dataset.exports.coco import write_coco
from ovam.dataset.exports.panoptic import write_panoptic
from ovam.dataset.exports.parquet import write_parquet
from ovam.dataset.exports.voc import write_voc
from ovam.dataset.exports.webdataset import write_webdataset
from ovam.dataset.exports.yolo import write_yolo
from ovam.dataset.layout import Dataset, check_finished, read
from ovam.dataset.views import check_whole, empty_folder, folder_at_once
from ovam.errors import DatasetError, MissingPackageError, OptionError
from ovam.progress import Progress, no_progress

FORMATS: Mapping[str, Callable[[Dataset, Path], None]] = {
    "voc": write_voc,
    "coco": write_coco,
    "panoptic": write_panoptic,
    "yolo": write_yolo,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
}
"""Writers by the name of the format."""

_ALL_DECIDED = {"coco", "panoptic", "yolo"}
"""Formats that know no undecided pixels; these become background."""


def export(
    folder: str | Path, output_dir: str | Path, form: str, *, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write a data set, or a view, in another format. The same data set gives the same bytes.

    Args:
        folder: The data set.
        output_dir: A new or empty folder; or an address such as "s3://bucket/name", which needs fsspec.
        form: One of `FORMATS`.
        progress: Called when the writing begins.

    Returns:
        The format, the number of items, of files and of bytes; and the share of undecided pixels that became
        background, in [0, 1], as in the formats that know none ("coco", "panoptic", "yolo"). The recipe's option
        ignore_changed=false makes masks with fewer.

    Raises:
        OptionError: the format is unknown.
        DatasetError: the folder is no data set, or the output folder is not empty.
        MissingPackageError: the format or the address needs a package that is not installed.
    """
    if form not in FORMATS:
        raise OptionError(f"format={form!r}: expected one of {', '.join(FORMATS)}")
    data = read(folder)
    _check(data, progress)
    progress(f"writing {form}", 0, 0)
    if "://" in str(output_dir):
        system, path = _opened(str(output_dir))
        with tempfile.TemporaryDirectory() as scratch:
            files = _written(data, Path(scratch), form)
            progress(f"copying to {output_dir}", 0, 0)
            _sent(Path(scratch), system, path, str(output_dir))
    else:
        place = empty_folder(output_dir, data.folder)
        with folder_at_once(place) as room:
            files = _written(data, room, form)
    return {
        "command": "dataset export",
        "version": __version__,
        "output_dir": str(output_dir),
        "format": form,
        "items": len(data.items),
        "splits": {split: len(data.of_split(split)) for split in data.splits},
        "files": len(files),
        "bytes": sum(files.values()),
        "undecided_as_background": round(_undecided(data), 4) if form in _ALL_DECIDED else 0.0,
    }


def _check(data: Dataset, progress: Progress) -> None:
    """Check that a data set is finished, and that its masks hold what they may.

    Raises:
        DatasetError: it is not so.
    """
    if not data.items:
        raise DatasetError(f"{data.folder} has no items: expected at least one")
    check_finished(data)
    check_whole(data.items)
    for place, item in enumerate(data.items):
        progress("checking masks", place, len(data.items))
        problem = next(problems_of_mask(item, data.about), None)
        if problem is not None:
            raise DatasetError(f"{data.folder}: {problem}; `ovam dataset check` lists all problems")


def _undecided(data: Dataset) -> float:
    return sum(item.ignored for item in data.items) / len(data.items)


def _written(data: Dataset, folder: Path, form: str) -> dict[str, int]:
    FORMATS[form](data, folder)
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _opened(address: str) -> tuple[Any, str]:
    """Return the file system of an address of fsspec, and the path there.

    Raises:
        MissingPackageError: fsspec, or what it needs for this kind of address, is not installed.
        DatasetError: there are files at the address, or it can't be read.
    """
    try:
        import fsspec

        system, path = fsspec.url_to_fs(address)
        taken = system.exists(path) and bool(system.ls(path))
    except ImportError as error:
        raise MissingPackageError(
            f"{address} can't be written to ({error}), install 'ovam[data]' and the package named here"
        ) from error
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        raise DatasetError(f"{address} can't be written to ({error}): expected an address that fsspec knows") from error
    if taken:
        raise DatasetError(f"{address} has files: expected a new address")
    return system, path


def _sent(folder: Path, system: Any, path: str, address: str) -> None:
    """Copy files to a place of fsspec.

    Raises:
        DatasetError: it can't be written to.
    """
    try:
        for source in sorted(file for file in folder.rglob("*") if file.is_file()):
            target = f"{path.rstrip('/')}/{source.relative_to(folder).as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(source), target)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DatasetError(
            f"{address} can't be written to ({error}): expected a place that you may write to"
        ) from error
