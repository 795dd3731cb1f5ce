"""Which scenes are annotated, which are scored, and for which classes: fixed before anything is fitted."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lab.fits.generated import Picture
from lab.mini.oracle import IGNORE
from ovam.mini.scenes import Scene, Split, render, seed_of
from ovam.mini.scenes.company import choose_company
from ovam.mini.scenes.difficulty import difficulty_of
from ovam.mini.scenes.slices import slices

UNUSED = 50_000
"""Index of the first scene of the training split that no training ever used."""

FIRST = {"test": 200}
"""Index of the first scored scene of a split, 0 for others: scenes of test before it were looked at while defaults were
still being chosen."""

LEAST_ANNOTATED = 0.04
"""Share of the pixels that the thing of an annotation covers at least."""

LEAST_SCORED = 0.01
"""Share of the pixels above which a scene is scored for a class."""

MOST_WITHOUT = 50
"""Scenes without a class on which it is asked at most."""

ALONE, TOGETHER = "one thing", "two and three things"
LOOKS = {"seen": "known looks", "novel": "novel looks"}
GROUNDS = {"canonical": "canonical ground", "counterfactual": "counterfactual ground"}
SLICES = (ALONE, TOGETHER, *LOOKS.values(), *GROUNDS.values())
"""Names of the slices, each beside its opposite."""

Draw = Callable[[int], Scene]
"""From an index to a scene."""

Scored = Scene | Picture
"""What a fit is asked of."""


def of_split(split: Split) -> Draw:
    """Scenes of a split by their index."""
    return lambda index: render(seed_of(split, index), split=split)


def names_at(index: int) -> list[str]:
    """Names of the things of a training scene, without rendering it: `render` draws them first of all."""
    seed = seed_of("train", index)
    return choose_company(np.random.default_rng(seed), "train", difficulty_of("train", seed))[0]


def annotation_scenes(
    classes: Sequence[str],
    count: int,
    *,
    names_of: Callable[[int], Sequence[str]] = names_at,
    scene_of: Draw | None = None,
) -> dict[str, list[Scene]]:
    """The first scenes of training that were never trained on and show one thing alone, for each class.

    Args:
        classes: Those asked for.
        count: Number of scenes of each; draw d of a class is its scene d.
        names_of: From an index to the names of the scene's things.
        scene_of: From an index to the scene; of the training split by default.
    """
    found: dict[str, list[Scene]] = {name: [] for name in classes}
    draw, indices = scene_of or of_split("train"), itertools.count(UNUSED)
    while any(len(scenes) < count for scenes in found.values()):
        index = next(indices)
        name, *others = names_of(index)
        if others or name not in found or len(found[name]) == count:
            continue
        scene = draw(index)
        if scene.mask(name).mean() >= LEAST_ANNOTATED:
            found[name].append(scene)
    return found


def scored_with(scenes: Sequence[Scored], name: str) -> Iterator[Scored]:
    """Scenes on which a class is scored."""
    return (scene for scene in scenes if scene.mask(name).mean() > LEAST_SCORED)


def without(scenes: Sequence[Scored], name: str) -> Iterator[Scored]:
    """The first scenes on which nothing of a class is in view."""
    return itertools.islice((scene for scene in scenes if not scene.mask(name).any()), MOST_WITHOUT)


def slices_of(scene: Scored, name: str) -> tuple[str, ...]:
    """Slices of a class on a scene; of twins those that both belong to. Of a picture by what its prompt names."""
    if isinstance(scene, Picture):
        return (ALONE if len(scene.objects) == 1 else TOGETHER,)
    things = [set(slices(scene, thing)) for thing in scene.objects if thing.name == name]
    shared = set.intersection(*things)
    named = [text for key, text in (LOOKS | GROUNDS).items() if key in shared]
    return (ALONE if len(scene.objects) == 1 else TOGETHER, *named)


def mask_of(scene: Scored, name: str) -> np.ndarray:
    """A class's mask: bool, (height, width)."""
    return np.ascontiguousarray(scene.mask(name))


def counted_in(scene: Scored) -> np.ndarray:
    """Pixels whose class is known: bool, (height, width)."""
    return np.ascontiguousarray(scene.labels != IGNORE)
