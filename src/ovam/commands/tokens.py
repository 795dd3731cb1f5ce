"""Fit tokens to annotated images or traces; show, merge, check and import them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.commands.annotated import Sources, annotated_traces, encoded_images
from ovam.commands.trace_file import open_trace
from ovam.maps.words import check_space_of
from ovam.masks.annotations import IGNORE, Annotation
from ovam.models import short_name
from ovam.refine.options import RefineChoice
from ovam.tensor_file import check_writable
from ovam.text_sides import text_of
from ovam.tokens.card import facts
from ovam.tokens.legacy import import_tokens
from ovam.tokens.optimize import fit_tokens
from ovam.tokens.options import FitOptions
from ovam.tokens.store import FORMAT
from ovam.tokens.thresholds import choose_thresholds
from ovam.tokens.token_set import TokenSet, merge
from ovam.trace.trace import Trace
from ovam.tracing.encode import read_image


def optimize(
    masks: Sequence[str | Path],
    words: Sequence[str],
    *,
    output: str | Path,
    images: Sequence[str | Path] = (),
    traces: Sequence[str | Path] = (),
    labels: Sequence[int] = (),
    model: str | Path | None = None,
    options: FitOptions | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Fit tokens to annotated images and traces, and write them to a file.

    Each mask and word belongs to the source at the same position; sources are the images, then the traces. Repeat a
    source to give it another class. A single word applies to all masks.

    Args:
        masks: Pictures, or JSON of COCO or labelme, at the size of their images. In a file with many objects, the
            image's file name and the word select the mask.
        words: Names of the classes.
        output: File to write.
        images: Image files, which are encoded with `ovam.encode`.
        traces: Trace files.
        labels: If masks are label maps, the number of each word in them.
        model: For images mini by default; for traces as in `maps`.
        options: As in `ovam.optimize_tokens`.
        seed: Seed of the noise that is added to images.
        dtype: Type of the model's weights, for images.
        device: Device of the model, for images.
        progress: Called with the progress of the work.

    Returns:
        The fitted set's facts, and for each source the IoU of its annotation with the masks that the tokens give.

    Raises:
        OptionError: the numbers of sources, masks and words differ.
        TokenFileError: the output can't be written.
        The errors of `ovam.optimize_tokens`, `ovam.encode` and `ovam.Trace.load`.
    """
    begun, options = time.monotonic(), options or FitOptions()
    check_writable(Path(output), FORMAT)
    annotated = annotated_traces(
        Sources(masks=masks, words=words, images=images, traces=traces, labels=labels),
        reading=options.reading,
        model=model,
        dtype=dtype,
        device=device,
        progress=progress,
        seed=seed,
        blocks=options.blocks,
    )
    progress("optimising tokens", 0, 0)
    tokens = fit_tokens([trace for trace, _ in annotated.values()], [mark for _, mark in annotated.values()], options)
    tokens.save(output)
    reached = [
        _reached(path, trace.select(blocks=options.blocks, steps=options.steps), mark, tokens)
        for path, (trace, mark) in annotated.items()
    ]
    return {
        "command": "optimize",
        "version": __version__,
        "output": str(output),
        **facts(tokens),
        "fitted_on": reached,
        "seconds": round(time.monotonic() - begun, 2),
    }


def _reached(path: Path, trace: Trace, mark: Annotation, tokens: TokenSet) -> dict[str, Any]:
    """Return the IoU of an annotation with the masks that the tokens give on its image."""
    labels, counted = trace.segment(tokens).labels.numpy(), mark.labels != IGNORE
    found = dict[str, float]()
    for name in mark.classes:
        mine = (labels == tokens.classes.index(name) + 1) & counted
        right = mark.labels == mark.classes.index(name) + 1
        found[name] = round(float((mine & right).sum() / max(1, (mine | right).sum())), 4)
    return {"source": str(path), "iou": found}


