"""Generated pictures in the place of scenes: what the oracles see stands for the truth, the unsure is ignored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lab.mini.measures.images import make_images, read_images
from lab.mini.measures.samples import GUIDANCE_SCALE
from lab.mini.oracle import IGNORE, classes_alone, label_maps, load_oracles
from ovam.mini.scenes import LABELS
from ovam.models import MINI, load
from ovam.tensor_file import fingerprint

SETS = {"simple": 200, "pairs": 100}
"""Sets of pictures and how many of each: "a photograph of a dog", and of two classes."""

TRUTHS = {"generated": ("a", "b"), "generated-a": ("a",), "generated-b": ("b",)}
"""Which oracles must agree on what a pixel is, by the name of the split; those they differ on count for nothing."""


@dataclass(frozen=True)
class Picture:
    """A generated picture, with as much of a scene as scoring needs.

    Attributes:
        seed: Of its noise; with `split`, its name.
        image: (height, width, 3) uint8.
        labels: (height, width) uint8: classes, 0 for all else, `IGNORE`.
        objects: One for each class that the prompt names.
    """

    seed: int
    image: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    objects: Sequence[Any]
    split: str = "generated"

    def mask(self, name: str) -> np.ndarray:
        """Where a class is: bool, (height, width)."""
        return self.labels == LABELS[name]


def pictures(folder: Path, truth: str, sets: Mapping[str, int] = SETS) -> list[Picture]:
    """Pictures of the sets by mini, made where they are missing, with the labels of a truth.

    Args:
        folder: Image sets, as `python -m lab.mini images` writes them.
        truth: One of `TRUTHS`.
        sets: Number of pictures of each set.
    """
    pipe, found = load(MINI), []
    for kind, count in sets.items():
        entries = make_images(pipe, kind, folder, count=count, guidance_scale=GUIDANCE_SCALE)
        images = read_images(folder / kind, entries)
        for entry, image, labels in zip(entries, images, labels_of(images, TRUTHS[truth]), strict=True):
            things = [SimpleNamespace(name=name) for name in entry.classes]
            found.append(Picture(entry.seed, image, labels, things))
    return found


def labels_of(images: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Classes on which these oracles agree, `IGNORE` where they do not: (picture, height, width) uint8."""
    seen = [classes_alone(label_maps(load_oracles()[name], images)) for name in names]
    return np.where(np.all([each == seen[0] for each in seen], axis=0), seen[0], np.uint8(IGNORE))


def oracle_hashes() -> dict[str, str]:
    """What the truth of generated pictures depends on."""
    return {name: fingerprint(oracle.state_dict()) for name, oracle in load_oracles().items()}
