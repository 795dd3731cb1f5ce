"""Write maps and masks as pictures, and return a record of their numbers and file names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ovam import pictures
from ovam.commands.files import safe_names, write_bytes, write_picture
from ovam.maps.result import AttentionMaps
from ovam.maps.words import Fitted, fitted_in
from ovam.masks.masks import Segmentation, presence, segment_words
from ovam.masks.options import SegmentOptions
from ovam.trace.trace import Trace

TRACE_FILE = "run.safetensors"


def write_maps(trace: Trace, maps: AttentionMaps, folder: Path) -> dict[str, Any]:
    """Write `maps/<word>.png`, each map over its image, and `sheet.png` with all of them.

    If the run ended with latents, the trace has no image, and maps are drawn on black.

    Returns:
        `files`, and for each of the `words` its range, presence and file; file names are relative to `folder`.
    """
    words, image = [], _picture(trace)
    for i, (word, name) in enumerate(zip(maps.words, safe_names(maps.words), strict=True)):
        file = f"maps/{name}.png"
        write_picture(folder / file, pictures.overlay(image, maps[i]))
        low, high = float(maps[i].min()), float(maps[i].max())
        words.append({"word": word, "presence": presence(maps[i]), "range": [low, high], "map": file})
    caption = trace.source.prompt or "image"
    write_picture(folder / "sheet.png", pictures.contact_sheet(image, maps, caption=caption))
    return {"files": {"sheet": "sheet.png"}, "words": words}


def _picture(trace: Trace) -> Image.Image:
    return Image.new("RGB", trace.size[::-1]) if trace.image_png is None else trace.image


def write_masks(trace: Trace, segmentation: Segmentation, folder: Path) -> dict[str, Any]:
    """Write `masks/<word>.png`, `labels.png` with label numbers as pixels, and `labels_overlay.png` to look at.

    Returns:
        `files`, and for each of the `words` its label, share of the image, presence and file.
    """
    words = []
    for label, (word, name) in enumerate(zip(segmentation.words, safe_names(segmentation.words), strict=True), 1):
        file = f"masks/{name}.png"
        write_picture(folder / file, pictures.mask_picture(segmentation[word]))
        share = float((segmentation.labels == label).float().mean())
        found = segmentation.presence[word]
        words.append({"word": word, "presence": found, "label": label, "share": share, "mask": file})
    write_picture(folder / "labels.png", pictures.palette_png(segmentation.labels))
    write_picture(folder / "labels_overlay.png", pictures.label_map_picture(_picture(trace), segmentation))
    return {"files": {"labels": "labels.png", "labels_overlay": "labels_overlay.png"}, "words": words}


def write_all(
    trace: Trace,
    words: Sequence[str | Fitted],
    options: SegmentOptions,
    folder: Path,
    *,
    save_trace: bool = True,
) -> dict[str, Any]:
    """Write the image, the trace, and the maps and masks of words.

    Returns:
        `seed`, `size`, `files` and `words`, as `write_maps` and `write_masks` give them.
    """
    segmentation = segment_words(trace, words, options)
    run = write_run(trace, folder, save_trace=save_trace)
    mapped = write_maps(trace, segmentation.maps.only(segmentation.words), folder)
    masked = write_masks(trace, segmentation, folder)
    merged = [{**one, **other} for one, other in zip(mapped["words"], masked["words"], strict=True)]
    return {**run, "files": {**run["files"], **mapped["files"], **masked["files"]}, "words": merged}


def write_run(trace: Trace, folder: Path, *, save_trace: bool = True) -> dict[str, Any]:
    """Write the image and the trace, which can be queried later.

    Returns:
        `seed`, `size`, `files`, and an empty list of `words`.
    """
    files = {"image": "image.png"}
    assert trace.image_png is not None  # generating and encoding both give a picture
    write_bytes(folder / files["image"], trace.image_png)
    if save_trace:
        files["trace"] = TRACE_FILE
        trace.save(folder / TRACE_FILE)
    return {"seed": trace.source.seed, "size": list(trace.size), "files": files, "words": []}


def notes_of(trace: Trace, words: Sequence[str | Fitted]) -> dict[str, list[str]]:
    """Return notes on differences between this trace and the runs that tokens were fitted on; empty without tokens."""
    tokens = fitted_in(list(words))
    return {"notes": [note for one in tokens for note in one.notes(trace)]} if tokens else {}
