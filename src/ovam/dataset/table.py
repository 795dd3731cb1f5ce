"""The table of a data set, `metadata.jsonl`: a line for each image, which makes the folder an imagefolder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovam.dataset.item import Item
from ovam.dataset.names import METADATA, checked_name
from ovam.dataset.schema import ROW
from ovam.errors import DatasetError
from ovam.json_text import parsed


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of `metadata.jsonl`, or none if it is missing.

    Raises:
        DatasetError: a line is damaged, or names a file outside of the folder.
    """
    path = folder / METADATA
    if not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is damaged (it is not UTF-8): delete it and generate again") from error
    for place, line in enumerate(text.removesuffix("\n").split("\n"), start=1):  # texts may hold other line ends
        where = f"{path}, line {place}"
        try:
            row = parsed(line)
        except ValueError as error:
            raise DatasetError(f"{where} is damaged ({error}): delete {METADATA} and generate again") from error
        try:
            ROW(row, "the line")
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error
        checked_name(row["file_name"], where)
        checked_name(row["mask_file_name"], where)
        yield row


def rows_text(items: Sequence[Item], ids: Mapping[str, int]) -> str:
    """Return the content of `metadata.jsonl`."""
    return "".join(json.dumps(item.row(ids), ensure_ascii=False) + "\n" for item in items)
