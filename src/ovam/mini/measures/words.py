"""Words on rendered scenes: does a word's map lie on its own thing, and does an absent word's map lie there as well?

Beside them stand maps that know no word, or no training, so that a figure can be seen for what it is worth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track

from ovam.encode import encode
from ovam.evaluate import average_precision, paired_bootstrap, presence_auroc
from ovam.masks import presence
from ovam.mini.baselines import border_colours
from ovam.mini.scenes import CLASSES, GROUNDS, Scene, Split, render, seed_of
from ovam.mini.scenes.captions import with_article
from ovam.mini.scenes.slices import slices
from ovam.mini.scenes.vocabulary import ABSENT_WORDS, CLASS_WORDS, KIND_OF, NONSENSE, TOWER_WORDS
from ovam.trace import Trace

SMALLEST = 40  # pixels of 128 x 128: less of a thing in view says little about its map
OTHERS = {"absent class": CLASSES, "ordinary word": ABSENT_WORDS, "tower's word": TOWER_WORDS, "nonsense": NONSENSE}
"""Lists from which the absent words are drawn."""

WORD_BLIND, UNTRAINED, COLOURS, CONSTANT = "every class at once", "random weights", "border's colours", "constant"
BASELINES = (WORD_BLIND, UNTRAINED, COLOURS, CONSTANT)
"""What must not look good: the mean map of all classes, the own word on an untrained denoiser, colours, nothing."""


@dataclass(frozen=True)
class WordRow:
    """One named thing or ground of one scene, and how well maps fit it.

    Attributes:
        scene: Number of the scene.
        name: Class or ground.
        share: Its share of the pixels, the chance level of average precision.
        own: Average precision of its own name's map.
        others: Average precision of other maps on the same pixels: of a synonym, a hypernym, absent words, baselines.
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


def untrained(pipe: Any) -> Any:
    """The same pipeline around a denoiser of random weights."""
    torch.manual_seed(0)
    fresh = type(pipe.unet).from_config(pipe.unet.config).eval()
    return type(pipe)(**{**pipe.components, "unet": fresh}, requires_safety_checker=False)


def measure_words(pipe: Any, *, split: Split = "test", scenes: int = 200) -> dict[str, Any]:
    """Average precision of own, absent and other words, of baselines, and presence, on scenes of several classes.

    Scenes enter with the empty prompt.

    Args:
        pipe: A pipeline of the world's classes.
        split: Split of the scenes.
        scenes: Number of scenes, each with two classes or more.
    """
    random, blank = np.random.default_rng(0), untrained(pipe)
    split_names = {name for name in CLASSES if len(pipe.tokenizer.tokenize(name)) > 1}
    rows: list[WordRow] = []
    present: list[float] = []
    absent: list[float] = []
    for number, scene in enumerate(track(scenes_of(split, scenes, least=2), "words", scenes)):
        trace = encode(pipe, scene.image, seed=number)
        of_class = {name: word_map(trace, name) for name in CLASSES}
        names = {thing.name for thing in scene.objects}
        for name, values in of_class.items():
            (present if name in names else absent).append(presence(torch.from_numpy(values)))
        unlearned = encode(blank, scene.image, seed=number)
        rows += _things(scene, number, _Maps(trace, of_class, unlearned), random, split_names)
        rows += _grounds(scene, number, trace)
    things, grounds = ([row for row in rows if (row.name in GROUNDS) == is_ground] for is_ground in (False, True))
    return {
        "split": split,
        "scenes": scenes,
        "objects": _summary(things),
        "presence_auroc": presence_auroc(present, absent),
        "grounds": {
            "count": len(grounds),
            "own": _mean([row.own for row in grounds]),
            "share": _mean([row.share for row in grounds]),
            "normalised": _mean([(row.own - row.share) / (1 - row.share) for row in grounds]),
        },
        "slices": {name: _summary(chosen) for name, chosen in _by_slice(things).items()},
        "classes": {name: _summary([row for row in things if row.name == name]) for name in CLASSES},
    }


@dataclass(frozen=True)
class _Maps:
    """What is asked of one scene: the trace, the maps of all classes, and the trace of the untrained denoiser."""

    trace: Trace
    of_class: dict[str, np.ndarray]
    unlearned: Trace

    def of(self, word: str) -> np.ndarray:
        return self.of_class[word] if word in self.of_class else word_map(self.trace, word)


def _things(
    scene: Scene, number: int, maps: _Maps, random: np.random.Generator, split_names: set[str]
) -> Iterator[WordRow]:
    size = len(scene.image)
    blind, colours = np.mean(list(maps.of_class.values()), axis=0), border_colours(scene.image)
    for name in sorted({thing.name for thing in scene.objects}):
        truth = scene.mask(name)
        if truth.sum() < SMALLEST:
            continue
        others = {kind: maps.of(word) for kind, word in _other_words(scene, name, random).items()}
        others |= {WORD_BLIND: blind, UNTRAINED: word_map(maps.unlearned, name)}
        precisions = {kind: average_precision(truth, enlarged(values, size)) for kind, values in others.items()}
        share = float(truth.mean())
        precisions |= {COLOURS: average_precision(truth, colours), CONSTANT: share}
        own = average_precision(truth, enlarged(maps.of_class[name], size))
        first = next(thing for thing in scene.objects if thing.name == name)
        kind = "split word" if name in split_names else "single word"
        yield WordRow(number, name, share, own, precisions, (*slices(scene, first), kind))


def _other_words(scene: Scene, name: str, random: np.random.Generator) -> dict[str, str]:
    """One absent word of each list, drawn for one thing; its synonym and its hypernym where it has one."""
    names = {thing.name for thing in scene.objects}
    words = {
        kind: str(random.choice([word for word in words if word not in (*names, *scene.distractors)]))
        for kind, words in OTHERS.items()
    }
    if len(CLASS_WORDS[name]) > 1:
        words["synonym"] = CLASS_WORDS[name][-1]
    alike = [other for other in names if KIND_OF.get(other) == KIND_OF.get(name)]
    if name in KIND_OF and len(alike) == 1:  # its hypernym fits nothing else in the scene
        words["hypernym"] = KIND_OF[name]
    return words


def _grounds(scene: Scene, number: int, trace: Trace) -> Iterator[WordRow]:
    for ground in (scene.ground, scene.backdrop):
        if ground is not None and (truth := scene.mask(ground)).sum() >= SMALLEST:
            own = average_precision(truth, enlarged(word_map(trace, ground), len(scene.image)))
            yield WordRow(number, ground, float(truth.mean()), own, {}, ())


def _summary(rows: Sequence[WordRow]) -> dict[str, Any]:
    if not rows:
        return {"count": 0}
    gaps, scenes = np.array([row.gap for row in rows]), np.array([row.scene for row in rows])
    kinds = sorted({kind for row in rows for kind in row.others})
    gap = paired_bootstrap(gaps, [scenes])
    return {
        "count": len(rows),
        "own": _mean([row.own for row in rows]),
        "gap": [gap.value, gap.low, gap.high],
        "others": {kind: _mean([row.others[kind] for row in rows if kind in row.others]) for kind in kinds},
    }


def _by_slice(rows: Sequence[WordRow]) -> dict[str, list[WordRow]]:
    names = sorted({name for row in rows for name in row.slices})
    return {name: [row for row in rows if name in row.slices] for name in names}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
