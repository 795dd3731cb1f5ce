"""Scenes to learn from, rendered once: pictures and labels as arrays on disk, a few captions each."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lab.mini.rendering import each_scene
from ovam.mini.scenes import SIDE, Split, render, seed_of
from ovam.mini.scenes.captions import caption

SIZE = SIDE
CAPTIONS_A_SCENE = 6
_NAMED_DISTRACTORS = 2


def _scene(split: Split, size: int, index: int) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    scene = render(seed_of(split, index), split=split, size=size)
    rng = np.random.default_rng((scene.seed, 1))
    seen = (rng, scene.objects, scene.ground, scene.backdrop)
    captions = [scene.caption, *(caption(*seen) for _ in range(CAPTIONS_A_SCENE - 1))]
    named = rng.permutation(sorted(set(scene.distractors)))
    counts = rng.integers(0, _NAMED_DISTRACTORS + 1, CAPTIONS_A_SCENE)
    with_distractors = [caption(*seen, [str(name) for name in named[:count]]) for count in counts]
    return scene.image, scene.labels, captions, with_distractors


class Pool:
    """`count` scenes of a split, kept in `folder`; made on first use.

    The denoiser and all before it learn from "train", the oracles from "judging" as well.

    Args:
        folder: Where they are kept.
        count: How many.
        split: Of which split.
        size: Side of the pictures in pixels. A scene is another picture at another size, and not the same one scaled.

    Attributes:
        images: (scene, height, width, 3) uint8.
        labels: (scene, height, width) uint8, of `ovam.mini.scenes.LABELS`.
        captions: Captions of each scene, for the denoiser.
        tower_captions: The same with things that belong to no class, for the text tower.
    """

    def __init__(
        self, folder: Path, count: int, split: Literal["train", "judging"] = "train", size: int = SIZE
    ) -> None:
        self.size, name = size, f"{split}-{size}-{count}"
        self._of = (folder, count, split, size)
        self._files = {kind: folder / f"{kind}-{name}.npy" for kind in ("images", "labels")}
        texts = folder / f"captions-{name}.json"
        if not texts.exists():
            self._render(texts, split, count)
        self.images = np.load(self._files["images"], mmap_mode="r")
        self.labels = np.load(self._files["labels"], mmap_mode="r")
        self.captions: list[list[str]]
        self.tower_captions: list[list[str]]
        self.captions, self.tower_captions = json.loads(texts.read_text())

    def __reduce__(self) -> tuple[type["Pool"], tuple[Any, ...]]:
        """Another process opens the files itself: the pictures are not sent to it."""
        return Pool, self._of

    def __len__(self) -> int:
        return len(self.captions)

    def pictures(self, indices: np.ndarray, size: int) -> Tensor:
        """Pictures in [-1, 1], (picture, 3, size, size), in the order of `indices`; smaller ones by averaging."""
        chosen = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return chosen if size == self.size else torch.nn.functional.avg_pool2d(chosen, self.size // size)

    def _render(self, texts: Path, split: Split, count: int) -> None:
        """Captions are written last, so that an interrupted rendering is started over, never half used."""
        shapes = {"images": (count, self.size, self.size, 3), "labels": (count, self.size, self.size)}
        arrays = {
            name: np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shapes[name])
            for name, file in self._files.items()
        }
        captions, tower_captions = [], []
        scenes = each_scene(partial(_scene, split, self.size), range(count), "scenes")
        for i, (image, labels, plain, with_distractors) in enumerate(scenes):
            arrays["images"][i], arrays["labels"][i] = image, labels
            captions.append(plain)
            tower_captions.append(with_distractors)
        for array in arrays.values():
            array.flush()
        temporary = texts.with_suffix(".partial")
        temporary.write_text(json.dumps([captions, tower_captions]))
        temporary.replace(texts)
