"""Masks in the run lengths of Label Studio's own package: `python tests/data/make_label_studio.py`."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from label_studio_sdk.converter.brush import mask2rle

rows, columns = np.mgrid[:40, :56]
MASKS = {
    "a ring": (abs(np.hypot(rows - 19, columns - 25) - 12) < 4),
    "single pixels": (rows * columns) % 7 == 3,
    "empty": rows < 0,
    "full": rows >= 0,
    "wide": np.mgrid[:180, :190][0] > 60,  # runs longer than 65,536 values
}
cases = [
    {
        "name": name,
        "size": mask.shape,
        "rows": ["".join(".#"[int(value)] for value in row) for row in mask] if mask.size < 5000 else None,
        "rle": mask2rle(mask.astype(np.uint8) * 255),
    }
    for name, mask in MASKS.items()
]
made = {"tool": f"label-studio-sdk {version('label-studio-sdk')}", "cases": cases}
Path(__file__).with_name("label_studio.json").write_text(json.dumps(made) + "\n")
