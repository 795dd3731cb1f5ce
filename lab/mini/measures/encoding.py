"""Which way of showing a denoiser a real image gives the better maps: noise put on it, inversion, or nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.progress import track

from lab.mini.measures.asking import Asking, enlarged
from lab.mini.measures.words import SMALLEST, scenes_of
from ovam.evaluate import average_precision, paired_bootstrap
from ovam.mini.scenes import CLASSES, Scene
from ovam.tracing.encode import encode

NOISE, CLEAN = "noise", "clean, at the least time step"
WAYS: Mapping[str, Mapping[str, Any]] = {
    NOISE: {},
    "noise, mean of four": {"noises": 4},
    "inversion": {"method": "inversion"},
    CLEAN: {"method": "clean"},
}
"""Options of `encode`; no model here was tuned for clean latents."""


def measure_encoding(models: Mapping[str, tuple[Any, Mapping[str, Any]]], *, scenes: int = 60) -> dict[str, Any]:
    """Average precision of class words on test scenes of several classes, by way of encoding.

    Args:
        models: By name a pipeline and the blocks and time steps that were chosen for it, as `encode` takes them.
        scenes: Number of scenes, which enter with the empty prompt; all ways are asked the same words.

    Returns:
        By model and way: `own`, `lead` on the word of a class that is not there, and `above noise`, the own word's
        gain over the default way; the last two with 95 % bootstrap bounds over classes and the scenes of each.
    """
    return {name: _of_model(pipe, scenes, **options) for name, (pipe, options) in models.items()}


def _of_model(pipe: Any, scenes: int, *, blocks: Sequence[str] | None, timesteps: Sequence[int]) -> dict[str, Any]:
    random, asking = np.random.default_rng(0), Asking(pipe)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    named: list[int] = []
    for number, scene in enumerate(track(scenes_of("test", scenes, least=2), "encoding", scenes)):
        pairs = list(_pairs_of(scene, random))
        named += [CLASSES.index(name) for name, _ in pairs]
        for way, options in WAYS.items():
            times = (min(timesteps),) if way == CLEAN else timesteps
            trace = encode(pipe, scene.image, seed=number, blocks=blocks, timesteps=times, **options)
            for name, absent in pairs:
                truth = scene.mask(name)
                maps = (enlarged(asking.map(trace, word), len(truth)) for word in (name, absent))
                own, other = (average_precision(truth, values) for values in maps)
                found[way].append((own, other))
    groups, reached = np.array(named), {way: np.array(rows) for way, rows in found.items()}
    return {
        way: {
            "own": float(rows[:, 0].mean()),
            "lead": _bounds(rows[:, 0] - rows[:, 1], groups),
            "above noise": _bounds(rows[:, 0] - reached[NOISE][:, 0], groups),
        }
        for way, rows in reached.items()
    }


def _pairs_of(scene: Scene, random: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Each class that is there to be seen, and one that is not."""
    names = {thing.name for thing in scene.objects}
    for name in sorted(names):
        if scene.mask(name).sum() >= SMALLEST:
            yield name, str(random.choice([other for other in CLASSES if other not in names]))


def _bounds(differences: np.ndarray, groups: np.ndarray) -> list[float]:
    return paired_bootstrap(differences, [groups], resamples=1000).listed()
