"""WebDataset: tar files with an image, its mask and its facts, one after another; equal data gives equal bytes."""

import io
import json
import tarfile
from pathlib import Path

from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset

ROWS = 1000
"""Items of a tar file."""


def write_webdataset(data: Dataset, folder: Path) -> None:
    """Write `train-000000.tar` and so on, 1000 items in a file: `000123.png`, `000123.seg.png`, `000123.json`.

    Args:
        data: The data set.
        folder: An empty folder.
    """
    for split in data.splits:
        items = data.of_split(split)
        for start in range(0, len(items), ROWS):
            path = folder / f"{split}-{start // ROWS:06d}.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for item in items[start : start + ROWS]:
                    _add(tar, item, data)


def _add(tar: tarfile.TarFile, item: Item, data: Dataset) -> None:
    facts = json.dumps(item.row(data.about.ids), ensure_ascii=False, sort_keys=True).encode()
    parts = {"png": item.image_path.read_bytes(), "seg.png": item.mask_path.read_bytes(), "json": facts}
    for ending, content in parts.items():
        entry = tarfile.TarInfo(f"{item.stem}.{ending}")  # its time is 0, and its owner nobody
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))
