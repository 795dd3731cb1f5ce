"""Blocks and time steps, chosen on validation scenes and ten classes, before any test scene is looked at."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.progress import track

from lab.mini.measures.asking import Asking, enlarged
from lab.mini.measures.words import SMALLEST, scenes_of
from ovam.evaluate import average_precision
from ovam.mini.scenes import CLASSES
from ovam.trace.blocks import ALL
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode
from ovam.tracing.encode_options import TIMESTEPS

DEVELOPMENT = CLASSES[::2]
TIMES = {
    "the default": TIMESTEPS,
    "much noise": (450, 550, 650),
    "some noise": (150, 250, 350),
    "little noise": (50, 100, 150),
    "hardly any": (10, 50, 100),
}
THIRDS = ("first third", "middle third", "last third")
_ALL_TIMES = sorted({t for times in TIMES.values() for t in times}, reverse=True)


def choose(pipe: Any, *, scenes: int = 60) -> dict[str, Any]:
    """The blocks and time steps with the best mean of a class word's average precision and its lead on an absent one.

    Args:
        pipe: A pipeline of the world's classes.
        scenes: Number of validation scenes, each with two classes or more; only things of ten classes are asked about.

    Returns:
        `best`: options of `encode`; `settings`: for each pair of blocks and time steps what was found.
    """
    random, asking = np.random.default_rng(0), Asking(pipe)
    found: dict[tuple[str, str], list[list[float]]] = {}
    subsets: dict[str, tuple[str, ...]] = {}
    for number, scene in enumerate(track(scenes_of("validation", scenes, least=2), "choices", scenes)):
        trace = encode(pipe, scene.image, seed=number, blocks=ALL, timesteps=_ALL_TIMES)
        subsets = block_subsets(trace)
        shown = {thing.name for thing in scene.objects}
        for name in sorted(shown & set(DEVELOPMENT)):
            truth = scene.mask(name)
            if truth.sum() < SMALLEST:
                continue
            absent = str(random.choice([other for other in DEVELOPMENT if other not in shown]))
            own, other = (
                _settings(trace, asking.map(trace, word, keep=("block", "step")), subsets) for word in (name, absent)
            )
            for key in own:
                reached = [average_precision(truth, enlarged(maps[key], len(truth))) for maps in (own, other)]
                found.setdefault(key, []).append(reached)
    means = {key: np.mean(pairs, axis=0) for key, pairs in found.items()}
    settings = [
        {"blocks": key[0], "time steps": key[1], "own": float(own), "lead": float(own - absent)}
        for key, (own, absent) in means.items()
    ]
    blocks, times = max(means, key=lambda key: 2 * means[key][0] - means[key][1])
    return {
        "split": "validation",
        "scenes": scenes,
        "classes": list(DEVELOPMENT),
        "objects": len(next(iter(found.values()))),
        "settings": settings,
        "best": {"blocks": list(subsets[blocks]), "timesteps": list(TIMES[times])},
    }


def block_subsets(trace: Trace) -> dict[str, tuple[str, ...]]:
    """Names of blocks: all, those of the way up, those of each grid, and each stage of the way up by itself.

    Where there is no way up, as in transformers: all, and each third of the blocks from the first one on.
    """
    names = tuple(trace.blocks)
    up = tuple(name for name in names if name.startswith("up_"))
    if not up:
        cuts = [round(len(names) * third / 3) for third in range(4)]
        parts = (names[first:last] for first, last in itertools.pairwise(cuts))
        return {"all": names, **dict(zip(THIRDS, parts, strict=True))}
    grids = sorted({block.grid for block in trace.blocks.values()})
    stages = dict.fromkeys(".".join(name.split(".")[:2]) for name in up)
    return {
        "all": names,
        "way up": up,
        **{f"grid {grid[0]}": tuple(n for n in names if trace.blocks[n].grid == grid) for grid in grids},
        **{stage: tuple(n for n in up if n.startswith(stage)) for stage in stages},
    }


def _settings(
    trace: Trace, apart: np.ndarray, subsets: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], np.ndarray]:
    """One word's map for every pair of blocks and time steps, from its maps (block, step, height, width)."""
    heads = np.array([block.heads for block in trace.blocks.values()], dtype=float)
    found = {}
    for blocks, names in subsets.items():
        of_blocks = np.average(apart, axis=0, weights=heads * [name in names for name in trace.blocks])
        for times, chosen in TIMES.items():
            found[blocks, times] = of_blocks[[_ALL_TIMES.index(t) for t in chosen]].mean(0)
    return found
