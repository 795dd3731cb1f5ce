"""Generated pictures judged by the oracles: is what was asked there, do the oracles agree, was anything memorised?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ovam.evaluate import Confusion
from ovam.mini.oracle import IGNORE, agreed_labels, label_maps, load_oracles
from ovam.mini.scenes import CLASSES, LABELS, render, seed_of
from ovam.mini.scenes.captions import with_article
from ovam.mini.scenes.splits import HELD_OUT

LEAST_AREA = 0.04
_THING_LABELS = [LABELS[name] for name in CLASSES]


def one_object_prompts(count: int) -> list[tuple[str, str]]:
    """(prompt, class): every class in turn, "a photograph of a dog"."""
    return [(f"a photograph of {with_article(name)}", name) for name in (CLASSES[i % 20] for i in range(count))]


def two_object_prompts(count: int) -> list[tuple[str, tuple[str, str]]]:
    """(prompt, classes): pairs that training may show, drawn with a fixed seed."""
    random = np.random.default_rng(0)
    held_out = frozenset().union(*HELD_OUT.values())
    pairs: list[tuple[str, tuple[str, str]]] = []
    while len(pairs) < count:
        first, second = (str(name) for name in random.choice(CLASSES, 2, replace=False))
        if frozenset((first, second)) not in held_out:
            pairs.append((f"a photograph of {with_article(first)} and {with_article(second)}", (first, second)))
    return pairs


def class_shares(labels: np.ndarray) -> np.ndarray:
    """Share of each picture that each class takes: (picture, 20)."""
    return np.stack([(labels == number).mean((1, 2)) for number in _THING_LABELS], axis=1)


def measure_generation(
    pipe: Any,
    ones: tuple[np.ndarray, Sequence[str]],
    twos: tuple[np.ndarray, Sequence[tuple[str, ...]]],
) -> dict[str, Any]:
    """How often the asked classes are what oracle A sees, and how well the oracles agree.

    Args:
        pipe: The model, whose autoencoder measures distances.
        ones: Pictures and the one class asked of each; it must be the largest one, with at least 4 % of the pixels.
        twos: Pictures and the two classes asked of each; both must take at least 1 %.
    """
    first = load_oracles()["a"]
    right: dict[str, list[bool]] = {}
    for share, name in zip(class_shares(label_maps(first, ones[0])), ones[1], strict=True):
        right.setdefault(name, []).append(CLASSES[int(share.argmax())] == name and share.max() >= LEAST_AREA)
    both = [
        all(share[CLASSES.index(name)] >= 0.01 for name in names)
        for share, names in zip(class_shares(label_maps(first, twos[0])), twos[1], strict=True)
    ]
    return {
        "one_object": round(float(np.mean([ok for found in right.values() for ok in found])), 3),
        "by_class": {name: round(float(np.mean(found)), 2) for name, found in right.items()},
        "two_objects": round(float(np.mean(both)), 3),
        "agreement": agreement(np.concatenate([ones[0], twos[0]])),
        "memorised": nearest_distances(pipe, ones[0][:100]),
    }


def agreement(pictures: np.ndarray) -> dict[str, float]:
    """Mean IoU of one oracle's labels against the other's, over classes and grounds, and the share they disagree on."""
    first, second = (label_maps(oracle, pictures) for oracle in load_oracles().values())
    confusion = Confusion.of(first, second, len(LABELS) + 1, ignore=None)
    return {
        "miou": round(confusion.mean_iou(), 3),
        "ignored": round(float((agreed_labels(pictures) == IGNORE).mean()), 3),
    }


@torch.no_grad()
def nearest_distances(pipe: Any, pictures: np.ndarray, *, training: int = 2000) -> dict[str, float]:
    """Distance of pictures to the nearest training scene, beside the same of test scenes: medians and lowest tenths.

    Distances between latents, root mean square. Generated pictures that lay closer than test scenes do would be copies.

    Args:
        pipe: The model, whose autoencoder is used.
        pictures: (picture, height, width, 3) uint8.
        training: Training scenes to compare with; the more, the closer the nearest.
    """
    known = _latents(pipe, np.stack([render(seed_of("train", i), split="train").image for i in range(training)]))
    test = np.stack([render(seed_of("test", i), split="test").image for i in range(len(pictures))])
    found = {}
    for name, images in (("generated", pictures), ("test", test)):
        nearest = torch.cdist(_latents(pipe, images), known).min(1).values / known.shape[1] ** 0.5
        found[f"{name} median"] = round(float(nearest.median()), 3)
        found[f"{name} lowest tenth"] = round(float(nearest.quantile(0.1)), 3)
    return found


def _latents(pipe: Any, images: np.ndarray) -> torch.Tensor:
    from ovam.mini.oracle import as_input

    parts = [pipe.vae.encode(as_input(images[i : i + 8])).latent_dist.mean for i in range(0, len(images), 8)]
    return (torch.cat(parts) * pipe.vae.config.scaling_factor).flatten(1)
