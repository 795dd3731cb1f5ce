"""Is there anything to gain? Tokens fitted on many annotations, against the plain word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track

from lab.mini.baselines import border_colours
from lab.mini.measures.asking import Asking
from ovam.evaluate import (
    average_precision,
    boundary_band,
    grid_reference,
    mean_per_image_iou,
    paired_bootstrap,
    pooled_iou,
)
from ovam.maps.calibration import stretched
from ovam.mini.scenes import CLASSES, Scene, render, seed_of
from ovam.mini.scenes.vocabulary import label_of
from ovam.tokens.optimize import optimize_tokens
from ovam.trace.text_side import TokenEmbedding
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode
from ovam.tracing.encode_options import TIMESTEPS

_THRESHOLDS = np.linspace(0.05, 0.95, 37)
_EDGE = 2  # pixels on either side of an outline, left out of the inner IoU
_WITHOUT = 20  # scenes on which classes that they lack are asked
_OTHER = dict(zip(CLASSES, (*CLASSES[7:], *CLASSES[:7]), strict=True))
"""For each class another, whose word stands for all that knows things and not this class."""


@dataclass(frozen=True)
class Annotated:
    """A validation scene as the model sees it, and where one class is."""

    trace: Trace
    image: np.ndarray
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
        reached = [pooled_iou(zip(scores > t, truth, strict=True)) for t in _THRESHOLDS]
        return float(_THRESHOLDS[int(np.nanargmax(reached))])


def measure_headroom(
    pipe: Any,
    *,
    classes: Sequence[str] = CLASSES,
    annotations: int = 20,
    held_back: int = 20,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[int] = TIMESTEPS,
) -> dict[str, Any]:
    """IoU of each class by its word and by fitted vectors, pooled over validation scenes that the fit never saw.

    Maps are stretched to [0, 1] image by image, and each has the threshold that suits the class best on the scenes
    of the fit, so that the word loses nothing for want of a scale.

    Args:
        pipe: A pipeline of the world's classes.
        classes: Those to measure.
        annotations: Scenes of each class to fit on.
        held_back: Scenes of each class to measure on.
        blocks: As in `encode`, for word and fit alike.
        timesteps: As in `encode`.

    Returns:
        For each class and in the mean, by method: pooled IoU, mean of the images' IoU, pooled IoU away from outlines,
        average precision, and the share of pixels above the threshold on scenes without the class; the exact masks
        seen through the finest grid beside them. The difference of the pooled IoU of fit and word with its 95 %
        interval, by a bootstrap over classes and images.
    """
    asking, scenes = Asking(pipe), _scenes_of(classes, annotations + held_back)
    first = [render(seed_of("validation", i), split="validation") for i in range(_WITHOUT)]

    def look(scene: Scene) -> Trace:
        return encode(pipe, scene.image, seed=scene.seed, blocks=blocks, timesteps=timesteps)

    first_traces = [look(scene) for scene in first]
    scored: dict[str, dict[str, Scored]] = {}
    for name in track(classes, "headroom"):
        annotated = [_annotated(look(scene), scene, name) for scene in scenes[name]]
        pairs = zip(first_traces, first, strict=True)
        parts = (
            annotated[:annotations],
            annotated[annotations:],
            [_annotated(trace, scene, name) for trace, scene in pairs if not scene.mask(name).any()],
        )
        word, other = asking.embedding(name), asking.embedding(_OTHER[name])
        methods = {"word": word, "fitted": fit(name, parts[0]), "another word": other}
        scored[name] = {method: Scored(*_three(parts, embedding)) for method, embedding in methods.items()}
        scored[name]["colours"] = Scored(*_three(parts, None))
    grid = max(block.grid for block in first_traces[0].blocks.values())
    return {"annotations": annotations, "held_back": held_back, "grid": list(grid)} | summary(scored, grid)


def summary(scored: Mapping[str, Mapping[str, Scored]], grid: tuple[int, int]) -> dict[str, Any]:
    """The figures of `measure_headroom` from the scores of every class and method; `grid` is the finest."""
    classes = {
        name: {method: _of_method(each) for method, each in methods.items()}
        | {"exact masks through the grid": _through(grid, methods["word"].testing[1])}
        for name, methods in scored.items()
    }
    rows, groups = [], []
    for i, methods in enumerate(scored.values()):
        each = [counts(m.testing[0] > m.threshold, m.testing[1]) for m in (methods["word"], methods["fitted"])]
        rows.append(np.concatenate(each, axis=1))
        groups.append(np.full(len(rows[-1]), i))
    gain = paired_bootstrap(np.concatenate(rows), [np.concatenate(groups)], statistic=_mean_gain, resamples=1000)
    first = next(iter(classes.values()))
    return {
        "classes": classes,
        "mean": {
            method: {ruler: float(np.nanmean([row[method][ruler] for row in classes.values()])) for ruler in rulers}
            for method, rulers in first.items()
        },
        "gain": gain.listed(),
        "word below 0.45": sum(row["word"]["IoU"] < 0.45 for row in classes.values()),
    }


def _of_method(scored: Scored) -> dict[str, float]:
    scores, truths = scored.testing
    return _overlap(scores > scored.threshold, truths) | {
        "AP": float(np.mean([average_precision(t, s) for s, t in zip(scores, truths, strict=True)])),
        "elsewhere": float((scored.elsewhere > scored.threshold).mean()),
    }


def _through(grid: tuple[int, int], truths: np.ndarray) -> dict[str, float]:
    return _overlap(np.stack([grid_reference(truth, grid) for truth in truths]), truths)


def _overlap(masks: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """IoU of masks and truths (scene, height, width) pooled, by image, and pooled away from the truths' outlines."""
    inner = ~np.stack([boundary_band(truth, _EDGE) for truth in truths])
    return {
        "IoU": pooled_iou(zip(masks, truths, strict=True)),
        "IoU by image": mean_per_image_iou(zip(masks, truths, strict=True)),
        "IoU away from outlines": pooled_iou(zip(masks & inner, truths & inner, strict=True)),
    }


