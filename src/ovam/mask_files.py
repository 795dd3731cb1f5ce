"""The files of a segmentation: masks, label map, overlay and objects. Python and the command line write them alike."""

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
    """Write what `write_masks` writes, and `result.json`, which tells of it; all or nothing.

    Raises:
        OptionError: the folder can't be made or written to, or a file's place is taken by what is no file.
    """
    with run_folder(check_folder(folder)) as room:
        height, width = segmentation.labels.shape
        told = {"size": [height, width], "threshold": segmentation.threshold}
        write_json(room / RECORD, {**told, **write_masks(segmentation, room)})


def write_masks(segmentation: "Segmentation", folder: Path) -> dict[str, Any]:
    """Write `masks/<word>.png`, `labels.png`, `labels_overlay.png` and `instances.json`.

    Pixels of `labels.png` are label numbers, in the colours of the overlay. Without a picture the overlay is on black.

    Returns:
        `files`, and for each of the `words` its label, its presence, the file of its mask with its number of pixels,
        and of its region in the label map: share of the image, number of pixels, box and mean score.
    """
    regions = {one.word: one for one in segmentation.instances(apart=False)}
    words = []
    for label, (word, name) in enumerate(zip(segmentation.words, safe_names(segmentation.words), strict=True), 1):
        file, mask = f"masks/{name}.png", segmentation[word].cpu()
        write_picture(folder / file, pictures.mask_picture(mask))
        area = regions[word].area if word in regions else 0
        words.append(
            {
                "word": word,
                "presence": segmentation.presence[word],
                "label": label,
                "share": area / mask.numel(),
                "area": area,
                "box_xywh": list(regions[word].box_xywh) if word in regions else None,
                "score": regions[word].score if word in regions else None,
                "mask": file,
                "mask_area": int(mask.sum()),
            }
        )
    labels = np.asarray(segmentation.labels.cpu())
    write_picture(folder / "labels.png", pictures.palette_png(labels, word_palette()))
    write_picture(folder / "labels_overlay.png", pictures.label_map_picture(_picture(segmentation), segmentation))
    write_json(folder / "instances.json", {"instances": [_told(one) for one in segmentation.instances()]})
    files = {"labels": "labels.png", "labels_overlay": "labels_overlay.png", "instances": "instances.json"}
    return {"files": files, "words": words}


def _told(one: "Instance") -> dict[str, Any]:
    plain = {name: getattr(one, name) for name in ("word", "label", "box_xywh", "area", "score")}
    return {**plain, "rle": one.rle()}


def _picture(segmentation: "Segmentation") -> Image.Image:
    height, width = segmentation.labels.shape
    maps = segmentation.maps
    return Image.new("RGB", (width, height)) if maps.image_png is None else maps.picture()
