"""Captions of scenes: they name nearly all that is there, with synonyms, kinds, colours and parts."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ovam.mini.scenes.vocabulary import CLASS_WORDS, GROUND_WORDS, KIND_OF

OPENINGS = ("a photograph of ", "a photo of ", "a picture of ", "an image of ", "")
SYNONYM_SHARE, KIND_SHARE, COLOUR_SHARE, PART_SHARE = 0.2, 0.03, 0.4, 0.15
OMITTED_SHARE = 0.05
GROUND_SHARE, BACKDROP_SHARE = 0.85, 0.5
_PART_PHRASES = {
    "head": "with a big head",
    "legs": "with legs",
    "tail": "with a tail",
    "horns": "with horns",
    "wheel": "with wheels",
    "window": "with windows",
    "hat": "with a hat",
    "pot": "in a pot",
}


@runtime_checkable
class Named(Protocol):
    """What a caption needs to know of a thing."""

    @property
    def name(self) -> str: ...
    @property
    def colour(self) -> str | None: ...
    @property
    def close(self) -> bool: ...
    @property
    def parts(self) -> Sequence[str]: ...


def with_article(words: str) -> str:
    """'aeroplane' -> 'an aeroplane', 'red car' -> 'a red car'."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(
    rng: np.random.Generator,
    things: Sequence[Named],
    ground: str,
    backdrop: str | None,
    distractors: Sequence[str] = (),
) -> str:
    """Write one caption of a scene, in lower case.

    Things come in random order: a caption must not tell where a thing is by the order of its words.

    Args:
        rng: Source of every choice.
        things: Things of the scene, at least one.
        ground: Name of the ground the things stand on.
        backdrop: What is above the horizon, or None.
        distractors: Names of things that belong to no class, to be named too; the denoiser's captions name none of
            them.
    """
    named = [things[i] for i in rng.permutation(len(things))]
    if len(named) > 1 and rng.random() < OMITTED_SHARE:
        named = named[:-1]
    with_parts = [i for i, thing in enumerate(named) if thing.parts]
    detailed = int(rng.choice(with_parts)) if with_parts and rng.random() < PART_SHARE else None
    twins = len({thing.name for thing in things}) < len(things)
    phrases = [_phrase(rng, thing, detailed=i == detailed, coloured=twins) for i, thing in enumerate(named)]
    phrases += [with_article(name) for name in distractors]
    text = OPENINGS[int(rng.integers(len(OPENINGS)))] + _listed(phrases, rng)
    if rng.random() < GROUND_SHARE:
        text += f" {'in' if ground == 'sky' else 'on'} the {_pick(GROUND_WORDS[ground], rng)}"
    if backdrop is not None and rng.random() < BACKDROP_SHARE:
        place = "under" if backdrop == "sky" else "in front of"
        text += f" {place} the {_pick(GROUND_WORDS[backdrop], rng)}"
    return text


def _phrase(rng: np.random.Generator, thing: Named, *, detailed: bool, coloured: bool) -> str:
    kind = KIND_OF.get(thing.name)
    word = kind if kind is not None and rng.random() < KIND_SHARE else _pick(CLASS_WORDS[thing.name], rng)
    if thing.colour is not None and rng.random() < (0.9 if coloured else COLOUR_SHARE):
        word = f"{thing.colour} {word}"
    if detailed and thing.close:
        return f"the head of {with_article(word)}"
    parts = [part for part in thing.parts if part in _PART_PHRASES]
    if detailed and parts:
        return f"{with_article(word)} {_PART_PHRASES[parts[int(rng.integers(len(parts)))]]}"
    return with_article(word)


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    """The own name, or with a fixed chance one of the synonyms."""
    if len(words) > 1 and rng.random() < SYNONYM_SHARE:
        return words[int(rng.integers(1, len(words)))]
    return words[0]


def _listed(phrases: list[str], rng: np.random.Generator) -> str:
    if len(phrases) == 1:
        return phrases[0]
    joint = " next to " if len(phrases) == 2 and rng.random() < 0.25 else " and "
    return ", ".join(phrases[:-1]) + joint + phrases[-1]
