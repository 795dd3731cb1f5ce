"""Words on rendered scenes: does a word's map lie on its own thing, and does an absent word's map lie there as well?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track

from ovam.encode import encode
from ovam.evaluate import Interval, average_precision, paired_bootstrap, presence_auroc
from ovam.masks import presence
from ovam.mini.scenes import CLASSES, GROUNDS, Scene, Split, render, seed_of
from ovam.mini.scenes.captions import with_article
from ovam.mini.scenes.slices import slices
from ovam.mini.scenes.vocabulary import ABSENT_WORDS, CLASS_WORDS, KIND_OF, NONSENSE, TOWER_WORDS
from ovam.trace import Trace

SMALLEST = 40  # pixels of 128 x 128: less of a thing in view says little about its map
OTHERS = {"absent class": CLASSES, "ordinary word": ABSENT_WORDS, "tower's word": TOWER_WORDS, "nonsense": NONSENSE}
"""Lists from which the absent words are drawn."""


@dataclass(frozen=True)
class WordRow:
    """One named thing or ground of one scene, and how well words fit it.

    Attributes:
        scene: Number of the scene.
        name: Class or ground.
        share: Its share of the pixels, the chance level of average precision.
        own: Average precision of its own name's map.
        others: Average precision of other words' maps on the same pixels: a synonym, a hypernym, absent words.
        slices: Slices it belongs to.
    """

    scene: int
    name: str
    share: float
    own: float
    others: dict[str, float]
    slices: tuple[str, ...]

    @property
    def gap(self) -> float:
        """By how much its own name beats the absent class."""
        return self.own - self.others["absent class"]


def word_map(trace: Trace, words: str) -> np.ndarray:
    """Map of a word within its template, at the grid's size: (height, width), in [0, 1]."""
    article = with_article(words)[: -len(words)]
    return trace.maps(f'a photograph of {article}"{words}"')[words].numpy()


def enlarged(values: np.ndarray, size: int) -> np.ndarray:
    """A map at the picture's size, bilinear: (size, size)."""
    import torch

    given = torch.from_numpy(values)[None, None]
    return torch.nn.functional.interpolate(given, (size, size), mode="bilinear", align_corners=False)[0, 0].numpy()


def scenes_of(split: Split, count: int, *, least: int = 1) -> Iterator[Scene]:
    """The first `count` scenes of a split that have at least `least` different classes."""
    index = found = 0
    while found < count:
        scene = render(seed_of(split, index), split=split)
        index += 1
        if len({thing.name for thing in scene.objects}) >= least:
            found += 1
            yield scene


def measure_words(
    pipe: Any, *, split: Split = "test", scenes: int = 200, maps: Callable[[Trace, str], np.ndarray] = word_map
) -> dict[str, Any]:
    """Average precision of own, absent and other words, and presence, on scenes with two or more classes.

    Scenes enter with the empty prompt.

    Args:
        pipe: A pipeline of the world's classes.
        split: Split of the scenes.
        scenes: Number of scenes.
        maps: Gives a word's map; another one measures another method.
    """
    random = np.random.default_rng(0)
    rows: list[WordRow] = []
    present: list[float] = []
    absent: list[float] = []
    for number, scene in enumerate(track(scenes_of(split, scenes, least=2), "words", scenes)):
        trace = encode(pipe, scene.image, seed=number)
        of_class = {name: maps(trace, name) for name in CLASSES}
        names = {thing.name for thing in scene.objects}
        for name, values in of_class.items():
            (present if name in names else absent).append(_presence(values))
        rows += _rows(scene, number, trace, of_class, maps, random)
    things, grounds = ([row for row in rows if (row.name in GROUNDS) == is_ground] for is_ground in (False, True))
    return {
        "split": split,
        "scenes": scenes,
        "objects": _summary(things),
        "presence_auroc": round(presence_auroc(present, absent), 3),
        "grounds": {
            "count": len(grounds),
            "own": _mean([row.own for row in grounds]),
            "share": _mean([row.share for row in grounds]),
            "normalised": _mean([(row.own - row.share) / (1 - row.share) for row in grounds]),
        },
        "slices": {name: _summary(chosen) for name, chosen in _by_slice(things).items()},
        "classes": {name: _summary([row for row in things if row.name == name]) for name in CLASSES},
    }


def _presence(values: np.ndarray) -> float:
    import torch

    return presence(torch.from_numpy(values))


def _rows(
    scene: Scene,
    number: int,
    trace: Trace,
    of_class: dict[str, np.ndarray],
    maps: Callable[[Trace, str], np.ndarray],
    random: np.random.Generator,
) -> Iterator[WordRow]:
    size = len(scene.image)
    names = {thing.name for thing in scene.objects}
    for name in sorted(names):
        truth = scene.mask(name)
        if truth.sum() < SMALLEST:
            continue
        words = {
            kind: str(random.choice([word for word in words if word not in (*names, *scene.distractors)]))
            for kind, words in OTHERS.items()
        }
        if len(CLASS_WORDS[name]) > 1:
            words["synonym"] = CLASS_WORDS[name][-1]
        alike = [other for other in names if KIND_OF.get(other) == KIND_OF.get(name)]
        if name in KIND_OF and len(alike) == 1:  # its hypernym fits nothing else in the scene
            words["hypernym"] = KIND_OF[name]
        own = average_precision(truth, enlarged(of_class[name], size))
        others = {}
        for kind, word in words.items():
            values = of_class[word] if word in of_class else maps(trace, word)
            others[kind] = average_precision(truth, enlarged(values, size))
        first = next(thing for thing in scene.objects if thing.name == name)
        yield WordRow(number, name, float(truth.mean()), own, others, slices(scene, first))
    for ground in (scene.ground, scene.backdrop):
        if ground is not None and (truth := scene.mask(ground)).sum() >= SMALLEST:
            own = average_precision(truth, enlarged(maps(trace, ground), size))
            yield WordRow(number, ground, float(truth.mean()), own, {}, ())


def _summary(rows: Sequence[WordRow]) -> dict[str, Any]:
    if not rows:
        return {"count": 0}
    gaps, scenes = np.array([row.gap for row in rows]), np.array([row.scene for row in rows])
    kinds = sorted({kind for row in rows for kind in row.others})
    return {
        "count": len(rows),
        "own": _mean([row.own for row in rows]),
        "share": _mean([row.share for row in rows]),
        "gap": _rounded(paired_bootstrap(gaps, [scenes])),
        "others": {kind: _mean([row.others[kind] for row in rows if kind in row.others]) for kind in kinds},
    }


def _by_slice(rows: Sequence[WordRow]) -> dict[str, list[WordRow]]:
    names = sorted({name for row in rows for name in row.slices})
    return {name: [row for row in rows if name in row.slices] for name in names}


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 3) if len(values) else None


def _rounded(interval: Interval) -> list[float]:
    return [round(value, 3) for value in (interval.value, interval.low, interval.high)]
