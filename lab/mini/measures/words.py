"""Words on rendered scenes: does a word's map lie on its own thing, and does an absent word's map lie there as well?

Beside them stand maps that know no word, or no training, so that a figure can be seen for what it is worth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track

from lab.mini.baselines import border_colours
from lab.mini.measures.asking import Asking, enlarged, untrained
from ovam.evaluate import Interval, average_precision, paired_bootstrap, presence_auroc
from ovam.masks.presence import evidence
from ovam.mini.scenes import CLASSES, GROUNDS, Scene, Split, render, seed_of
from ovam.mini.scenes.slices import slices
from ovam.mini.scenes.vocabulary import ABSENT_WORDS, CLASS_WORDS, KIND_OF, NONSENSE, TOWER_WORDS
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode
from ovam.tracing.encode_options import TIMESTEPS

SMALLEST = 40  # pixels of 128 x 128: less of a thing in view says little about its map
OTHERS = {"absent": CLASSES, "ordinary word": ABSENT_WORDS, "tower's word": TOWER_WORDS, "nonsense": NONSENSE}
"""Lists from which the absent words are drawn."""

WORD_BLIND, UNTRAINED, COLOURS, HEIGHT, CONSTANT = (
    "all of them at once",
    "random weights",
    "colours",
    "height in the picture",
    "constant",
)
THING_BASELINES = (WORD_BLIND, UNTRAINED, COLOURS, CONSTANT)
GROUND_BASELINES = (WORD_BLIND, UNTRAINED, COLOURS, HEIGHT, CONSTANT)
"""What must not look good: the mean map of all classes or grounds, the own word on an untrained denoiser, the distance
to the border's colours (grounds: nearness), rows of pixels counted from the ground's usual side, nothing at all."""


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
        """By how much its own name beats an absent one of its sort."""
        return self.own - self.others["absent"]


def scenes_of(split: Split, count: int, *, least: int = 1) -> Iterator[Scene]:
    """The first `count` scenes of a split that have at least `least` different classes."""
    index = found = 0
    while found < count:
        scene = render(seed_of(split, index), split=split)
        index += 1
        if len({thing.name for thing in scene.objects}) >= least:
            found += 1
            yield scene


@dataclass(frozen=True)
class _Seen:
    """One scene as the denoiser sees it, and as one of random weights does."""

    number: int
    scene: Scene
    trace: Trace
    unlearned: Trace
    of_class: dict[str, np.ndarray]
    of_ground: dict[str, np.ndarray]


@dataclass(frozen=True)
class WordRows:
    """What was found on some scenes.

    Attributes:
        things: A row for each thing.
        grounds: A row for each ground.
        scores: Of each class the presence scores of scenes with it, and of scenes without.
    """

    things: list[WordRow]
    grounds: list[WordRow]
    scores: dict[str, tuple[list[float], list[float]]]

    def presence_auroc(self) -> float:
        """Mean of the classes that some scene shows and some does not."""
        return float(np.mean([presence_auroc(*pair) for pair in self.scores.values() if all(pair)]))


def look_at_words(
    pipe: Any,
    *,
    scenes: int = 200,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[int] = TIMESTEPS,
) -> WordRows:
    """Ask test scenes of several classes, which enter with the empty prompt, for own, absent and other words.

    Args:
        pipe: A pipeline of the world's classes.
        scenes: Number of scenes, each with two classes or more; the words asked of each are the same for any pipeline.
        blocks: As in `encode`.
        timesteps: As in `encode`.
    """
    random, blank, asking = np.random.default_rng(0), untrained(pipe), Asking(pipe)
    split_names = {name for name in CLASSES if len(pipe.tokenizer.tokenize(name)) > 1}
    things: list[WordRow] = []
    grounds: list[WordRow] = []
    scores: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in CLASSES}
    for number, scene in enumerate(track(scenes_of("test", scenes, least=2), "words", scenes)):
        trace, unlearned = (
            encode(each, scene.image, seed=number, blocks=blocks, timesteps=timesteps) for each in (pipe, blank)
        )
        of_class, of_ground = ({name: asking.map(trace, name) for name in names} for names in (CLASSES, GROUNDS))
        seen = _Seen(number, scene, trace, unlearned, of_class, of_ground)
        shown = {thing.name for thing in scene.objects}
        for name, values in of_class.items():
            scores[name][name not in shown].append(evidence(torch.from_numpy(values)))
        things += _things(seen, asking, random, split_names)
        grounds += _grounds(seen, asking, random)
    return WordRows(things, grounds, scores)


def measure_words(
    pipe: Any,
    *,
    scenes: int = 200,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[int] = TIMESTEPS,
) -> dict[str, Any]:
    """Average precision of own, absent and other words, of baselines, and presence; arguments as in `look_at_words`."""
    found = look_at_words(pipe, scenes=scenes, blocks=blocks, timesteps=timesteps)
    things, grounds = found.things, found.grounds
    return {
        "split": "test",
        "scenes": scenes,
        "encoded": {"blocks": blocks, "timesteps": list(timesteps)},
        "objects": summary(things),
        "presence_auroc": found.presence_auroc(),
        "grounds": summary(grounds)
        | {
            "normalised": {
                name: float(np.mean([(value - row.share) / (1 - row.share) for row, value in pairs]))
                for name, pairs in _by_map(grounds).items()
            }
        },
        "slices": {name: summary(chosen) for name, chosen in _by_slice(things).items()},
        "classes": {name: summary([row for row in things if row.name == name]) for name in CLASSES},
    }


def _things(seen: _Seen, asking: Asking, random: np.random.Generator, split_names: set[str]) -> Iterator[WordRow]:
    scene = seen.scene
    size, blind = len(scene.image), np.mean(list(seen.of_class.values()), axis=0)
    for name in sorted({thing.name for thing in scene.objects}):
        truth = scene.mask(name)
        if truth.sum() < SMALLEST:
            continue
        maps = {WORD_BLIND: blind, UNTRAINED: asking.map(seen.unlearned, name)}
        for kind, word in _other_words(scene, name, random).items():
            maps[kind] = seen.of_class[word] if word in seen.of_class else asking.map(seen.trace, word)
        others = {kind: average_precision(truth, enlarged(values, size)) for kind, values in maps.items()}
        others[COLOURS] = average_precision(truth, border_colours(scene.image))
        others[CONSTANT] = float(truth.mean())
        own = average_precision(truth, enlarged(seen.of_class[name], size))
        found = {each for thing in scene.objects if thing.name == name for each in slices(scene, thing)}
        found.add("split word" if name in split_names else "single word")
        yield WordRow(seen.number, name, others[CONSTANT], own, others, tuple(sorted(found)))


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


def _grounds(seen: _Seen, asking: Asking, random: np.random.Generator) -> Iterator[WordRow]:
    scene = seen.scene
    size, blind = len(scene.image), np.mean(list(seen.of_ground.values()), axis=0)
    there = [name for name in (scene.ground, scene.backdrop) if name is not None]
    rows = np.repeat(np.linspace(0, 1, size)[:, None], size, axis=1)
    for name in there:
        truth = scene.mask(name)
        if truth.sum() < SMALLEST:
            continue
        absent = str(random.choice([other for other in GROUNDS if other not in there]))
        maps = {"absent": seen.of_ground[absent], WORD_BLIND: blind, UNTRAINED: asking.map(seen.unlearned, name)}
        others = {kind: average_precision(truth, enlarged(values, size)) for kind, values in maps.items()}
        others[COLOURS] = average_precision(truth, -border_colours(scene.image))
        others[HEIGHT] = average_precision(truth, -rows if name in ("sky", "wall") else rows)
        others[CONSTANT] = float(truth.mean())
        own = average_precision(truth, enlarged(seen.of_ground[name], size))
        yield WordRow(seen.number, name, others[CONSTANT], own, others, ())


def _by_map(rows: Sequence[WordRow]) -> dict[str, list[tuple[WordRow, float]]]:
    """Rows with the precision of each map on them; "own" first."""
    kinds = sorted({kind for row in rows for kind in row.others})
    return {"own": [(row, row.own) for row in rows]} | {
        kind: [(row, row.others[kind]) for row in rows if kind in row.others] for kind in kinds
    }


def summary(rows: Sequence[WordRow]) -> dict[str, Any]:
    """Means over rows, the gap with its interval, and for each other map the own word on the same rows."""
    if not rows:
        return {"count": 0}
    gap = spread_of(rows, [row.gap for row in rows])
    maps = _by_map(rows)
    own = maps.pop("own")
    return {
        "count": len(rows),
        "own": float(np.mean([value for _, value in own])),
        "gap": gap.listed(),
        "others": {kind: float(np.mean([value for _, value in pairs])) for kind, pairs in maps.items()},
        "own beside": {kind: float(np.mean([row.own for row, _ in pairs])) for kind, pairs in maps.items()},
    }


def spread_of(rows: Sequence[WordRow], differences: Sequence[float]) -> Interval:
    """Mean of a difference on every row, resampled over classes or grounds, and over the scenes of each.

    A scene gives a class one row at most, so that the rows of a class are its scenes.
    """
    names = np.unique([row.name for row in rows], return_inverse=True)[1]
    return paired_bootstrap(np.array(differences), [names], resamples=1000)


def _by_slice(rows: Sequence[WordRow]) -> dict[str, list[WordRow]]:
    names = sorted({name for row in rows for name in row.slices})
    return {name: [row for row in rows if name in row.slices] for name in names}