def counts(masks: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Pixels in both and in either, (scene, 2), of masks and truths (scene, height, width)."""
    return np.stack([(masks & truths).sum((1, 2)), (masks | truths).sum((1, 2))], axis=1)


def _mean_gain(rows: np.ndarray, draws: np.ndarray) -> float:
    """Mean over drawn classes of pooled IoU, fitted minus word; rows are counts of the word, then of the fit."""
    gains = []
    for draw in np.unique(draws):
        word, fitted = rows[draws == draw].sum(0).reshape(2, 2)
        gains.append(fitted[0] / fitted[1] - word[0] / word[1])
    return float(np.mean(gains))


def _scenes_of(classes: Sequence[str], count: int) -> dict[str, list[Scene]]:
    """The first validation scenes on which each class takes more than 1 % of the pixels."""
    for name in classes:
        label_of(name)  # else no scene would ever be found
    scenes: dict[str, list[Scene]] = {name: [] for name in classes}
    index = 0
    while any(len(found) < count for found in scenes.values()):
        scene = render(seed_of("validation", index), split="validation")
        index += 1
        for name in {thing.name for thing in scene.objects} & scenes.keys():
            if len(scenes[name]) < count and scene.mask(name).mean() > 0.01:
                scenes[name].append(scene)
    return scenes


def _annotated(trace: Trace, scene: Scene, name: str) -> Annotated:
    return Annotated(trace, scene.image, scene.mask(name))


def fit(name: str, annotated: Sequence[Annotated]) -> TokenEmbedding:
    """A class's token and its background, fitted to all annotations at once; the class is the last word."""
    tokens = optimize_tokens([each.trace for each in annotated], [{name: each.mask} for each in annotated])
    return tokens.groups[0].prompt(tokens.space)


def _three(
    parts: tuple[Sequence[Annotated], ...], embedding: TokenEmbedding | None
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], np.ndarray]:
    seen, unseen, elsewhere = (_scores(part, embedding) for part in parts)
    return seen, unseen, elsewhere[0]


def _scores(scenes: Sequence[Annotated], embedding: TokenEmbedding | None) -> tuple[np.ndarray, np.ndarray]:
    """Maps and truths of scenes, (scene, height, width) each; without an embedding the border's colours are scored."""
    maps = [border_colours(scene.image) if embedding is None else _score(scene, embedding) for scene in scenes]
    return np.stack(maps), np.stack([scene.mask for scene in scenes])


def _score(scene: Annotated, embedding: TokenEmbedding) -> np.ndarray:
    """Stretched map of the last word, at the image's size."""
    maps = scene.trace.maps(embedding).resized()
    return stretched(maps[len(maps) - 1]).numpy()
