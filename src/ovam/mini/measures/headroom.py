"""Is there anything to gain? Token vectors fitted on a few annotations, against the plain word.

A small fitting script, no more: it shows that better vectors than the word's own exist.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from ovam.encode import encode
from ovam.evaluate import average_precision, paired_bootstrap
from ovam.maps import attention_maps
from ovam.mini.scenes import CLASSES, Scene, render, seed_of
from ovam.mini.scenes.captions import with_article
from ovam.trace import TokenEmbedding, Trace

_STEPS, _RATE, _AT_ONCE = 60, 0.02, 4
_THRESHOLDS = np.linspace(0.05, 0.95, 37)
METHODS = ("word", "fitted")


@dataclass(frozen=True)
class Annotated:
    """A validation scene as the model sees it, and where one class is."""

    trace: Trace
    mask: np.ndarray


@dataclass(frozen=True)
class Scored:
    """One method's maps on scenes of one class, stretched to [0, 1].

    Attributes:
        fitting: Scores and truths of the scenes of the fit, (scene, height, width) each.
        testing: The same of scenes that the fit never saw.
        elsewhere: Scores on scenes without the class.
    """

    fitting: tuple[np.ndarray, np.ndarray]
    testing: tuple[np.ndarray, np.ndarray]
    elsewhere: np.ndarray

    @property
    def threshold(self) -> float:
        """The threshold with the best pooled IoU on the scenes of the fit."""
        scores, truth = self.fitting
        return float(max(_THRESHOLDS, key=lambda t: _ratio(counts(scores > t, truth).sum(0))))


def measure_headroom(
    pipe: Any, *, classes: Sequence[str] = CLASSES, annotations: int = 20, held_back: int = 20
) -> dict[str, Any]:
    """IoU of each class by its word and by fitted vectors, pooled over validation scenes that the fit never saw.

    Both maps are stretched to [0, 1] image by image, and each has the threshold that suits the class best on the
    scenes of the fit, so that the word loses nothing for want of a scale.

    Args:
        pipe: A pipeline of the world's classes.
        classes: Those to measure.
        annotations: Scenes of each class to fit on.
        held_back: Scenes of each class to measure on.

    Returns:
        For each class and in the mean: IoU and average precision of either method, and the share of pixels above
        the threshold on scenes without the class; the difference of the IoU with its 95 % interval, by a bootstrap
        over classes and images.
    """
    scenes = {name: _scenes_with(name, annotations + held_back) for name in classes}
    traces = {
        name: [encode(pipe, scene.image, seed=scene.seed) for scene in shown]
        for name, shown in track(list(scenes.items()), "headroom: scenes")
    }
    scored: dict[str, dict[str, Scored]] = {}
    for name in track(classes, "headroom: fits"):
        word, last = _template(pipe, name), {other: (traces[other][-1], scenes[other][-1]) for other in classes}
        annotated = [Annotated(t, s.mask(name)) for t, s in zip(traces[name], scenes[name], strict=True)]
        seen, unseen = annotated[:annotations], annotated[annotations:]
        elsewhere = [Annotated(t, s.mask(name)) for t, s in last.values() if not s.mask(name).any()]
        vectors = dict(zip(METHODS, (word.vectors, fit(word, seen)), strict=True))
        scored[name] = {
            method: Scored(_scores(word, each, seen), _scores(word, each, unseen), _scores(word, each, elsewhere)[0])
            for method, each in vectors.items()
        }
    return {"annotations": annotations, "held_back": held_back} | summary(scored)


def summary(scored: Mapping[str, Mapping[str, Scored]]) -> dict[str, Any]:
    """The figures of `measure_headroom` from the scores of every class and method."""
    classes = {name: _of_class(methods) for name, methods in scored.items()}
    rows, groups = [], []
    for i, methods in enumerate(scored.values()):
        each = [counts(m.testing[0] > m.threshold, m.testing[1]) for m in (methods[name] for name in METHODS)]
        rows.append(np.concatenate(each, axis=1))
        groups.append(np.full(len(rows[-1]), i))
    gain = paired_bootstrap(np.concatenate(rows), [np.concatenate(groups)], statistic=_mean_gain, resamples=1000)
    means = {key: float(np.mean([row[key] for row in classes.values()])) for key in next(iter(classes.values()))}
    return {
        "classes": classes,
        "mean": means,
        "gain": [gain.value, gain.low, gain.high],
        "word below 0.45": sum(row["word IoU"] < 0.45 for row in classes.values()),
    }


def _of_class(methods: Mapping[str, Scored]) -> dict[str, float]:
    found = {}
    for method in METHODS:
        scores, truth = methods[method].testing
        threshold = methods[method].threshold
        found[f"{method} IoU"] = _ratio(counts(scores > threshold, truth).sum(0))
        found[f"{method} AP"] = float(np.mean([average_precision(t, s) for s, t in zip(scores, truth, strict=True)]))
        found[f"{method} elsewhere"] = float((methods[method].elsewhere > threshold).mean())
    return found


def counts(masks: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Pixels in both and in either, (scene, 2), of masks and truths (scene, height, width)."""
    return np.stack([(masks & truths).sum((1, 2)), (masks | truths).sum((1, 2))], axis=1)


def _ratio(both_either: np.ndarray) -> float:
    return float(both_either[0] / max(1, both_either[1]))


def _mean_gain(rows: np.ndarray, draws: np.ndarray) -> float:
    """Mean over drawn classes of pooled IoU, fitted minus word; rows are counts of the word, then of the fit."""
    gains = []
    for draw in np.unique(draws):
        word, fitted = rows[draws == draw].sum(0).reshape(2, 2)
        gains.append(_ratio(fitted) - _ratio(word))
    return float(np.mean(gains))


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
def _scores(word: TokenEmbedding, vectors: Tensor, scenes: Sequence[Annotated]) -> tuple[np.ndarray, np.ndarray]:
    """Stretched maps and truths of scenes: (scene, height, width) float32 and bool."""
    positions = _positions(word)
    scores = [_score(scene.trace, vectors, positions, len(scene.mask)).numpy() for scene in scenes]
    return np.stack(scores), np.stack([scene.mask for scene in scenes])
