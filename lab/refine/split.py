"""Cutting things of one class that touch: edges from self-attention after TRACE, against necks and against no cut.

TRACE (arXiv 2503.07982) finds borders between things where the self-attention of neighbouring places differs. Its
layers, time step and exact divergence are not known here, so several are tried on validation scenes: the best setting
on the scenes of even number is told on those of odd number.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.progress import track
from scipy import ndimage
from torch.nn import functional as F

from lab.mini.measures.words import SMALLEST
from lab.refine.figures import RESAMPLES
from ovam.evaluate import paired_bootstrap
from ovam.masks.masks import segment
from ovam.masks.options import MaskOptions
from ovam.masks.regions import pieces
from ovam.masks.splitting import split_at_necks
from ovam.mini.scenes import Scene, render, seed_of
from ovam.refine.options import RefineOptions
from ovam.refine.self_attention import affinities, refined
from ovam.tracing.encode import encode

MEAN, ONE = "mean of the time steps", "time step 100"
TIMES: Mapping[str, Mapping[str, Any]] = {MEAN: {}, ONE: {"timesteps": (100,)}}
DIVERGENCES = ("Jensen-Shannon", "absolute difference")
LEVELS, SHARES = (0.5, 0.6, 0.7, 0.8, 0.9), (0.05, 0.1, 0.2)
UNCUT, NECKS, EDGES = "no cut", "necks", "edges of self-attention"
_MATCH = 0.5  # IoU from which on a piece is a thing

Piece = np.ndarray
Cut = Callable[[Piece, "Look"], np.ndarray]
"""From one connected piece to numbered parts: 0 outside, then 1, 2, ..."""


@dataclass(frozen=True)
class Look:
    """One class of one scene.

    Attributes:
        number: Number of the scene among those looked at.
        mask: What is cut, (height, width) bool.
        truth: The mask of each thing of the class.
        edges: By time steps and divergence, how much each place differs from its neighbours, (height, width).
    """

    number: int
    mask: np.ndarray = field(repr=False)
    truth: tuple[np.ndarray, ...] = field(repr=False)
    edges: Mapping[tuple[str, str], np.ndarray] = field(repr=False)


def edges_of(weights: torch.Tensor, grid: tuple[int, int], divergence: str) -> np.ndarray:
    """Return how much the self-attention of each place differs from its neighbours': the mean over up to four, (grid).

    Args:
        weights: Rows of attention over all places, (pixel, pixel).
        grid: Height and width of the places.
        divergence: One of `DIVERGENCES`.
    """
    rows = weights.double().reshape(*grid, -1)
    total, count = torch.zeros(grid, dtype=torch.double), torch.zeros(grid, dtype=torch.double)
    for axis in (0, 1):
        length = grid[axis]
        first, second = rows.narrow(axis, 0, length - 1), rows.narrow(axis, 1, length - 1)
        apart = _divergence(first, second, divergence)
        for start in (0, 1):
            total.narrow(axis, start, length - 1).add_(apart)
            count.narrow(axis, start, length - 1).add_(1)
    found: np.ndarray = (total / count).numpy()
    return found


def _divergence(first: torch.Tensor, second: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "absolute difference":
        return (first - second).abs().sum(-1) / 2
    middle = (first + second) / 2
    ends = torch.stack((first, second))
    return (torch.xlogy(ends, ends) - torch.xlogy(ends, middle)).sum(-1).sum(0) / 2


def cut_along(piece: Piece, edges: np.ndarray, level: float, share: float) -> np.ndarray:
    """Cut a piece along strong edges: cores are joined places with weak edges, and grow until they meet.

    Args:
        piece: One connected piece, bool.
        edges: Strength of the edge at each pixel.
        level: Share of the piece's pixels whose edges count as weak.
        share: Least size of a core, as a share of the piece.

    Returns:
        Numbered parts; 1 alone if there are fewer than two cores.
    """
    weak = piece & (edges <= np.quantile(edges[piece], level))
    numbers, _ = pieces(weak)
    areas = np.bincount(numbers.ravel())
    cores = [number for number in range(1, len(areas)) if areas[number] >= share * piece.sum()]
    if len(cores) < 2:
        return piece.astype(np.int32)
    markers = np.zeros(piece.shape, dtype=np.int32)
    for i, number in enumerate(cores, start=1):
        markers[numbers == number] = i
    span = max(1e-12, float(edges[piece].max() - edges[piece].min()))
    height = (255 * ((edges - edges[piece].min()) / span).clip(0, 1)).astype(np.uint8)
    grown = ndimage.watershed_ift(np.where(piece, height, 255).astype(np.uint8), markers)
    return np.where(piece, grown, 0).astype(np.int32)


def cuts() -> dict[tuple[str, ...], Cut]:
    """Return every way of cutting, by its name and its setting."""
    found: dict[tuple[str, ...], Cut] = {
        (UNCUT,): lambda piece, look: piece.astype(np.int32),
        (NECKS,): lambda piece, look: split_at_necks(piece),
    }
    for times, kind, level, share in itertools.product(TIMES, DIVERGENCES, LEVELS, SHARES):

        def along(piece: Piece, look: Look, edges: Any = (times, kind), at: Any = (level, share)) -> np.ndarray:
            return cut_along(piece, look.edges[edges], *at)

        found[EDGES, times, kind, f"level {level:g}", f"share {share:g}"] = along
    return found


def counts_of(look: Look, cut: Cut) -> np.ndarray:
    """Return how many parts are things (IoU of at least 0.5), how many are none, and how many things are missed."""
    numbers, count = pieces(look.mask)
    parts = []
    for number in range(1, count + 1):
        piece = numbers == number
        if piece.sum() >= SMALLEST:
            cut_parts = cut(piece, look)
            parts += [cut_parts == i for i in range(1, int(cut_parts.max()) + 1)]
    ious = np.array([[(a & b).sum() / (a | b).sum() for b in look.truth] for a in parts]).reshape(-1, len(look.truth))
    hits = int((ious >= _MATCH).any(1).sum())  # above a half no two parts match one thing
    return np.array([hits, len(parts) - hits, len(look.truth) - hits])


def f1(counted: np.ndarray) -> float:
    """Return 2 TP / (2 TP + FP + FN), in [0, 1]."""
    right, wrong, missed = counted
    return float(2 * right / max(1, 2 * right + wrong + missed))


def touching(scene: Scene) -> list[str]:
    """Return the classes of a scene of which two things are in one connected piece."""
    found, every = [], [thing.name for thing in scene.objects]
    for name in sorted({name for name in every if every.count(name) > 1}):
        numbers, count = pieces(scene.mask(name))
        inside = [np.unique(scene.instances[numbers == number]) for number in range(1, count + 1)]
        if any(sum((scene.instances == i).sum() >= SMALLEST for i in each if i) > 1 for each in inside):
            found.append(name)
    return found


def scenes_of(count: int, most: int = 2000) -> Iterator[tuple[Scene, list[str]]]:
    """Yield `count` validation scenes with touching things of a class, and after each the next one without any."""
    found, plain = 0, 0
    for index in range(most):
        scene = render(seed_of("validation", index), split="validation")
        names = touching(scene)
        if names and found < count:
            found += 1
            yield scene, names
        elif not names and plain < min(found, count) and scene.objects:
            plain += 1
            yield scene, sorted({thing.name for thing in scene.objects})
        if found == plain == count:
            return


def looks(pipe: Any, count: int) -> Iterator[tuple[str, Look]]:
    """Yield each class of the scenes twice: cut from its exact mask, and from the word's mask by the product."""
    for number, (scene, names) in enumerate(track(list(scenes_of(count)), "scenes")):
        traces = {
            times: encode(pipe, scene.image, seed=number, self_attention=True, **options)
            for times, options in TIMES.items()
        }
        maps = traces[MEAN].maps(names)
        edges = {}
        for times, trace in traces.items():
            ((grid, weights),) = affinities(trace.maps(names), RefineOptions()).items()
            for kind in DIVERGENCES:
                edges[times, kind] = _enlarged(edges_of(weights, grid, kind), scene.labels.shape)
        result = segment(refined(maps, RefineOptions()), MaskOptions(crf=True))
        for name in names:
            things = (scene.instances == i for i, thing in enumerate(scene.objects, start=1) if thing.name == name)
            truth = tuple(thing for thing in things if thing.sum() >= SMALLEST)
            if truth:
                yield "exact masks", Look(number, scene.mask(name), truth, edges)
                yield "masks of words", Look(number, result[name].numpy(), truth, edges)


