"""Training scenes, rendered once: pictures as one array on disk, a few captions each."""

import json
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from ovam.mini.captions import caption
from ovam.mini.world import render, seed_of

SIZE = 128
CAPTIONS_A_SCENE = 4


def _scene(index: int) -> tuple[np.ndarray, list[str]]:
    scene = render(seed_of("train", index), size=SIZE)
    names = [thing.name for thing in scene.objects]
    others = [
        caption(np.random.default_rng((scene.seed, k)), names, scene.ground, scene.backdrop)
        for k in range(1, CAPTIONS_A_SCENE)
    ]
    return scene.image, [scene.caption, *others]


class Pool:
    """`count` training scenes at 128 pixels, kept in `folder`; made on first use."""

    def __init__(self, folder: Path, count: int) -> None:
        pictures, captions = folder / f"scenes-{count}.npy", folder / f"captions-{count}.json"
        if not captions.exists():
            _render_pool(pictures, captions, count)
        self.images = np.load(pictures, mmap_mode="r")
        self.captions: list[list[str]] = json.loads(captions.read_text())

    def __len__(self) -> int:
        return len(self.captions)

    def pictures(self, indices: np.ndarray, size: int) -> Tensor:
        """Pictures in [-1, 1], (picture, 3, size, size); half size by averaging 2 x 2 pixels."""
        chosen = torch.from_numpy(self.images[np.sort(indices)]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return chosen if size == SIZE else torch.nn.functional.avg_pool2d(chosen, SIZE // size)


def _render_pool(pictures: Path, captions: Path, count: int) -> None:
    """Captions are written last, so that an interrupted rendering is started over, never half used."""
    array = np.lib.format.open_memmap(pictures, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
    texts = []
    with get_context("spawn").Pool() as workers:
        scenes = workers.imap(_scene, range(count), chunksize=64)
        for i, (image, captions_of_scene) in enumerate(track(scenes, "scenes", count)):
            array[i] = image
            texts.append(captions_of_scene)
    array.flush()
    captions.write_text(json.dumps(texts))
