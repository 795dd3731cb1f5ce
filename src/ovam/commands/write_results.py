"""Write maps and masks as pictures, and return a record of their numbers and file names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ovam import pictures
from ovam.commands.formats import write_arrays, write_formats
from ovam.commands.output_options import OutputOptions
from ovam.maps.result import AttentionMaps
from ovam.maps.words import OptimisedTokens, optimised_in
from ovam.masks.masks import segment_words
from ovam.masks.options import SegmentOptions
from ovam.masks.presence import presences
from ovam.methods.base import Method
from ovam.output_files import safe_names, write_bytes, write_picture
from ovam.trace.trace import Trace

TRACE_FILE = "run.safetensors"


def write_maps(
    trace: Trace, maps: AttentionMaps, folder: Path, formats: Sequence[str] = OutputOptions.formats
) -> dict[str, Any]:
    """Write `maps/<word>.png`, each map over its image, and `sheet.png` with all of them; or `maps.npy`, or both.

    If the run ended with latents, the trace has no image, and maps are drawn on black.

    Returns:
        `files`, and for each of the `words` its range, presence and file; file names are relative to `folder`.
    """
    found, files = presences(maps), dict[str, str]()
    words: list[dict[str, Any]] = [
        {"word": word, "presence": found[word], "range": [float(maps[i].min()), float(maps[i].max())]}
        for i, word in enumerate(maps.words)
    ]
    if "png" in formats:
        image = _picture(trace)
        for i, name in enumerate(safe_names(maps.words)):
            words[i]["map"] = f"maps/{name}.png"
            write_picture(folder / words[i]["map"], pictures.overlay(image, maps[i]))
        files["sheet"] = "sheet.png"
        caption = trace.source.prompt or "image"
        write_picture(folder / "sheet.png", pictures.contact_sheet(image, maps, caption=caption))
    if "npy" in formats:
        files |= write_arrays(folder, maps=maps.stacked())
    return {"files": files, "words": words}


def _picture(trace: Trace) -> Image.Image:
    return Image.new("RGB", trace.size[::-1]) if trace.image_png is None else trace.image


def write_all(
    trace: Trace,
    words: Sequence[str | OptimisedTokens],
    options: SegmentOptions,
    folder: Path,
    *,
    save_trace: bool = True,
    output: OutputOptions | None = None,
    method: Method | None = None,
) -> dict[str, Any]:
    """Write the image, the trace, and the maps and masks of words, by a method instead of `options` if it is given.

    Returns:
        `seed`, `size`, `files` and `words`, as `write_maps` and `write_formats` give them.
    """
    output = output or OutputOptions()
    segmentation = segment_words(trace, words, options) if method is None else method.segment(trace, words)
    run = write_run(trace, folder, save_trace=save_trace)
    mapped = write_maps(trace, segmentation.maps.only(segmentation.words), folder, output.formats)
    masked = write_formats(segmentation, folder, output)
    merged = [{**one, **other} for one, other in zip(mapped["words"], masked["words"], strict=True)]
    files = {**run["files"], **mapped["files"], **masked["files"]}
    return {**run, **masked, "files": files, "words": merged}


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


def notes_of(trace: Trace, words: Sequence[str | OptimisedTokens]) -> dict[str, list[str]]:
    """Return notes on differences between this trace and the runs that tokens were fitted on; empty without tokens."""
    tokens = optimised_in(list(words))
    return {"notes": [note for one in tokens for note in one.notes(trace)]} if tokens else {}
