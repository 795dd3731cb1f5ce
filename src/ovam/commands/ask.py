"""Asking for words later: of a saved trace without running the model, or of an image file by encoding it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.asked import entries_of, fitted_in
from ovam.backbones.registry import backbone_of
from ovam.commands import Progress, no_progress
from ovam.commands.answers import notes_of, write_all, write_maps, write_masks
from ovam.commands.files import write_json
from ovam.commands.folders import check_folder, kept_if_done
from ovam.commands.generate import pipeline
from ovam.encode import Method, encode, native_size, read_image
from ovam.errors import ModelNotFoundError, OptionError
from ovam.input_file import is_tensor_file
from ovam.map_options import Strategy, check_joint
from ovam.maps import attention_maps
from ovam.masks import THRESHOLD, check_words, names_of, segment
from ovam.models import MINI
from ovam.prompt import Span
from ovam.storage import storage_of
from ovam.trace import BlockChoice, Fitted, Listed, Trace
from ovam.trace_file import load_trace, read_header
from ovam.word_maps import AttentionMaps


def maps(
    trace_file: str | Path,
    words: Sequence[str | Fitted] = (),
    *,
    attribution_prompt: str | None = None,
    output_dir: str | Path | None = None,
    model: str | Path | None = None,
    blocks: BlockChoice = None,
    steps: int | Iterable[int] | None = None,
    strategy: Strategy = "attention",
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
        blocks: As in `Trace.maps`.
        steps: As in `Trace.maps`.
        strategy: As in `Trace.maps`.
        progress: Told what is being done.

    Returns:
        The content of `result.json`; the names of files are relative to `output_dir`.

    Raises:
        TraceFileError: the file is no trace, damaged or newer.
        ModelNotFoundError: the text encoder is not at hand.
        The errors of `Trace.maps`.
    """
    begun = time.monotonic()
    path = Path(trace_file)
    if attribution_prompt is None:
        entries_of(words)
    elif fitted_in(list(words)):
        raise OptionError(
            "fitted tokens were asked together with an attribution prompt, whose words alone share the attention: "
            "expected one of the two; ask the tokens by themselves"
        )
    folder = check_folder(_beside(path, "maps") if output_dir is None else output_dir)
    trace = open_trace(path, model, progress)
    asked_of = trace.select(blocks=blocks, steps=steps)
    found = attention_maps(asked_of, attribution_prompt or list(words), strategy=strategy)
    if attribution_prompt and words:
        found = _only(found, names_of(words))
    progress("maps", 0, 0)
    with kept_if_done(folder):
        result = {
            "command": "maps",
            "version": __version__,
            "source": str(path),
            "model": trace.source.model,
            "prompt": trace.source.prompt,
            "attribution_prompt": attribution_prompt,
            "strategy": strategy,
            **notes_of(asked_of, words),
            "output_dir": str(folder),
            **write_maps(trace, found, folder),
            "seconds": round(time.monotonic() - begun, 2),
        }
        write_json(folder / "result.json", result)
    return result


