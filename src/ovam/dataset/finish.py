"""Finish a data set when all its items were tried: splits, `metadata.jsonl`, card, contact sheet, one manifest."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ovam.dataset.about import About
from ovam.dataset.card import card
from ovam.dataset.item import Item, check_fit, read_item
from ovam.dataset.kept_scores import with_scores
from ovam.dataset.layout import Dataset
from ovam.dataset.manifest import MANIFEST, lines_in, manifests, settled
from ovam.dataset.names import CARD, METADATA, SHEET, item_files
from ovam.dataset.recipe import Recipe
from ovam.dataset.sheet import contact_sheet
from ovam.dataset.splits import without_leaks
from ovam.dataset.table import rows_text
from ovam.output_files import write_bytes, write_picture


def finish(folder: Path, recipe: Recipe, about: About) -> bool:
    """Write the files that describe all items, if all items were tried; return whether they were.

    Two shards that end at the same time write the same bytes. Items that failed are left out.

    Raises:
        DatasetError: an item is damaged.
        OptionError: a file can't be written.
    """
    items = [item for path in item_files(folder) if (item := read_item(folder, path.name)).whole]
    check_fit(items, about.ids)
    lines = list(lines_in(folder))
    failed = {line["index"] for line in lines if line.get("status") == "failed"}
    done = {item.index for item in items}
    if not items or not set(range(recipe.data.number)) <= done | failed:
        return False
    write_pages(folder, about, items, recipe.splits.split_distance)
    write_bytes(folder / MANIFEST, settled({item.index: item.unit for item in items}, lines).encode())
    for path in manifests(folder):
        if path.name != MANIFEST:
            path.unlink(missing_ok=True)
    return True


def write_pages(folder: Path, about: About, items: Sequence[Item], distance: int) -> Dataset:
    """Write `metadata.jsonl`, the card and the contact sheet of some items; return them with their final splits.

    Args:
        folder: Folder of the data set or view.
        about: The content of `dataset.json`.
        items: Items in any order.
        distance: Near duplicates, whose hashes differ in at most this many bits, share a split; -1 treats no pictures
            as near duplicates.
    """
    placed = without_leaks(sorted(items, key=lambda item: item.index), distance)
    found = Dataset(folder, about, tuple(replace(item, folder=folder) for item in placed))
    write_picture(folder / SHEET, contact_sheet(found))
    write_bytes(folder / CARD, card(replace(found, items=with_scores(folder, found.items))).encode())
    write_bytes(folder / METADATA, rows_text(found.items, about.ids).encode())
    return found
