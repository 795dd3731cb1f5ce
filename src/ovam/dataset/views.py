"""A view: a folder with some items of a data set, in the same layout; files are links where that works."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ovam import __version__
from ovam.dataset.filters import kept_by, random_subset
from ovam.dataset.finish import write_pages
from ovam.dataset.item import Item
from ovam.dataset.kept_scores import SCORES
from ovam.dataset.layout import Dataset, read
from ovam.dataset.manifest import MANIFEST, settled
from ovam.dataset.names import ABOUT, INPUTS, ITEMS, RECIPE
from ovam.dataset.recipe import kept_recipe
from ovam.dataset.sections import FilterSection
from ovam.dataset.store import full_disk_as_error
from ovam.errors import DatasetError
from ovam.json_text import json_text
from ovam.output_files import write_bytes
from ovam.output_folders import check_folder, kept_if_done
from ovam.partial import partial_folder
from ovam.progress import Progress, no_progress


def filter_items(
    folder: str | Path,
    output_dir: str | Path,
    *,
    filters: FilterSection | None = None,
    random_dir: str | Path | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write a view with the items that filters leave.

    Args:
        folder: A data set.
        output_dir: Folder of the view, new or empty.
        filters: The filters; by default those of the data set's recipe.
        random_dir: Folder of a second view with as many items, chosen at random, to compare the filters with.
        progress: Called with the number of items.

    Returns:
        Numbers of items, those kept, and those that each filter took out.

    Raises:
        DatasetError: no item is left; the folder is no data set; or an output folder is not empty.
    """
    data = read(folder)
    recipe = kept_recipe(data.folder)
    options = filters or recipe.filters
    places = [empty_folder(place, data.folder) for place in (output_dir, random_dir) if place is not None]
    if len(places) == 2 and (_within(*places) or _within(*places[::-1])):
        raise DatasetError(f"output folder {places[0]} and random folder {places[1]}: expected two separate folders")
    kept = kept_by(data.items, options)
    distance = recipe.splits.split_distance
    before = {} if data.about.view is None else {"before": data.about.view}
    view = {"of": data.about.recipe, "filters": asdict(options), "kept": len(kept.items), "dropped": dict(kept.dropped)}
    view |= before
    _write_view(data, kept.items, places[0], view, distance, progress)
    if random_dir is not None:
        subset = random_subset(data.items, len(kept.items), data.about.recipe)
        chance = {"of": data.about.recipe, "filters": {}, "kept": len(subset), "dropped": {}, "random": True}
        chance |= before
        _write_view(data, subset, places[1], chance, distance, progress)
    return {
        "command": "dataset filter",
        "version": __version__,
        "output_dir": str(places[0]),
        "random_dir": None if random_dir is None else str(places[1]),
        "items": len(data.items),
        "kept": len(kept.items),
        "dropped": dict(kept.dropped),
    }


def empty_folder(place: str | Path, source: Path) -> Path:
    """Return an output folder that is new or empty, and not inside the data set.

    Raises:
        DatasetError: it has files, or is the data set's folder or inside it.
        OptionError: it can't be written to.
    """
    folder = check_folder(place)
    inside = _within(folder, source)
    left = (path for path in folder.iterdir() if not path.name.endswith(".partial")) if folder.is_dir() else iter(())
    if inside or next(left, None) is not None:
        problem = f"is inside the data set {source}" if inside else "has files in it"
        raise DatasetError(f"output folder {folder} {problem}: expected a new or an empty folder")
    return folder


def _write_view(
    data: Dataset, items: Sequence[Item], folder: Path, view: Mapping[str, Any], distance: int, progress: Progress
) -> None:
    about = replace(data.about, view=dict(view))
    check_whole(items)
    with folder_at_once(folder) as room:
        for place, item in enumerate(items):
            progress("linking items", place, len(items))
            for name in (item.image, item.mask, f"{ITEMS}/{item.stem}.json"):
                link(data.folder / name, room / name)
        for path in sorted((data.folder / INPUTS).glob("*")):
            link(path, room / INPUTS / path.name)
        for path in sorted((data.folder / SCORES).glob("*.jsonl")):
            write_bytes(room / SCORES / path.name, path.read_bytes())  # no link: it is appended to
        shutil.copyfile(data.folder / RECIPE, room / RECIPE)
        write_bytes(room / MANIFEST, settled({item.index: item.unit for item in items}, ()).encode())
        write_pages(room, about, items, distance)
        write_bytes(room / ABOUT, (json_text(about.json()) + "\n").encode())


@contextmanager
def folder_at_once(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, whose files move to an empty folder when all are written; otherwise none does."""
    with kept_if_done(folder), full_disk_as_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with partial_folder(folder) as room:
            yield room
            for path in sorted(room.iterdir()):
                path.rename(folder / path.name)


def check_whole(items: Iterable[Item]) -> None:
    """Check that images and masks are there.

    Raises:
        DatasetError: one is missing.
    """
    for item in items:
        lacking = [path for path in (item.image_path, item.mask_path) if not path.is_file()]
        if lacking:
            raise DatasetError(
                f"{lacking[0]} of item {item.index} is missing: generate again, which makes it anew; `ovam dataset "
                "check` lists all such files"
            )


def _within(inner: Path, outer: Path) -> bool:
    return inner.resolve().is_relative_to(outer.resolve())


def link(source: Path, place: Path) -> None:
    """Give a file another name by a hard link, or copy it where links do not work, for example on another disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), place)  # not a symbolic link itself
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, place)