def thresholds(
    file: str | Path,
    masks: Sequence[str | Path],
    words: Sequence[str],
    *,
    output: str | Path,
    images: Sequence[str | Path] = (),
    traces: Sequence[str | Path] = (),
    without: Sequence[str | Path] = (),
    labels: Sequence[int] = (),
    refine: RefineChoice = False,
    model: str | Path | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Choose the thresholds of tokens on annotated pictures that the fit did not see, and write them with the tokens.

    Args:
        file: File of tokens.
        masks: As in `optimize`.
        words: Names of the classes, as in the tokens.
        output: File to write.
        images: As in `optimize`.
        traces: As in `optimize`. With `refine` they need self-attention.
        without: Images that show no class of the tokens; presence thresholds need pictures without the class.
        labels: As in `optimize`.
        refine: Whether maps are refined first, as they will be when the tokens are used.
        model: As in `optimize`.
        seed: As in `optimize`.
        dtype: As in `optimize`.
        device: As in `optimize`.
        progress: Called with the progress of the work.

    Returns:
        The set's facts.

    Raises:
        TokenFileError: a file can't be read or written.
        The errors of `ovam.tokens.thresholds.choose_thresholds`, `ovam.encode` and `ovam.Trace.load`.
    """
    begun, tokens = time.monotonic(), TokenSet.load(file)
    check_writable(Path(output), FORMAT)
    loading: dict[str, Any] = {"model": model, "dtype": dtype, "device": device, "progress": progress}
    encoding: dict[str, Any] = {"seed": seed, "self_attention": True} if refine else {"seed": seed}
    blank = {path: read_image(path) for path in map(Path, without)}
    sources = Sources(masks=masks, words=words, images=images, traces=traces, labels=labels)
    annotated = annotated_traces(sources, reading={}, **loading, **encoding)
    bare = encoded_images(blank, **loading, **encoding)
    progress("choosing thresholds", 0, 0)
    chosen = choose_thresholds(
        tokens,
        [*(trace for trace, _ in annotated.values()), *bare.values()],
        [*(mark for _, mark in annotated.values()), *({} for _ in bare)],
        refine=refine,
    )
    chosen.save(output)
    return {
        "command": "tokens thresholds",
        "version": __version__,
        "output": str(output),
        **facts(chosen),
        "seconds": round(time.monotonic() - begun, 2),
    }


def show(path: str | Path) -> dict[str, Any]:
    """Return the facts of a token file.

    Raises:
        TokenFileError: the file can't be read.
    """
    return {"command": "tokens show", "file": str(path), **facts(TokenSet.load(path))}


def merge_files(paths: Sequence[str | Path], output: str | Path) -> dict[str, Any]:
    """Merge several token files into one set; the maps of the classes do not change.

    Raises:
        TokenFileError: a file can't be read or written.
        SpaceMismatchError, OptionError: the sets belong to different text encoders, or share a class.
    """
    merged = merge([TokenSet.load(path) for path in paths])
    merged.save(output)
    return {"command": "tokens merge", "output": str(output), **facts(merged)}


def check(path: str | Path, *, model: str | Path | None = None, trace: str | Path | None = None) -> dict[str, Any]:
    """Check that tokens can be used with a model or a trace; return the differences from their fit as notes.

    Raises:
        TokenFileError, TraceFileError: a file can't be read.
        SpaceMismatchError: the tokens were fitted for another text encoder.
    """
    tokens, notes = TokenSet.load(path), list[str]()
    if trace is not None:
        opened = open_trace(Path(trace), model)
        check_space_of(tokens, opened.text.space)
        notes += tokens.notes(opened)
    elif model is not None:
        check_space_of(tokens, text_of(model, tokens.space.layer).space)
        notes += tokens.notes_of(short_name(str(model)), None)
    usable_with = str(trace or model or "not asked")
    return {"command": "tokens check", "file": str(path), "usable_with": usable_with, "notes": notes, **facts(tokens)}


def import_file(path: str | Path, output: str | Path, *, model: str | Path, word: str | None = None) -> dict[str, Any]:
    """Convert an `.npy` file of tokens, as published by the paper's authors, into a token set.

    Raises:
        TokenFileError: the file is not in that format, or the output can't be written.
        SpaceMismatchError: its vectors have another width than the model's text encoder.
    """
    tokens = import_tokens(path, text_of(model), word=word)
    tokens.save(output)
    return {"command": "tokens import", "output": str(output), **facts(tokens)}
