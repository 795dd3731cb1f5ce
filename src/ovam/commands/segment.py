"""Write the masks of words, from a saved trace or from an image file, which is encoded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ovam import __version__
from ovam.backbones.registry import backbone_of
from ovam.commands import Progress, no_progress
from ovam.commands.formats import write_formats
from ovam.commands.generate import pipeline
from ovam.commands.methods import check_alone, facts_of_method, kept_by
from ovam.commands.output_options import OutputOptions
from ovam.commands.requests import plain
from ovam.commands.trace_file import beside, is_trace, open_trace
from ovam.commands.write_results import notes_of, write_all
from ovam.errors import OptionError
from ovam.maps.gains import WordGains
from ovam.maps.options import check_joint
from ovam.maps.words import Listed, contrast_of, entries_of, names_of
from ovam.masks.masks import segment_words
from ovam.masks.options import SegmentOptions
from ovam.methods.base import Method
from ovam.models import MINI
from ovam.output_files import write_json
from ovam.output_folders import check_folder
from ovam.run_folder import RECORD, run_folder
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode_image, native_size, read_image
from ovam.tracing.encode_options import EncodeOptions
from ovam.tracing.keeping import kept_for
from ovam.tracing.word_gains import GainOptions, measure_gains


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How to load the model that encodes an image.

    Attributes:
        dtype: Type of the weights.
        device: Device of the model.
    """

    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"


