"""Are generated pictures copies of training scenes? Their nearest ones, among those trained on and as many others."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from lab.mini.rendering import each_scene
from ovam.evaluate import paired_bootstrap
from ovam.mini.scenes import SIDE, WORLD, Split, render, seed_of

THUMBNAIL = 16  # pixels: a copy stays one where an edge has moved a little


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Pictures averaged to 16 x 16: (picture, 768) float32, in [0, 1].

    Args:
        images: (picture, height, width, 3) uint8, height and width multiples of 16.
    """
    count, height, width, _ = images.shape
    cells = images.reshape(count, THUMBNAIL, height // THUMBNAIL, THUMBNAIL, width // THUMBNAIL, 3)
    return (cells.mean((2, 4), dtype=np.float32) / 255).reshape(count, -1)


def measure_memory(pictures: np.ndarray, folder: Path, *, training: int) -> dict[str, Any]:
    """Distance of generated pictures to the nearest training scene, beside the same of test scenes.

    Distances are root mean squares over the pixels of thumbnails. Test scenes have clutter that pictures of plain
    prompts lack, so a second look asks the same pictures for the nearest of as many scenes of the training split
    that were never trained on: of a model that copies nothing, one half lies nearer to either.

    Args:
        pictures: (picture, height, width, 3) uint8.
        folder: Keeps the thumbnails of the scenes.
        training: Number of scenes that the model was trained on; all are compared.
    """
    known, unused = (known_thumbnails(folder, "train", start, training) for start in (0, training))
    test = known_thumbnails(folder, "test", 0, len(pictures))
    found: dict[str, Any] = {"pictures": len(pictures), "training scenes": training}
    for name, seen in (("generated", thumbnails(pictures)), ("test", test)):
        to_known, to_unused = (_nearest(seen, scenes) for scenes in (known, unused))
        found[f"{name} median"] = float(np.median(to_known))
        found[f"{name} lowest twentieth"] = float(np.quantile(to_known, 0.05))
        found[f"{name} nearest"] = float(to_known.min())
        nearer = paired_bootstrap((to_known < to_unused).astype(float), [])
        found[f"{name} nearer to training"] = nearer.listed()
    return found


def _nearest(seen: np.ndarray, scenes: np.ndarray) -> np.ndarray:
    """Distance of each picture to the nearest scene: (picture,)."""
    nearest: np.ndarray = cdist(seen, scenes).min(1) / seen.shape[1] ** 0.5
    return nearest


def known_thumbnails(folder: Path, split: Split, start: int, count: int) -> np.ndarray:
    """Thumbnails of `count` scenes of a split from number `start` on, rendered once: (scene, 768)."""
    file = folder / f"thumbnails-{WORLD}-{SIDE}-{split}-{start}-{count}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenes = [(split, start + i) for i in range(count)]
        made = np.concatenate(list(each_scene(_thumbnail, scenes, f"thumbnails, {split}")))
        temporary = file.with_suffix(".partial.npy")
        np.save(temporary, made)
        temporary.replace(file)
    return np.load(file)


def _thumbnail(scene: tuple[Split, int]) -> np.ndarray:
    split, index = scene
    return thumbnails(render(seed_of(split, index), split=split).image[None])
