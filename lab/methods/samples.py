"""What trained methods learn from: traces with features, and the classes of their pixels, kept in a work folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import track
from scipy import ndimage

from lab.digest import digest
from lab.mini.oracle import IGNORE, agreed_labels, classes_alone
from ovam.methods.datasetdm import BLOCKS
from ovam.mini.scenes import CLASSES, LABELS, SIDE, WORLD, Split, render, seed_of
from ovam.models import model_hash
from ovam.trace.trace import Trace
from ovam.tracing.capture import capture
from ovam.tracing.encode import encode

TIMESTEP = 1
"""At which the denoiser looks at a real picture: the last of 50 steps of DDIM."""
FIRST = 60_000
"""Index of the first scene of the training split that is used; mini and its tokens were made from others."""
LEAST = 0.01
"""Share of the pixels above which a class is there."""
STEPS, GUIDANCE = 50, 5.0
"""How Grounded Diffusion makes the pictures that it learns from."""
_APART = 10**6  # from the seeds of pictures to learn from to those to measure on

Made = tuple[Trace, np.ndarray, np.ndarray]
Source = Literal["scenes", "generated"]


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture to learn from.

    Attributes:
        file: Its trace, with the features of its last call.
        labels: (height, width) uint8: number of the class, 0 for all else, 255 where it is not known.
        pieces: (height, width) uint8: number of the object that a pixel belongs to, 0 for none.
    """

    file: Path
    labels: np.ndarray = field(repr=False)
    pieces: np.ndarray = field(repr=False)

    def names(self, classes: Sequence[str]) -> list[str]:
        """Return which of these classes are there."""
        return [name for name in classes if (self.labels == LABELS[name]).mean() > LEAST]

    def mask(self, name: str, *, top_instance: bool = False) -> np.ndarray:
        """Return where a class is, or only its largest object: bool, (height, width)."""
        whole = self.labels == LABELS[name]
        if not top_instance or not whole.any():
            return whole
        numbers, counts = np.unique(self.pieces[whole], return_counts=True)
        return whole & (self.pieces == numbers[counts.argmax()])

    @property
    def known(self) -> np.ndarray:
        """Where the class is known: bool, (height, width)."""
        return self.labels != IGNORE

    def trace(self) -> Trace:
        """Read the trace, without a text encoder."""
        return Trace.load(self.file)


def samples(
    pipe: Any,
    folder: Path,
    count: int,
    *,
    source: Source = "scenes",
    size: int = SIDE,
    split: Split = "train",
    classes: Sequence[str] = CLASSES,
) -> list[Sample]:
    """Return samples, those that are missing made.

    Args:
        pipe: The model.
        folder: Work folder; samples of another model or other options lie in other folders of it.
        count: Number of samples.
        source: "scenes" are rendered, with exact masks, and encoded with the empty prompt. "generated" are made by the
            model itself with guidance, and what both oracles agree on are their classes.
        size: Side of rendered scenes in pixels.
        split: Split of the scenes; of generated pictures those of "validation" have seeds of their own.
        classes: What generated pictures show.
    """
    about = [model_hash(pipe), WORLD, TIMESTEP, list(BLOCKS), split, size if source == "scenes" else list(classes)]
    place = folder / "samples" / f"{source}-{digest(about)}"
    place.mkdir(parents=True, exist_ok=True)
    make = _scenes(pipe, split, size) if source == "scenes" else _generated(pipe, split, classes)
    missing = [i for i in range(count) if not (place / f"{i}.npy").exists()]
    for i in track(missing, f"{source} to learn from") if missing else ():
        trace, labels, pieces = make(i)
        trace.save(place / f"{i}.safetensors")
        np.save(place / "partial.npy", np.stack([labels, pieces]))
        (place / "partial.npy").replace(place / f"{i}.npy")  # last: where it stands the sample is whole
    both = [np.load(place / f"{i}.npy") for i in range(count)]
    return [Sample(place / f"{i}.safetensors", labels, pieces) for i, (labels, pieces) in enumerate(both)]


def _scenes(pipe: Any, split: Split, size: int) -> Callable[[int], Made]:
    first = FIRST if split == "train" else 0

    def make(index: int) -> Made:
        scene = render(seed_of(split, first + index), split=split, size=size)
        trace = encode(
            pipe,
            scene.image,
            features=True,
            self_attention=False,
            blocks=list(BLOCKS),
            timesteps=(TIMESTEP,),
            size=(size, size),
            seed=scene.seed,
        )
        return trace, classes_alone(scene.labels), scene.instances

    return make


def _generated(pipe: Any, split: Split, classes: Sequence[str]) -> Callable[[int], Made]:
    first = 0 if split == "train" else _APART

    def make(index: int) -> Made:
        generator = torch.Generator().manual_seed(first + index)
        kept: dict[str, Any] = {"features": True, "self_attention": False, "blocks": list(BLOCKS), "guidance": "both"}
        with capture(pipe, steps=[STEPS - 1], **kept) as traces:
            pipe(
                prompt_of(first + index, classes),
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=generator,
            )
        labels = agreed_labels(np.asarray(traces[0].image)[None])[0]
        return traces[0], labels, pieces_of(labels)

    return make


def prompt_of(index: int, classes: Sequence[str]) -> str:
    """Return the prompt of a generated picture: one class or two with equal chance, as in Grounded Diffusion."""
    rng = np.random.default_rng(index)
    names = rng.permutation(list(classes))[: rng.integers(1, 3)]
    return "a photograph of " + " and ".join(f"a {name}" for name in names)


def pieces_of(labels: np.ndarray) -> np.ndarray:
    """Return pieces of classes as objects: pixels of one class that touch have one number; (height, width) uint8."""
    pieces = np.zeros(labels.shape, np.int64)
    for name in CLASSES:
        found, _ = ndimage.label(labels == LABELS[name])
        pieces = np.where(found > 0, found + pieces.max(), pieces)
    return np.minimum(pieces, 255).astype(np.uint8)  # more pieces than that are specks