def _enlarged(edges: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    given = torch.from_numpy(edges)[None, None]
    found: np.ndarray = F.interpolate(given, (size[0], size[1]), mode="bilinear", align_corners=False)[0, 0].numpy()
    return found


Counted = Mapping[tuple[str, ...], Sequence[np.ndarray]]
"""By way of cutting, the counts of each class of each scene."""


def compare(pipe: Any, count: int) -> dict[str, Any]:
    """Return F1 of the things found, by mask and by way of cutting; the setting of edges is chosen on even scenes."""
    found: dict[str, tuple[dict[tuple[str, ...], list[np.ndarray]], ...]] = {}
    numbers = set()
    for kind, look in looks(pipe, count):
        numbers.add(look.number)
        half = found.setdefault(kind, ({}, {}))[look.number // 2 % 2]  # touching and plain scenes take turns
        for key, cut in cuts().items():
            half.setdefault(key, []).append(counts_of(look, cut))
    return {"scenes": len(numbers)} | {kind: figures_of(*halves) for kind, halves in found.items()}


def figures_of(even: Counted, odd: Counted) -> dict[str, Any]:
    """Return for each way, with the setting of edges that is best on the even half, its figures on the odd half."""
    keys: list[tuple[str, ...]] = [(UNCUT,), (NECKS,)]
    for times in TIMES:
        some = [key for key in even if key[:2] == (EDGES, times)]
        keys += [max(some, key=lambda key: f1(np.sum(even[key], axis=0)))] if some else []
    return {
        ", ".join(key[:2]): {
            "setting": ", ".join(key[2:]),
            "chosen_on": f1(np.sum(even[key], axis=0)),
            "f1": f1(np.sum(odd[key], axis=0)),
            "above_no_cut": above(odd[key], odd[UNCUT,]),
            "found, wrong, missed": np.sum(odd[key], axis=0).tolist(),
        }
        for key in keys
        if key in odd
    }


def above(mine: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> list[float]:
    """Return how much F1 is above another way's, with its 95 % interval over classes of scenes."""
    rows = np.concatenate([np.stack(mine), np.stack(other)], axis=1)

    def difference(drawn: np.ndarray, draws: np.ndarray) -> float:
        sums = drawn.sum(0)
        return f1(sums[:3]) - f1(sums[3:])

    return paired_bootstrap(rows, [], statistic=difference, resamples=RESAMPLES).listed()
