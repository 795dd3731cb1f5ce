"""Tokens on the command line: fit them to annotated images or traces, show, merge, check and import them."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.commands import Progress, no_progress
from ovam.commands.ask import open_trace
from ovam.commands.generate import pipeline
from ovam.errors import AnnotationError, OptionError
from ovam.maps.words import check_space_of
from ovam.masks.annotations import IGNORE, Annotation, annotation_from_labels, annotation_of
from ovam.models import MINI, short_name
from ovam.tensor_file import check_writable
from ovam.text_sides import text_of
from ovam.tokens.card import facts
from ovam.tokens.legacy import import_tokens
from ovam.tokens.optimize import fit_tokens
from ovam.tokens.options import FitOptions
from ovam.tokens.store import FORMAT
from ovam.tokens.token_set import TokenSet, merge
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode, read_image


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

    Sources, first images and then traces, masks and words go in pairs. A source that is named again has a further
    class; a word alone is meant for all masks.

    Args:
        masks: Pictures, or JSON of COCO or labelme, at the size of their images. Out of a file of many objects the
            image's file name and the word pick the mask.
        words: Names of the classes.
        output: File to write.
        images: Image files, which the model looks at by `ovam.encode`.
        traces: Trace files.
        labels: Where masks are label maps, the number of each word in them.
        model: For images mini by default; for traces as in `maps`.
        options: As in `ovam.optimize_tokens`.
        seed: Seed of the noises put on images.
        dtype: Type of the model's weights, for images.
        device: Where the model runs, for images.
        progress: Told what is being done.

    Returns:
        What was fitted: the set's facts, and the IoU of each annotation with its own mask.

    Raises:
        OptionError: sources, masks and words do not go in pairs.
        TokenFileError: the output can't be written.
        The errors of `ovam.optimize_tokens`, `ovam.encode` and `ovam.Trace.load`.
    """
    begun, options = time.monotonic(), options or FitOptions()
    sources = [*map(Path, images), *map(Path, traces)]
    named = _by_source(sources, masks, words, labels)
    check_writable(Path(output), FORMAT)
    pictures = {path: read_image(path) for path in named if path in set(map(Path, images))}
    opened = {path: open_trace(path, model, progress) for path in named if path in set(map(Path, traces))}
    sizes = {path: (picture.height, picture.width) for path, picture in pictures.items()}
    sizes |= {path: trace.size for path, trace in opened.items()}
    marks = []
    for path, own in named.items():  # before a model is loaded
        name = path.name if path in pictures else None  # a trace's own name tells nothing of its picture's
        marks.append(_annotated(path, own, sizes[path], {**options.reading, "image": name}))
    if pictures:
        pipe = pipeline(MINI if model is None else model, dtype=dtype, device=device, progress=progress)
        for done, (path, picture) in enumerate(pictures.items()):
            progress("encoding images", done, len(pictures))
            opened[path] = encode(pipe, picture, seed=seed, blocks=options.blocks)
    progress("optimising tokens", 0, 0)
    tokens = fit_tokens([opened[path] for path in named], marks, options)
    tokens.save(output)
    reached = [
        _reached(path, opened[path].select(blocks=options.blocks, steps=options.steps), mark, tokens)
        for path, mark in zip(named, marks, strict=True)
    ]
    return {
        "command": "optimize",
        "version": __version__,
        "output": str(output),
        **facts(tokens),
        "fitted_on": reached,
        "seconds": round(time.monotonic() - begun, 2),
    }


Masks = dict[str, tuple[Path, int | None]]
"""Of one source: by class the mask's file, and the class's number in it where it is a label map."""


def _by_source(
    sources: Sequence[Path], masks: Sequence[str | Path], words: Sequence[str], labels: Sequence[int]
) -> dict[Path, Masks]:
    words = list(words) * len(masks) if len(words) == 1 else list(words)
    numbers: list[int | None] = [*labels] or [None]
    numbers = numbers * len(masks) if len(numbers) == 1 else numbers
    if not sources or not len(sources) == len(masks) == len(words) == len(numbers):
        raise OptionError(
            f"{len(sources)} images and traces, {len(masks)} masks, {len(words)} words and {len(labels)} labels: "
            "expected as many masks and words as images and traces, in the same order (images first), or one word for "
            "all; name an image once for each of its masks"
        )
    named: dict[Path, Masks] = {}
    for source, mask, word, number in zip(sources, masks, words, numbers, strict=True):
        if word in named.setdefault(source, {}):
            raise OptionError(f"word {word!r} is given twice for {source}: expected one mask for each class")
        clash = [other for other, (_, taken) in named[source].items() if taken == number and number is not None]
        if clash:
            raise OptionError(
                f"label {number} of {source} is given to {clash[0]!r} and to {word!r}: expected a number of its "
                "own for each class; give --label once for each --mask"
            )
        named[source][word] = (Path(mask), number)
    return named


