"""Pictures as the product sees them, with the maps of all class words: rendered scenes, and generated pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lab.mini.measures.words import SMALLEST, scenes_of
from lab.mini.oracle import IGNORE
from lab.pseudo_masks.world import World
from lab.refine.gains import gains_of
from ovam.maps.gains import WordGains
from ovam.maps.result import AttentionMaps
from ovam.mini.scenes import CLASSES, LABELS, Scene, Split
from ovam.mini.scenes.slices import slices
from ovam.mini.scenes.vocabulary import CLASS_WORDS, KIND_OF
from ovam.tokens.token_set import TokenSet
from ovam.trace.trace import Trace
from ovam.tracing.encode import encode

ALONE, TOGETHER = "one thing", "two and three things"


@dataclass(frozen=True)
class Case:
    """One picture.

    Attributes:
        number: Its index among the pictures looked at.
        truth: By class that is there to be seen, its pixels (height, width).
        labels: Number of the class at each pixel, from 1; 0 is background, 255 where nobody knows (height, width).
        slices: By class, the slices it belongs to.
        maps: Maps of all class words and of `others`, each asked by itself, with the image's self-attention.
        others: Other words for one of the classes: the word, the class, and its slice ("synonym" or "hypernym").
        tokens: Maps of fitted tokens, or None.
        gains: Word gains of all class words, or None.
    """

    number: int
    truth: dict[str, np.ndarray]
    labels: np.ndarray
    slices: dict[str, tuple[str, ...]]
    maps: AttentionMaps
    others: tuple[tuple[str, str, str], ...] = ()
    tokens: AttentionMaps | None = field(default=None, repr=False)
    gains: WordGains | None = field(default=None, repr=False)

    @property
    def counted(self) -> np.ndarray:
        """Pixels whose class is known, (height, width) bool."""
        return np.ascontiguousarray(self.labels != IGNORE)


def cases(
    pipe: Any,
    split: Split,
    count: int,
    *,
    least: int = 1,
    tokens: TokenSet | None = None,
    others: bool = False,
    gains_dir: Path | None = None,
) -> Iterator[Case]:
    """Encode the first `count` scenes of a split that show at least `least` classes, and ask for all class words.

    Args:
        pipe: The model.
        split: Of the scenes.
        count: Number of scenes.
        least: As above.
        tokens: Fitted tokens to ask for as well.
        others: Whether synonyms and hypernyms of the classes that are there are asked too.
        gains_dir: Where word gains are kept; None measures none.
    """
    split_names = {name for name in CLASSES if len(pipe.tokenizer.tokenize(name)) > 1} if others else set()
    for number, scene in enumerate(track(scenes_of(split, count, least=least), f"{split} scenes", count)):
        trace = encode(pipe, scene.image, seed=number, self_attention=True)
        names = sorted({thing.name for thing in scene.objects})
        truth = {name: mask for name in names if (mask := scene.mask(name)).sum() >= SMALLEST}
        labels = np.zeros(scene.image.shape[:2], dtype=np.int64)
        for name in names:
            labels[scene.mask(name)] = LABELS[name]
        words = other_words(names, truth) if others else ()
        of = {name: (*_slices(scene, name), *_split(name, split_names, others)) for name in truth}
        gains = None
        if gains_dir is not None:
            gains = gains_of(
                pipe, scene.image, CLASSES, seed=number, name=f"{split}-{least}-{number}", work_dir=gains_dir
            )
        yield Case(number, truth, labels, of, *_maps(trace, words, tokens), gains)


def generated(pipe: Any, name: str, count: int, images_dir: Path, *, tokens: TokenSet | None = None) -> Iterator[Case]:
    """Generate pictures again with their queries kept, and ask for all class words; both oracles are the truth.

    Args:
        pipe: The model.
        name: A set of `lab.pseudo_masks.examples`.
        count: Number of pictures; those that are missing are made.
        images_dir: Where they lie.
        tokens: Fitted tokens to ask for as well.
    """
    for number, example in enumerate(World(images_dir).examples(pipe, name, count)):
        labels = example.labels.astype(np.int64)
        truth = {each: labels == LABELS[each] for each in example.classes}
        if truth:
            trace = example.traced({"self_attention": True})
            slice_of = ALONE if len(truth) == 1 else TOGETHER
            yield Case(number, truth, labels, dict.fromkeys(truth, (slice_of,)), *_maps(trace, (), tokens))


def _maps(
    trace: Trace, others: tuple[tuple[str, str, str], ...], tokens: TokenSet | None
) -> tuple[AttentionMaps, tuple[tuple[str, str, str], ...], AttentionMaps | None]:
    """Return maps of class words and other words, the latter as given, and maps of the tokens."""
    words = dict.fromkeys([*CLASSES, *(word for word, *_ in others)])
    return trace.maps(list(words)), others, None if tokens is None else trace.maps(tokens)


def other_words(names: Sequence[str], truth: dict[str, np.ndarray]) -> tuple[tuple[str, str, str], ...]:
    """Return the synonym of each class that is to be seen, and its hypernym unless that fits another class there."""
    found = []
    for name in truth:
        if len(CLASS_WORDS[name]) > 1:
            found.append((CLASS_WORDS[name][-1], name, "synonym"))
        if name in KIND_OF and sum(KIND_OF.get(other) == KIND_OF[name] for other in names) == 1:
            found.append((KIND_OF[name], name, "hypernym"))
    return tuple(found)


def _split(name: str, split_names: set[str], known: bool) -> tuple[str, ...]:
    return (("split word" if name in split_names else "single word"),) if known else ()


def _slices(scene: Scene, name: str) -> tuple[str, ...]:
    return tuple(sorted({each for thing in scene.objects if thing.name == name for each in slices(scene, thing)}))
