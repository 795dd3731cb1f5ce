"""A labelled data set as its folder holds it, and how it is read; `ovam.dataset.names` has the names of the files."""

from dataclasses import dataclass, replace
from pathlib import Path

from ovam.dataset.about import About, read_about
from ovam.dataset.item import Item, check_fit, read_item
from ovam.dataset.kept_scores import with_scores
from ovam.dataset.names import METADATA, item_files
from ovam.dataset.table import rows_of
from ovam.errors import DatasetError


@dataclass(frozen=True)
class Dataset:
    """A labelled data set.

    Attributes:
        folder: Its folder.
        about: The content of `dataset.json`.
        items: Its items, in the order of their numbers.
    """

    folder: Path
    about: About
    items: tuple[Item, ...]

    def of_split(self, split: str) -> tuple[Item, ...]:
        """Return the items of a split."""
        return tuple(item for item in self.items if item.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have items: train, validation, test."""
        there = {item.split for item in self.items}
        return tuple(split for split in ("train", "validation", "test") if split in there)


def read(folder: str | Path) -> Dataset:
    """Read a data set, or a view of one.

    Splits are those of `metadata.jsonl`, if that is there: near duplicates share one. Scores that `ovam dataset score`
    made belong to the items if all items have them.

    Raises:
        DatasetError: the folder is no data set, or a file of it is damaged or names a file outside of the folder.
    """
    folder = Path(folder)
    about = read_about(folder)
    splits = {row["index"]: row["split"] for row in rows_of(folder)}
    items = [read_item(folder, path.name) for path in item_files(folder)]
    check_fit(items, about.ids)
    placed = [_placed(item, splits.get(item.index)) for item in items]
    return Dataset(folder, about, with_scores(folder, tuple(sorted(placed, key=lambda item: item.index))))


def check_finished(data: Dataset) -> None:
    """Check that the run that made a data set is finished: only then do near duplicates share a split.

    Raises:
        DatasetError: `metadata.jsonl` lacks an item.
    """
    listed = {row["index"] for row in rows_of(data.folder)}
    lacking = [item.index for item in data.items if item.index not in listed]
    if lacking:
        raise DatasetError(
            f"{data.folder}: item {lacking[0]} is not in {METADATA}, so its run is not finished: generate again, which "
            "goes on with it; or `ovam dataset filter` it, and use the view of the items that are there"
        )


def _placed(item: Item, split: str | None) -> Item:
    return item if split in (None, item.split) else replace(item, split=split)
