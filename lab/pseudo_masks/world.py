"""Pictures of the embedded model's world: scenes with exact masks, and generated ones that an annotator labels."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lab.fits.scenes import annotation_scenes, mask_of
from lab.mini.measures.images import Entry, make_images, read_images, regenerated
from lab.mini.measures.samples import GUIDANCE_SCALE
from lab.mini.measures.words import scenes_of
from lab.mini.oracle import IGNORE
from lab.pseudo_masks.annotators import Annotator, Oracles
from lab.pseudo_masks.examples import (
    CAPTIONS,
    SCENES,
    SIMPLE,
    VALIDATION,
    Annotated,
    Example,
    Needs,
    Source,
    captured,
    encoded,
)
from ovam.mini.scenes import CLASSES, LABELS, WORLD, Scene, Split
from ovam.trace.trace import Trace
from ovam.tracing.capture import capture
from ovam.tracing.encode import encode

_HEADINGS = {
    SCENES: "Test scenes (exact masks, empty prompt)",
    SIMPLE: 'Generated: "a photograph of a dog"',
    CAPTIONS: "Generated from captions",
}
WORLD_SETS = tuple(_HEADINGS)
"""Test scenes, pictures of "a photograph of a dog", and pictures of scenes' captions."""


class World(Source):
    """The embedded model's world.

    Args:
        images: Folder of generated pictures, which are made where they are missing.
        annotator: What labels them.
    """

    classes: Sequence[str] = CLASSES
    sets: Sequence[str] = WORLD_SETS
    main = SCENES
    fitted_on = "training scene"
    chosen_on = "validation scenes"

    def __init__(self, images: Path, annotator: Annotator | None = None) -> None:
        self._images, self._annotator = images, annotator or Oracles()

    def examples(self, pipe: Any, name: str, count: int) -> Iterator[Example]:
        """The first `count` pictures of a set; generated ones are made where they are missing."""
        if name in (SIMPLE, CAPTIONS):
            yield from self._generated(pipe, name, count)
            return
        split: Split = "validation" if name == VALIDATION else "test"
        for number, scene in enumerate(track(scenes_of(split, count), f"{name}", count)):
            yield _of_scene(pipe, scene, number)

    def annotated(self, classes: Sequence[str], count: int) -> dict[str, list[Annotated]]:
        """Training scenes that no training used."""
        scenes = annotation_scenes(classes, count)
        return {
            name: [Annotated(scene.image, {name: mask_of(scene, name)}, scene.seed) for scene in some]
            for name, some in scenes.items()
        }

    def basis(self, name: str) -> Any:
        """The world's version, and the annotator of generated pictures."""
        return self._annotator.basis if name in (SIMPLE, CAPTIONS) else WORLD

    def heading(self, name: str) -> str:
        """What a set is."""
        labelled = f", labelled by {self._annotator.description}" if name in (SIMPLE, CAPTIONS) else ""
        return _HEADINGS[name] + labelled

    def _generated(self, pipe: Any, kind: str, count: int) -> Iterator[Example]:
        entries = make_images(pipe, kind, self._images, count=count, guidance_scale=GUIDANCE_SCALE)
        images = read_images(self._images / kind, entries)
        truths = self._annotator.labels(kind, entries, images)
        for entry, image, labels in zip(track(entries, kind), images, truths, strict=True):
            named = np.isin(labels, [0, IGNORE, *(LABELS[name] for name in entry.classes)])
            yield Example(entry.file, image, np.where(named, labels, 0), entry.prompt, _regenerating(pipe, entry))


def _of_scene(pipe: Any, scene: Scene, number: int) -> Example:
    labels = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    for thing in scene.objects:
        labels[scene.mask(thing.name)] = LABELS[thing.name]

    def traced(needs: Needs) -> Trace:
        return encode(pipe, scene.image, seed=number, **encoded(needs))

    return Example(f"{number:05d}", scene.image, labels, "", traced)


def _regenerating(pipe: Any, entry: Entry) -> Callable[[Needs], Trace]:
    def traced(needs: Needs) -> Trace:
        with capture(pipe, **captured(needs)) as traces:
            regenerated(pipe, entry)
        return traces[0]

    return traced
