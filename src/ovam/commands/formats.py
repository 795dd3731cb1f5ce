"""Write a segmentation in the formats that were asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ovam.commands.output_options import OutputOptions
from ovam.mask_files import facts_of, write_masks
from ovam.masks.instances import Instance
from ovam.masks.result import Segmentation
from ovam.output_files import write_array, write_json


def write_formats(segmentation: Segmentation, folder: Path, output: OutputOptions) -> dict[str, Any]:
    """Write masks in each format, and `instances.json`.

    Returns:
        `files` and `words` as `write_masks` gives them, and `instances` if they were asked for.
    """
    objects = segmentation.instances(split=output.split)
    found = write_masks(segmentation, folder, objects=objects, as_pictures="png" in output.formats)
    files = dict(found["files"])
    for name, write in _WRITERS.items():
        if name in output.formats:
            files |= write(segmentation, objects, folder)
    listed = {"instances": [facts_of(one) for one in objects]} if output.instances else {}
    return {**found, "files": files, **listed}


def write_arrays(folder: Path, **arrays: Tensor) -> dict[str, str]:
    """Write `<name>.npy` for each array; return the files' names."""
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array.cpu().numpy())
    return {f"{name}_array": f"{name}.npy" for name in arrays}


def _arrays(segmentation: Segmentation, objects: tuple[Instance, ...], folder: Path) -> dict[str, str]:
    """Write scores (word, height, width), label map, and maps (word, grid height, grid width)."""
    maps = segmentation.maps.only(segmentation.words).stacked()
    return write_arrays(folder, scores=segmentation.scores, labels=segmentation.labels.byte(), maps=maps)


def _coco(segmentation: Segmentation, objects: tuple[Instance, ...], folder: Path) -> dict[str, str]:
    write_json(folder / "coco.json", segmentation.to_coco(objects))
    return {"coco": "coco.json"}


def _polygons(segmentation: Segmentation, objects: tuple[Instance, ...], folder: Path) -> dict[str, str]:
    """Write the outlines of each word's mask, in pixels."""
    outlines = {
        word: [{"outline": _points(one.outline), "holes": [_points(hole) for hole in one.holes]} for one in polygons]
        for word, polygons in segmentation.polygons().items()
    }
    write_json(folder / "polygons.json", {"size": list(segmentation.size), "polygons": outlines})
    return {"polygons": "polygons.json"}


def _points(line: np.ndarray) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in line]


def _label_studio(segmentation: Segmentation, objects: tuple[Instance, ...], folder: Path) -> dict[str, str]:
    write_json(folder / "label_studio.json", [segmentation.to_label_studio(objects)])
    return {"label_studio": "label_studio.json"}


_WRITERS: dict[str, Callable[[Segmentation, tuple[Instance, ...], Path], dict[str, str]]] = {
    "npy": _arrays,
    "coco": _coco,
    "polygons": _polygons,
    "labelstudio": _label_studio,
}
