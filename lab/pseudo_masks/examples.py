"""The pictures that masks are made of: rendered scenes with exact masks, and generated ones that oracles label."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lab.fits.generated import labels_of
from lab.fits.scenes import LEAST_SCORED
from lab.mini.measures.images import Entry, make_images, read_images, regenerated
from lab.mini.measures.samples import GUIDANCE_SCALE
from lab.mini.measures.words import scenes_of
from lab.mini.oracle import IGNORE
from ovam.mini.scenes import CLASSES, LABELS, Scene, Split
from ovam.trace.trace import Trace
from ovam.tracing.capture import capture
from ovam.tracing.encode import encode

VALIDATION, SCENES, SIMPLE, CAPTIONS = "validation", "scenes", "simple", "captions"
TESTED = (SCENES, SIMPLE, CAPTIONS)
"""The sets that are scored: test scenes, pictures of "a photograph of a dog", and pictures of scenes' captions."""

Needs = Mapping[str, Any]
"""Options of a capture."""


@dataclass(frozen=True)
class Example:
    """One picture.

    Attributes:
        name: Unique in its set.
        image: (height, width, 3) uint8.
        labels: Class numbers, 0 for all else, `IGNORE` where nobody knows, (height, width) uint8.
        prompt: What it was generated from; empty for a scene.
        traced: From options of a capture to the picture's trace.
    """

    name: str
    image: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    prompt: str
    traced: Callable[[Needs], Trace] = field(repr=False)

    @property
    def counted(self) -> np.ndarray:
        """Pixels whose class is known, (height, width) bool."""
        return np.ascontiguousarray(self.labels != IGNORE)

    @property
    def classes(self) -> list[str]:
        """Classes that cover more than a hundredth of the picture."""
        return [name for name in CLASSES if (self.labels == LABELS[name]).mean() > LEAST_SCORED]


def examples(pipe: Any, name: str, count: int, images_dir: Path) -> Iterator[Example]:
    """The first `count` pictures of a set; generated ones are made where they are missing."""
    if name in (SIMPLE, CAPTIONS):
        yield from _generated(pipe, name, count, images_dir)
        return
    split: Split = "validation" if name == VALIDATION else "test"
    for number, scene in enumerate(track(scenes_of(split, count), f"{name}", count)):
        yield _of_scene(pipe, scene, number)


def _of_scene(pipe: Any, scene: Scene, number: int) -> Example:
    labels = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    for thing in scene.objects:
        labels[scene.mask(thing.name)] = LABELS[thing.name]

    def traced(needs: Needs) -> Trace:
        return encode(pipe, scene.image, seed=number, **encoded(needs))

    return Example(f"{number:05d}", scene.image, labels, "", traced)


def encoded(needs: Needs) -> dict[str, Any]:
    """The options of a capture that encoding a picture has as well: it has no guidance and its own steps."""
    return {name: value for name, value in needs.items() if name not in ("guidance", "steps")}


def _generated(pipe: Any, kind: str, count: int, images_dir: Path) -> Iterator[Example]:
    entries = make_images(pipe, kind, images_dir, count=count, guidance_scale=GUIDANCE_SCALE)
    images = read_images(images_dir / kind, entries)
    truths = labels_of(images, ("a", "b"))
    for entry, image, labels in zip(track(entries, kind), images, truths, strict=True):
        named = np.isin(labels, [0, IGNORE, *(LABELS[name] for name in entry.classes)])
        yield Example(entry.file, image, np.where(named, labels, 0), entry.prompt, _regenerating(pipe, entry))


def _regenerating(pipe: Any, entry: Entry) -> Callable[[Needs], Trace]:
    def traced(needs: Needs) -> Trace:
        with capture(pipe, **needs) as traces:
            regenerated(pipe, entry)
        return traces[0]

    return traced


def shares_ignored(seen: Sequence[Example]) -> float:
    """Share of the pixels whose class nobody knows."""
    return float(np.mean([~example.counted for example in seen])) if seen else 0.0
