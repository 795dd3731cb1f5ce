"""Is there anything to gain? Token vectors fitted on a few annotations, against the plain word.

A small fitting script, no more: it shows that better vectors than the word's own exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from ovam.encode import encode
from ovam.maps import attention_maps
from ovam.mini.scenes import CLASSES, Scene, render, seed_of
from ovam.mini.scenes.captions import with_article
from ovam.trace import TokenEmbedding, Trace

_STEPS, _RATE, _AT_ONCE = 60, 0.02, 4
_THRESHOLDS = np.linspace(0.1, 0.9, 33)


@dataclass(frozen=True)
class Annotated:
    """A validation scene as the model sees it, and where one class is."""

    trace: Trace
    mask: np.ndarray


def measure_headroom(pipe: Any, *, annotations: int = 20, held_back: int = 20) -> dict[str, Any]:
    """IoU of each class by its word and by fitted vectors, pooled over validation scenes that the fit never saw.

    Both maps are stretched to [0, 1] image by image; each has one threshold for all classes, the best one on
    the scenes of the fit.

    Args:
        pipe: A pipeline of the world's classes.
        annotations: Scenes of each class to fit on.
        held_back: Scenes of each class to measure on.
    """
    fitting: dict[str, list[Annotated]] = {}
    testing: dict[str, list[Annotated]] = {}
    fitted: dict[str, Tensor] = {}
    words = {name: _template(pipe, name) for name in CLASSES}
    for name in track(CLASSES, "headroom"):
        scenes = _scenes_with(name, annotations + held_back)
        seen = [Annotated(encode(pipe, s.image, seed=s.seed), s.mask(name)) for s in scenes]
        fitting[name], testing[name] = seen[:annotations], seen[annotations:]
        fitted[name] = fit(words[name], fitting[name])
    found: dict[str, Any] = {"annotations": annotations, "held_back": held_back, "classes": {}}
    for method, vectors in (("word", {name: words[name].vectors for name in CLASSES}), ("fitted", fitted)):
        threshold = max(_THRESHOLDS, key=lambda t: np.mean(list(_ious(words, vectors, fitting, float(t)).values())))
        ious = _ious(words, vectors, testing, float(threshold))
        found[method] = {"threshold": round(float(threshold), 3), "miou": round(float(np.mean(list(ious.values()))), 3)}
        for name, value in ious.items():
            found["classes"].setdefault(name, {})[method] = round(value, 3)
    found["word below 0.45"] = sum(row["word"] < 0.45 for row in found["classes"].values())
    return found


def _scenes_with(name: str, count: int) -> list[Scene]:
    scenes: list[Scene] = []
    index = 0
    while len(scenes) < count:
        scene = render(seed_of("validation", index), split="validation")
        index += 1
        if scene.mask(name).mean() > 0.01:
            scenes.append(scene)
    return scenes


def _template(pipe: Any, name: str) -> TokenEmbedding:
    from ovam.models import text_of

    return text_of(pipe).embed(f'a photograph of {with_article(name)[: -len(name)]}"{name}"')


def _positions(embedding: TokenEmbedding) -> list[int]:
    """Positions of the quoted name, the last unit of the template."""
    return list(embedding.prompt.spans[-1].tokens)


def stretched(maps: Tensor) -> Tensor:
    """A map brought to [0, 1] by its own extremes, differentiable."""
    return (maps - maps.min()) / (maps.max() - maps.min()).clamp(min=1e-8)


def _score(trace: Trace, vectors: Tensor, positions: Sequence[int], size: int) -> Tensor:
    maps = attention_maps(trace, vectors).token_maps[list(positions)].sum(0)
    return stretched(F.interpolate(maps[None, None], (size, size), mode="bilinear", align_corners=False)[0, 0])


def fit(word: TokenEmbedding, annotated: Sequence[Annotated], *, seed: int = 0) -> Tensor:
    """Vectors of the template in which the word's own are fitted: Adam on stretched maps, cross entropy and overlap."""
    positions, random = _positions(word), np.random.default_rng(seed)
    free = word.vectors[positions].clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=_RATE * float(word.vectors.std()))
    for _ in range(_STEPS):
        optimiser.zero_grad()
        for i in random.choice(len(annotated), _AT_ONCE, replace=False):
            truth = torch.from_numpy(annotated[i].mask).float()
            score = _score(annotated[i].trace, _with(word, positions, free), positions, len(truth))
            overlap = 1 - 2 * (score * truth).sum() / (score.sum() + truth.sum())
            (F.binary_cross_entropy(score.clamp(1e-4, 1 - 1e-4), truth) + overlap).backward()
        optimiser.step()
    return _with(word, positions, free.detach())


def _with(word: TokenEmbedding, positions: Sequence[int], vectors: Tensor) -> Tensor:
    return word.vectors.index_copy(0, torch.tensor(positions), vectors)


@torch.no_grad()
def _ious(
    words: dict[str, TokenEmbedding],
    vectors: dict[str, Tensor],
    annotated: dict[str, list[Annotated]],
    threshold: float,
) -> dict[str, float]:
    """Pooled IoU of each class."""
    found = {}
    for name, scenes in annotated.items():
        both = either = 0
        for scene in scenes:
            score = _score(scene.trace, vectors[name], _positions(words[name]), len(scene.mask)).numpy()
            mask = score > threshold
            both, either = both + (mask & scene.mask).sum(), either + (mask | scene.mask).sum()
        found[name] = float(both / either)
    return found
