"""The files of a segmentation: masks, label map, overlay and objects. Python and the command line write them alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ovam import pictures
from ovam.colours import word_palette
from ovam.output_files import safe_names, write_json, write_picture
from ovam.output_folders import check_folder
from ovam.run_folder import RECORD, run_folder

if TYPE_CHECKING:
    from ovam.masks.instances import Instance
    from ovam.masks.result import Segmentation


def save_segmentation(segmentation: "Segmentation", folder: Path) -> None:
    """Write the files of `write_masks`, and `result.json`, which describes them; all files are written, or none.

    Raises:
        OptionError: the folder can't be made or written to, or something that is not a file has a file's name.
    """
    with run_folder(check_folder(folder)) as room:
        height, width = segmentation.labels.shape
        record = {"size": [height, width], "threshold": segmentation.threshold}
        write_json(room / RECORD, {**record, **write_masks(segmentation, room)})


def write_masks(
    segmentation: "Segmentation", folder: Path, *, objects: "Sequence[Instance] | None" = None, as_pictures: bool = True
) -> dict[str, Any]:
    """Write `masks/<word>.png`, `labels.png`, `labels_overlay.png` and `instances.json`.

    Pixels of `labels.png` are label numbers, in the colours of the overlay. Without a picture the overlay is on black.

    Args:
        segmentation: What to write.
        folder: Where.
        objects: The objects of `instances.json`; by default `segmentation.instances()`.
        as_pictures: Whether to write more than `instances.json`.

    Returns:
        `files`, and for each of the `words` its label, its presence, the file of its mask with its number of pixels,
        and of its region in the label map: share of the image, number of pixels, box and mean score.
    """
    files = _write_labels(segmentation, folder) if as_pictures else {}
    objects = segmentation.instances() if objects is None else objects
    listed = [{**facts_of(one), "rle": one.rle()} for one in objects]
    write_json(folder / "instances.json", {"instances": listed})
    regions = {one.word: one for one in segmentation.instances(apart=False)}
    words = []
    for label, (word, name) in enumerate(zip(segmentation.words, safe_names(segmentation.words), strict=True), 1):
        mask = segmentation[word].cpu()
        facts = {"word": word, "presence": segmentation.presence[word], "label": label}
        found = {**facts, **_region(regions.get(word), mask.numel())}
        if as_pictures:
            found["mask"] = f"masks/{name}.png"
            write_picture(folder / found["mask"], pictures.mask_picture(mask))
        words.append({**found, "mask_area": int(mask.sum())})
    return {"files": {**files, "instances": "instances.json"}, "words": words}


def _write_labels(segmentation: "Segmentation", folder: Path) -> dict[str, str]:
    labels = np.asarray(segmentation.labels.cpu())
    write_picture(folder / "labels.png", pictures.palette_png(labels, word_palette()))
    write_picture(folder / "labels_overlay.png", pictures.label_map_picture(_picture(segmentation), segmentation))
    return {"labels": "labels.png", "labels_overlay": "labels_overlay.png"}


def _region(region: "Instance | None", pixels: int) -> dict[str, Any]:
    """Return facts about a word's region in a label map of so many pixels; None if it has none."""
    return {
        "share": region.area / pixels if region else 0.0,
        "area": region.area if region else 0,
        "box_xywh": list(region.box_xywh) if region else None,
        "score": region.score if region else None,
    }


def facts_of(one: "Instance") -> dict[str, Any]:
    """Return an object's facts, without its pixels."""
    return {name: getattr(one, name) for name in ("word", "label", "box_xywh", "area", "score")}


def _picture(segmentation: "Segmentation") -> Image.Image:
    height, width = segmentation.labels.shape
    maps = segmentation.maps
    return Image.new("RGB", (width, height)) if maps.image_png is None else maps.picture()
