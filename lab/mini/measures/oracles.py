"""How far the oracles can be trusted: on scenes, after the autoencoder, and on re-noised scenes."""

from typing import Any

import numpy as np
import torch
from rich.progress import track

from lab.mini.imitation import imitate
from lab.mini.oracle import IGNORE, as_input, classes_alone, label_maps, load_oracles
from ovam.evaluate import Confusion, boundary_band
from ovam.mini.scenes import CLASSES, render, seed_of

STRENGTHS = (0.2, 0.4, 0.6)
AUTOENCODER, AGREED = "after the autoencoder", "where both agree"
_EDGE = 2  # pixels on either side of an outline, left out of the inner IoU


def measure_oracles(pipe: Any, *, scenes: int = 100) -> dict[str, Any]:
    """IoU of each oracle, over the 20 classes and the rest as background, on test scenes seen in several ways.

    Beside them stand the labels on which both agree, which are the truth of generated pictures: all else is ignored.

    Args:
        pipe: The model, whose autoencoder and denoiser distort the scenes.
        scenes: Number of test scenes.

    Returns:
        `scenes`; `ways`: for each way and each oracle the figures of `rulers`; `classes`: after the autoencoder, the
        number of scenes that show a class, and its pooled IoU by each oracle.
    """
    rendered = [render(seed_of("test", i), split="test") for i in track(range(scenes), "oracles")]
    images, labels = (np.stack([getattr(scene, name) for scene in rendered]) for name in ("image", "labels"))
    exact, captions = classes_alone(labels), [scene.caption for scene in rendered]
    ways = {"scenes": images, AUTOENCODER: distorted(pipe, images, [""] * scenes, None)}
    for strength in STRENGTHS:
        ways[f"re-noised to {strength}"] = distorted(pipe, images, captions, strength)
    judged = {way: _judged(pictures, exact) for way, pictures in ways.items()}
    pooled = {name: _confusion(*each).iou() for name, each in judged[AUTOENCODER].items()}
    return {
        "scenes": scenes,
        "ways": {way: {name: rulers(*each, exact) for name, each in of.items()} for way, of in judged.items()},
        "classes": {
            name: {"scenes": count} | {which: float(ious[number]) for which, ious in pooled.items()}
            for number, name in enumerate(CLASSES, start=1)
            if (count := int((exact == number).any((1, 2)).sum()))
        },
    }


def _judged(images: np.ndarray, exact: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What each oracle sees and what is true; of both together, with the truth ignored where they differ."""
    seen = {name: classes_alone(label_maps(oracle, images)) for name, oracle in load_oracles().items()}
    first, second = seen.values()
    agreed = (first, np.where(first == second, exact, np.uint8(IGNORE)))
    return {name: (labels, exact) for name, labels in seen.items()} | {AGREED: agreed}


def rulers(predicted: np.ndarray, truth: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Mean IoU of the classes that are true somewhere, pooled, image by image, and pooled away from outlines.

    Args:
        predicted: Classes, (picture, height, width).
        truth: The same, `IGNORE` for pixels that count for nothing.
        exact: The same without any to ignore, which has the outlines.
    """
    inner = np.where(np.stack([boundary_band(labels, _EDGE) for labels in exact]), np.uint8(IGNORE), truth)
    of_images = np.array([_confusion(*pair).mean_iou() for pair in zip(predicted, truth, strict=True)])
    known = of_images[np.isfinite(of_images)]
    pooled = _confusion(predicted, truth)
    return {
        "mIoU": pooled.mean_iou(),
        "mIoU by image": float(known.mean()) if known.size else float("nan"),
        "away from outlines": _confusion(predicted, inner).mean_iou(),
        "ignored": pooled.ignored / truth.size,
    }


def _confusion(predicted: np.ndarray, truth: np.ndarray) -> Confusion:
    return Confusion.of(predicted, truth, len(CLASSES) + 1, ignore=IGNORE)


def distorted(pipe: Any, images: np.ndarray, captions: list[str], strength: float | None) -> np.ndarray:
    """Pictures through the autoencoder, and noised to a share of the schedule and denoised on the way, where asked."""
    random = torch.Generator().manual_seed(5)
    made = []
    for start in range(0, len(images), 8):
        part = slice(start, start + 8)
        made.append(imitate(pipe, as_input(images[part]), captions[part], strength=strength, random=random))
    return np.concatenate(made)
