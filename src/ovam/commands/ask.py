"""Asking for words later: of a saved trace without running the model, or of an image file by encoding it."""

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
from ovam.commands.generate import pipeline
from ovam.commands.write_results import notes_of, write_all, write_maps
from ovam.errors import ModelNotFoundError, OptionError
from ovam.input_file import is_tensor_file
from ovam.maps.compute import attention_maps
from ovam.maps.options import MapOptions, check_joint
from ovam.maps.words import Fitted, Listed, contrast_of, entries_of, fitted_in, names_of
from ovam.mask_files import write_masks
from ovam.masks.masks import segment_words
from ovam.masks.options import SegmentOptions
from ovam.models import MINI
from ovam.output_files import write_json
from ovam.output_folders import check_folder
from ovam.run_folder import RECORD, run_folder
from ovam.trace.file import load_trace, read_header
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode_image, native_size, read_image
from ovam.tracing.encode_options import EncodeOptions


def maps(
    trace_file: str | Path,
    words: Sequence[str | Fitted] = (),
    *,
    attribution_prompt: str | None = None,
    output_dir: str | Path | None = None,
    model: str | Path | None = None,
    options: MapOptions | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the attention maps of words, asked of a saved trace, without running the denoiser.

    Nor is it loaded, unless the file refers to its key projections or the model is given by an id.

    Args:
        trace_file: A file that `ovam.Trace.save` or `generate` wrote.
        words: Words and phrases, each an attribution prompt of its own, and fitted tokens.
        attribution_prompt: A text whose words share the attention; then `words` are some of its words, or
            none for all of them.
        output_dir: Gets `maps/`, `sheet.png` and `result.json`; by default `<file>-maps` beside the file.
        model: The model that the trace was made with, for its text encoder: "mini", a folder, or an id.
            Needed unless the file names mini: nothing else is loaded at a file's word.
        options: As in `Trace.maps`.
        progress: Told what is being done.

    Returns:
        The content of `result.json`; the names of files are relative to `output_dir`.

    Raises:
        TraceFileError: the file is no trace, damaged or newer.
        ModelNotFoundError: the text encoder is not at hand.
        The errors of `Trace.maps`.
    """
    begun = time.monotonic()
    path, options = Path(trace_file), options or MapOptions()
    if attribution_prompt is None:
        entries_of(words)
    elif fitted_in(list(words)):
        raise OptionError(
            "fitted tokens were asked together with an attribution prompt, whose words alone share the attention: "
            "expected one of the two; ask the tokens by themselves"
        )
    folder = check_folder(_beside(path, "maps") if output_dir is None else output_dir)
    trace = open_trace(path, model, progress)
    found = attention_maps(trace, attribution_prompt or list(words), options)
    if attribution_prompt and words:
        found = found.only(names_of(words))
    progress("maps", 0, 0)
    with run_folder(folder) as room:
        result = {
            "command": "maps",
            "version": __version__,
            "source": str(path),
            "model": trace.source.model,
            "prompt": trace.source.prompt,
            "attribution_prompt": attribution_prompt,
            "strategy": options.strategy,
            **notes_of(trace.select(blocks=options.blocks, steps=options.steps), words),
            "output_dir": str(folder),
            **write_maps(trace, found, room),
            "seconds": round(time.monotonic() - begun, 2),
        }
        write_json(room / RECORD, result)
    return result


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the model is loaded that looks at an image.

    Attributes:
        dtype: Type of its weights.
        device: Where it runs.
    """

    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"


def segment_file(
    source: str | Path,
    words: Listed,
    *,
    output_dir: str | Path | None = None,
    model: str | Path | None = None,
    options: SegmentOptions | None = None,
    encoding: EncodeOptions | None = None,
    loading: Loading | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write masks and a label map of words, for a saved trace (without running the model) or an image file.

    Args:
        source: A trace file, or an image, which the model then looks at by `ovam.encode`.
        words: Words and phrases, and fitted tokens.
        output_dir: Gets `masks/`, `labels.png`, `labels_overlay.png` and `result.json`, for an image also
            `image.png`, `maps/`, `sheet.png` and `run.safetensors`; by default `<file>-segment` beside the file.
        model: For a trace as in `maps`; for an image mini by default.
        options: As in `Trace.segment`.
        encoding: How the model looks at an image, as in `ovam.encode`; attention outputs are kept as well where the
            strategy needs them, and blocks that are not named here are those of `options`.
        loading: How the model is loaded, for an image.
        progress: Told what is being done.

    Returns:
        The content of `result.json`; the names of files are relative to `output_dir`; for an image, `working_size` is
        the (height, width) in pixels at which the model looked at it.

    Raises:
        TraceFileError, ImageInputError: the file can't be read as a trace or as an image.
        OptionError: the file is a trace, and it was said how to look at an image.
        The errors of `Trace.segment` and, for an image, of `ovam.encode`.
    """
    begun = time.monotonic()
    path, options = Path(source), options or SegmentOptions()
    options.check(words)
    asked, rivals = entries_of(words), contrast_of(options.against)
    folder = check_folder(_beside(path, "segment") if output_dir is None else output_dir)
    working_size: dict[str, list[int]] = {}
    if is_trace(path):
        _refuse_for_trace(path, encoding, loading)
        trace = open_trace(path, model, progress)
        progress("masks", 0, 0)
        write = partial(write_masks, segment_words(trace, asked, options))
    else:
        picture = read_image(path)
        trace, size = _looked_at(picture, MINI if model is None else model, options, encoding, loading, progress)
        working_size = {"working_size": list(size)}
        progress("maps and masks", 0, 0)
        write = partial(write_all, trace, asked, options)
    with run_folder(folder) as room:
        result = {
            "command": "segment",
            "version": __version__,
            "source": str(path),
            "model": trace.source.model,
            **working_size,
            "prompt": trace.source.prompt,
            "against": list(names_of(rivals)),
            **notes_of(trace.select(blocks=options.blocks, steps=options.steps), [*asked, *rivals]),
            "threshold": options.threshold,
            "strategy": options.strategy,
            "output_dir": str(folder),
            **write(folder=room),
            "seconds": round(time.monotonic() - begun, 2),
        }
        write_json(room / RECORD, result)
    return result


def _looked_at(
    picture: Image.Image,
    model: str | Path,
    options: SegmentOptions,
    encoding: EncodeOptions | None,
    loading: Loading | None,
    progress: Progress,
) -> tuple[Trace, tuple[int, int]]:
    """The trace of a picture, and the size at which the model looked at it."""
    looks, loading = encoding or EncodeOptions(), loading or Loading()
    pipe = pipeline(model, dtype=loading.dtype, device=loading.device, progress=progress)
    size = native_size(backbone_of(pipe), picture) if looks.size is None else looks.size
    looks = replace(
        looks,
        size=size,
        blocks=options.blocks if looks.blocks is None else looks.blocks,
        outputs=looks.outputs or options.strategy == "output",
    )
    check_joint(backbone_of(pipe).text_kind, strategy=options.strategy)
    progress("encoding the image", 0, 0)
    return encode_image(pipe, picture, looks), size


def _refuse_for_trace(path: Path, *image_options: EncodeOptions | Loading | None) -> None:
    """Raises OptionError where an option that only an image needs was given."""
    given = [
        f"{field.name}={getattr(options, field.name)!r}"
        for options in image_options
        if options is not None
        for field in fields(options)
        if getattr(options, field.name) != field.default
    ]
    if any(options is not None for options in image_options):
        raise OptionError(
            f"options of how the model looks at an image were given{': ' if given else ''}{', '.join(given)}, but "
            f"{path} is a trace, whose run is over: leave them out, or give an image file"
        )


def open_trace(path: Path, model: str | Path | None, progress: Progress = no_progress) -> Trace:
    """Read a trace with the text encoder of `model`, or of mini where the trace names it.

    No other model is taken at the file's word: a folder of that name may be anybody's.

    Raises:
        TraceFileError: the file is no trace, damaged or newer.
        ModelNotFoundError: no model was given, and the one it names is not mini.
        SpaceMismatchError: the trace was made with another model.
    """
    named = read_header(path).get("source")
    if model is None:
        model = str(named.get("model")) if isinstance(named, dict) else ""
        if model != MINI:
            raise ModelNotFoundError(
                f"{path} says that it was made with the model {model!r}, and a file's word loads none but 'mini': "
                "expected the model whose text encoder is to be loaded, with model=... (--model on the command line), "
                "its folder or its id"
            )
    progress("loading the text encoder", 0, 0)
    return load_trace(path, model)


def is_trace(path: Path) -> bool:
    """Whether a file is meant as a trace: by its name, or by how it begins."""
    return path.suffix == ".safetensors" or is_tensor_file(path)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.stem}-{what}")