def _annotated(source: Path, masks: Masks, size: tuple[int, int], reading: Mapping[str, Any]) -> Annotation:
    try:
        return _annotation(masks, size, reading)
    except AnnotationError as error:
        files = ", ".join(sorted({str(mask) for mask, _ in masks.values()}))
        raise AnnotationError(f"{source} with {files}: {error}") from error


def _annotation(masks: Masks, size: tuple[int, int], reading: Mapping[str, Any]) -> Annotation:
    files = {mask for mask, _ in masks.values()}
    if all(number is None for _, number in masks.values()):
        return annotation_of({word: mask for word, (mask, _) in masks.items()}, size, **reading)
    given = [f"{name}={reading[name]!r}" for name in ("mask_threshold", "mask_colour") if reading[name] is not None]
    if given:
        raise OptionError(f"{given[0]} with labels: expected masks of one object, label maps are read by their numbers")
    if len(files) > 1:
        raise AnnotationError(
            f"{len(files)} label maps are given for one image: expected one that holds all its classes, named with "
            "--mask once for each"
        )
    names = {int(number): word for word, (_, number) in masks.items() if number is not None}
    return annotation_from_labels(files.pop(), names, size, ignore=reading["ignore"], others=True)


def _reached(path: Path, trace: Trace, mark: Annotation, tokens: TokenSet) -> dict[str, Any]:
    """IoU of the annotation with the masks that the tokens give on its own image."""
    labels, counted = trace.segment(tokens).labels.numpy(), mark.labels != IGNORE
    found = dict[str, float]()
    for name in mark.classes:
        mine = (labels == tokens.classes.index(name) + 1) & counted
        right = mark.labels == mark.classes.index(name) + 1
        found[name] = round(float((mine & right).sum() / max(1, (mine | right).sum())), 4)
    return {"source": str(path), "iou": found}


def show(path: str | Path) -> dict[str, Any]:
    """Facts of a file of tokens.

    Raises:
        TokenFileError: the file can't be read.
    """
    return {"command": "tokens show", "file": str(path), **facts(TokenSet.load(path))}


def merge_files(paths: Sequence[str | Path], output: str | Path) -> dict[str, Any]:
    """Write several files' tokens as one set; no class's map is changed.

    Raises:
        TokenFileError: a file can't be read or written.
        SpaceMismatchError, OptionError: the sets are of several text encoders, or have a class in common.
    """
    merged = merge([TokenSet.load(path) for path in paths])
    merged.save(output)
    return {"command": "tokens merge", "output": str(output), **facts(merged)}


def check(path: str | Path, *, model: str | Path | None = None, trace: str | Path | None = None) -> dict[str, Any]:
    """Whether tokens can be used with a model or a trace, and what differs from their fit.

    Raises:
        TokenFileError, TraceFileError: a file can't be read.
        SpaceMismatchError: they can't, they were fitted for another text encoder.
    """
    tokens, notes = TokenSet.load(path), list[str]()
    if trace is not None:
        opened = open_trace(Path(trace), model)
        check_space_of(tokens, opened.text.space)
        notes += tokens.notes(opened)
    elif model is not None:
        check_space_of(tokens, text_of(model, tokens.space.layer).space)
        notes += tokens.notes_of(short_name(str(model)), None)
    asked = str(trace or model or "not asked")
    return {"command": "tokens check", "file": str(path), "usable_with": asked, "notes": notes, **facts(tokens)}


def import_file(path: str | Path, output: str | Path, *, model: str | Path, word: str | None = None) -> dict[str, Any]:
    """Write the tokens of an `.npy` file that the paper's authors published as a set.

    Raises:
        TokenFileError: the file can't be read as such, or the output not be written.
        SpaceMismatchError: its vectors have another width than those of the model's text encoder.
    """
    tokens = import_tokens(path, text_of(model), word=word)
    tokens.save(output)
    return {"command": "tokens import", "output": str(output), **facts(tokens)}