def segment_file(
    source: str | Path,
    words: Listed,
    *,
    against: Listed = (),
    threshold: float = THRESHOLD,
    strategy: Strategy = "attention",
    output_dir: str | Path | None = None,
    model: str | Path | None = None,
    prompt: str | None = None,
    method: Method | None = None,
    timesteps: Sequence[int] | None = None,
    seed: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    blocks: BlockChoice = None,
    steps: int | Iterable[int] | None = None,
    storage: torch.dtype | None = None,
    limit_gib: float | None = None,
    outputs: bool | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write masks and a label map of words, for a saved trace (without running the model) or an image file.

    What says how the model looks at an image is refused for a trace, where it would change nothing.

    Args:
        source: A trace file, or an image, which the model then looks at by `ovam.encode`.
        words: Words and phrases, and fitted tokens.
        against: Words that compete and are then dropped.
        threshold: Score of the background, in (0, 1).
        strategy: As in `Trace.segment`.
        output_dir: Gets `masks/`, `labels.png`, `labels_overlay.png` and `result.json`, for an image also
            `image.png`, `maps/`, `sheet.png` and `run.safetensors`; by default `<file>-segment` beside the file.
        model: For a trace as in `maps`; for an image mini by default.
        prompt: What the denoiser is told of an image; nothing by default.
        method: How the model looks at an image, as in `ovam.encode`; "noise" by default.
        timesteps: As in `ovam.encode`, for an image.
        seed: Seed of the noises put on an image; 0 by default.
        dtype: Type of the model's weights, for an image; float32 by default.
        device: Where the model runs, for an image; the CPU by default.
        blocks: As in `Trace.maps`.
        steps: As in `Trace.maps`.
        storage: Type that queries of an image are kept in; float16 by default.
        limit_gib: As in `ovam.encode`, for an image.
        outputs: As in `ovam.encode`, for an image; they are kept as well where the strategy needs them.
        progress: Told what is being done.

    Returns:
        The content of `result.json`; the names of files are relative to `output_dir`; for an image, `working_size` is
        the (height, width) in pixels at which the model looked at it.

    Raises:
        TraceFileError, ImageInputError: the file can't be read as a trace or as an image.
        OptionError: the file is a trace and an option that is for images was given.
        The errors of `Trace.segment` and, for an image, of `ovam.encode`.
    """
    begun = time.monotonic()
    path = Path(source)
    asked, rivals = check_words(words, against, threshold, strategy=strategy)
    asking: dict[str, Any] = {"against": rivals, "threshold": threshold, "strategy": strategy}
    folder = check_folder(_beside(path, "segment") if output_dir is None else output_dir)
    working_size: dict[str, list[int]] = {}
    if is_trace(path):
        looking = {"prompt": prompt, "method": method, "timesteps": timesteps, "seed": seed}
        running = {"dtype": dtype, "device": device, "storage": storage, "limit_gib": limit_gib, "outputs": outputs}
        _refuse_for_trace(path, **looking, **running)
        trace = open_trace(path, model, progress)
        progress("masks", 0, 0)
        asked_of = trace.select(blocks=blocks, steps=steps)
        write = partial(write_masks, trace, segment(asked_of, asked, **asking))
    else:
        picture = read_image(path)
        storage_of(dtype=storage or torch.float16, device="cpu", disk=None, limit_gib=limit_gib)
        model, device = MINI if model is None else model, "cpu" if device is None else device
        pipe = pipeline(model, dtype=dtype or torch.float32, device=device, progress=progress)
        check_joint(backbone_of(pipe).text_kind, "prompt", strategy)
        size = native_size(backbone_of(pipe), picture)
        working_size = {"working_size": list(size)}
        progress("encoding the image", 0, 0)
        kept: dict[str, Any] = {"blocks": blocks, "dtype": storage or torch.float16, "limit_gib": limit_gib}
        looks: dict[str, Any] = {"method": method or "noise", "timesteps": timesteps, "seed": seed or 0, "size": size}
        trace = encode(pipe, picture, prompt or "", **looks, **kept, outputs=outputs or strategy == "output")
        trace = asked_of = trace if steps is None else trace.select(steps=steps)
        progress("maps and masks", 0, 0)
        write = partial(write_all, trace, asked, **asking)
    with kept_if_done(folder):
        result = {
            "command": "segment",
            "version": __version__,
            "source": str(path),
            "model": trace.source.model,
            **working_size,
            "prompt": trace.source.prompt,
            "against": list(names_of(rivals)),
            **notes_of(asked_of, [*asked, *rivals]),
            "threshold": threshold,
            "strategy": strategy,
            "output_dir": str(folder),
            **write(folder=folder),
            "seconds": round(time.monotonic() - begun, 2),
        }
        write_json(folder / "result.json", result)
    return result


def _refuse_for_trace(path: Path, **image_options: object) -> None:
    """Raises OptionError where an option that only an image needs was given."""
    given = [f"{name}={value!r}" for name, value in image_options.items() if value is not None]
    if given:
        raise OptionError(
            f"{', '.join(given)}: expected with an image file only, which the model looks at, but {path} is a trace, "
            f"whose run is over; leave {'it' if len(given) == 1 else 'them'} out, or give an image file"
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


def _only(found: AttentionMaps, words: Sequence[str]) -> AttentionMaps:
    """Some of the words of an attribution prompt, or its special tokens.

    Raises:
        UnknownWordError: a word is not in it.
    """
    chosen = torch.stack([found[word] for word in words])
    spans = tuple(Span(word, (i,)) for i, word in enumerate(words))
    return replace(found, token_maps=chosen, tokens=tuple(words), spans=spans)