def segment_file(
    source: str | Path,
    words: Listed,
    *,
    output_dir: str | Path | None = None,
    model: Any = None,
    options: SegmentOptions | None = None,
    method: Method | None = None,
    encoding: EncodeOptions | None = None,
    loading: Loading | None = None,
    gains: GainOptions | None = None,
    output: OutputOptions | None = None,
    request: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write masks and a label map of words, for a saved trace (without running the model) or an image file.

    Args:
        source: A trace file, or an image, which is encoded with `ovam.encode`.
        words: Words and phrases, and optimised tokens.
        output_dir: Folder for `masks/`, `labels.png`, `labels_overlay.png` and `result.json`, and for an image also
            `image.png`, `maps/`, `sheet.png` and `run.safetensors`; by default `<file>-segment` next to the file.
        model: For a trace as in `maps`; for an image mini by default. A pipeline object is allowed as well.
        options: As in `Trace.segment`.
        method: A method of `ovam.methods` that makes the masks instead; `options` are then left out.
        encoding: As in `ovam.encode`, for an image. Attention outputs and self-attention are captured too if
            strategy, refinement or method needs them. If no blocks are given here, those of `options` are used.
        loading: How to load the model, for an image.
        gains: How to measure word gains, for an image: the denoiser is also asked about each word, as by
            `ovam.word_gains`. By default it is not asked. If no size is given here, the image has the same size for the
            model as when it is encoded.
        output: Which files to write; by default the pictures.
        request: Hash of what was asked, for the record of an item of a batch.
        progress: Called with the progress of the work.

    Returns:
        The content of `result.json`; file names are relative to `output_dir`. For an image, `working_size` is the
        (height, width) in pixels at which the model encoded it. With word gains, `gains` has the number of looks, and
        the words that the words were also compared with.

    Raises:
        TraceFileError, ImageInputError: the file can't be read as a trace or as an image.
        OptionError: the file is a trace, but options for images were given; or options contradict each other.
        The errors of `Trace.segment` and, for an image, of `ovam.encode`.
    """
    begun = time.monotonic()
    path, options = Path(source), options or SegmentOptions()
    check_asked(words, options, method, gains)
    output = output or OutputOptions()
    entries, rivals = entries_of(words), contrast_of(options.against)
    folder = check_folder(beside(path, "segment") if output_dir is None else output_dir)
    working_size: dict[str, list[int]] = {}
    if is_trace(path):
        _refuse_for_trace(path, encoding, loading, gains)
        trace = open_trace(path, model, progress)
        progress("masks", 0, 0)
        segmentation = segment_words(trace, entries, options) if method is None else method.segment(trace, entries)
        write = partial(write_formats, segmentation, output=output)
    else:
        picture = read_image(path)
        looks = kept_for(options, encoding or EncodeOptions())
        looks = looks if method is None else kept_by(method, looks)
        loading = loading or Loading()
        named = MINI if model is None else model
        pipe = pipeline(named, dtype=loading.dtype, device=loading.device, progress=progress)
        trace, size = _looked_at(picture, pipe, options, looks, progress)
        working_size = {"working_size": list(size)}
        if gains is not None:
            gains = replace(gains, size=gains.size or size)
            options = replace(options, gains=measure_gains(pipe, picture, [*entries, *rivals], gains, progress))
        progress("maps and masks", 0, 0)
        write = partial(write_all, trace, entries, options, output=output, method=method)
    with run_folder(folder) as room:
        result = {
            "command": "segment",
            "version": __version__,
            "source": str(path),
            "model": trace.source.model,
            **working_size,
            "prompt": trace.source.prompt,
            "against": list(names_of(rivals)),
            **_facts_of_gains(options.gains, names_of([*entries, *rivals])),
            **notes_of(trace.select(blocks=options.blocks, steps=options.steps), [*entries, *rivals]),
            **(_facts_of_options(options) if method is None else facts_of_method(method)),
            **({"request": request} if request else {}),
            "output_dir": str(folder),
            **write(folder=room),
            "seconds": round(time.monotonic() - begun, 2),
        }
        write_json(room / RECORD, result)
    return result


def check_asked(words: Listed, options: SegmentOptions, method: Method | None, gains: GainOptions | None) -> None:
    """Check, before anything is read or loaded, that what was asked goes together.

    Raises:
        OptionError: a method has its own stages, but options of the library's were given; or word gains are given and
            are to be measured as well.
        The errors of `SegmentOptions.check`.
    """
    options.check(words)
    if method is not None:
        check_alone(method, options, gains)
    if gains is not None and options.gains is not None:
        raise OptionError(
            "word gains were given in `options`, and options to measure them as well: expected one of the two"
        )


def _facts_of_gains(gains: WordGains | None, asked: Sequence[str]) -> dict[str, Any]:
    """Return the number of looks, and the words that the words were also compared with; nothing without gains."""
    if gains is None:
        return {}
    places = {gains.place(word) for word in asked}
    others = [word for place, word in enumerate(gains.words) if place not in places]
    return {"gains": {"looks": gains.looks, "against": others}}


def _facts_of_options(options: SegmentOptions) -> dict[str, Any]:
    return {"threshold": options.threshold, "strategy": options.strategy, "options": plain(options)}


def _looked_at(
    picture: Image.Image,
    pipe: Any,
    options: SegmentOptions,
    looks: EncodeOptions,
    progress: Progress,
) -> tuple[Trace, tuple[int, int]]:
    """Encode a picture; return its trace and the size at which the model encoded it."""
    size = native_size(backbone_of(pipe), picture) if looks.size is None else looks.size
    looks = replace(
        looks,
        size=size,
        blocks=options.blocks if looks.blocks is None else looks.blocks,
    )
    check_joint(backbone_of(pipe).text_kind, strategy=options.strategy)
    progress("encoding the image", 0, 0)
    return encode_image(pipe, picture, looks), size


def _refuse_for_trace(path: Path, *image_options: EncodeOptions | Loading | GainOptions | None) -> None:
    """Raise OptionError if an option for images was given."""
    given = [
        f"{field.name}={getattr(options, field.name)!r}"
        for options in image_options
        if options is not None
        for field in fields(options)
        if getattr(options, field.name) != field.default
    ]
    if any(options is not None for options in image_options):
        raise OptionError(
            f"options for an image were given{': ' if given else ''}{', '.join(given)}, but {path} is a "
            "trace, whose run is over: leave them out, or give an image file"
        )
