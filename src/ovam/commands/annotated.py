"""Annotated images and traces, as commands are given them: sources, masks, words and labels in the same order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovam.commands import Progress
from ovam.commands.generate import pipeline
from ovam.commands.trace_file import open_trace
from ovam.errors import AnnotationError, OptionError
from ovam.masks.annotations import Annotation, annotation_from_labels, annotation_of
from ovam.models import MINI
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode, read_image


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Annotated sources: first the images, then the traces. Each has the mask and the word at its position.

    A source stands several times if it has several classes. A single word or label is for all masks.

    Attributes:
        masks: Pictures, or JSON of COCO or labelme, at the size of their images.
        words: Names of the classes.
        images: Image files.
        traces: Trace files.
        labels: If masks are label maps, the number of each word in them.
    """

    masks: Sequence[str | Path]
    words: Sequence[str]
    images: Sequence[str | Path] = ()
    traces: Sequence[str | Path] = ()
    labels: Sequence[int] = ()


Masks = dict[str, tuple[Path, int | None]]
"""Masks of one source, by class: the file, and the class's number in it if the file is a label map."""


def annotated_traces(
    sources: Sources,
    *,
    reading: Mapping[str, Any],
    model: str | Path | None,
    dtype: torch.dtype,
    device: str | torch.device,
    progress: Progress,
    **encoding: Any,
) -> dict[Path, tuple[Trace, Annotation]]:
    """Read masks and open or encode sources; return trace and annotation of each source, in order.

    Masks are read before a model is loaded.

    Args:
        sources: See `Sources`.
        reading: How masks are read: keywords `ignore`, `mask_threshold` and `mask_colour` of `annotation_of`.
        model: For images mini by default; for traces as in `ovam.commands.maps.maps`.
        dtype: Type of the model's weights, for images.
        device: Device of the model, for images.
        progress: Called with the progress of the work.
        **encoding: Keywords of `ovam.encode`.

    Raises:
        OptionError: the numbers of sources, masks and words differ.
        AnnotationError: a mask can't be used.
        The errors of `ovam.encode` and `ovam.Trace.load`.
    """
    every = [*map(Path, sources.images), *map(Path, sources.traces)]
    named = _by_source(every, sources.masks, sources.words, sources.labels)
    pictures = {path: read_image(path) for path in named if path in set(map(Path, sources.images))}
    opened = {path: open_trace(path, model, progress) for path in named if path in set(map(Path, sources.traces))}
    sizes = {path: (picture.height, picture.width) for path, picture in pictures.items()}
    sizes |= {path: trace.size for path, trace in opened.items()}
    marks = {}
    for path, own in named.items():
        name = path.name if path in pictures else None  # a trace's file name is not its picture's
        marks[path] = _annotated(path, own, sizes[path], {**reading, "image": name})
    opened |= encoded_images(pictures, model=model, dtype=dtype, device=device, progress=progress, **encoding)
    return {path: (opened[path], mark) for path, mark in marks.items()}


def encoded_images(
    pictures: Mapping[Path, Any],
    *,
    model: str | Path | None,
    dtype: torch.dtype,
    device: str | torch.device,
    progress: Progress,
    **encoding: Any,
) -> dict[Path, Trace]:
    """Encode pictures; the model is loaded if there is one. Arguments are those of `annotated_traces`."""
    found: dict[Path, Trace] = {}
    if pictures:
        pipe = pipeline(MINI if model is None else model, dtype=dtype, device=device, progress=progress)
        for done, (path, picture) in enumerate(pictures.items()):
            progress("encoding images", done, len(pictures))
            found[path] = encode(pipe, picture, **encoding)
    return found


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
            "all; repeat an image for each of its masks"
        )
    named: dict[Path, Masks] = {}
    for source, mask, word, number in zip(sources, masks, words, numbers, strict=True):
        if word in named.setdefault(source, {}):
            raise OptionError(f"word {word!r} is given twice for {source}: expected one mask for each class")
        clash = [other for other, (_, taken) in named[source].items() if taken == number and number is not None]
        if clash:
            raise OptionError(
                f"label {number} of {source} is given to {clash[0]!r} and to {word!r}: expected a different number "
                "for each class; give --label once for each --mask"
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
        raise OptionError(f"{given[0]} with labels: expected masks of one object; label maps are read by their numbers")
    if len(files) > 1:
        raise AnnotationError(
            f"{len(files)} label maps are given for one image: expected one that contains all its classes; repeat it "
            "with --mask for each class"
        )
    names = {int(number): word for word, (_, number) in masks.items() if number is not None}
    return annotation_from_labels(files.pop(), names, size, ignore=reading["ignore"], others=True)
