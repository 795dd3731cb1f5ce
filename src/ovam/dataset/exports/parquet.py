"""Parquet, as Hugging Face `datasets` reads it: images and masks inside, with their types."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset
from ovam.errors import MissingPackageError

ROWS = 1000
"""Rows of a file."""

_IMAGE = {"_type": "Image"}


def write_parquet(data: Dataset, folder: Path) -> None:
    """Write `data/train-00000-of-00002.parquet` and so on, 1000 rows in a file.

    Args:
        data: The data set.
        folder: An empty folder.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingPackageError(
            "Parquet can't be written, pyarrow is no part of ovam: pip install 'ovam[data]'"
        ) from error
    (folder / "data").mkdir()
    columns = _columns(data.items[0].row(data.about.ids))
    schema = arrow.schema(
        [arrow.field(name, _type(arrow, kind)) for name, kind in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": {n: _feature(k) for n, k in columns.items()}}})},
    )
    for split in data.splits:
        items = data.of_split(split)
        files = -(-len(items) // ROWS)
        for number in range(files):
            part = items[number * ROWS : (number + 1) * ROWS]
            table = arrow.Table.from_pylist(_rows(part, data), schema=schema)
            path = folder / "data" / f"{split}-{number:05d}-of-{files:05d}.parquet"
            parquet.write_table(table, path, compression="zstd", row_group_size=100)


def _rows(items: Sequence[Item], data: Dataset) -> list[dict[str, Any]]:
    found = []
    for item in items:
        row = item.row(data.about.ids)
        image = {"bytes": item.image_path.read_bytes(), "path": row.pop("file_name")}
        mask = {"bytes": item.mask_path.read_bytes(), "path": row.pop("mask_file_name")}
        found.append({"image": image, "mask": mask, **row})
    return found


def _columns(row: dict[str, Any]) -> dict[str, str]:
    """Return the columns with their types, as the first row has them."""
    kinds = {str: "string", int: "int64", float: "float64"}
    found = {"image": "image", "mask": "image"}
    for name, value in row.items():
        if not name.endswith("file_name"):
            one = value[0] if isinstance(value, list) else value
            found[name] = ("list " if isinstance(value, list) else "") + kinds[type(one)]
    return found


def _type(arrow: Any, kind: str) -> Any:
    if kind == "image":
        return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    base, listed = kind.removeprefix("list "), kind.startswith("list ")
    one = {"string": arrow.string(), "int64": arrow.int64(), "float64": arrow.float64()}[base]
    return arrow.list_(one) if listed else one


def _feature(kind: str) -> Any:
    """Return a column's type as `datasets` writes it."""
    if kind == "image":
        return _IMAGE
    one = {"dtype": kind.removeprefix("list "), "_type": "Value"}
    return {"feature": one, "_type": "List"} if kind.startswith("list ") else one
