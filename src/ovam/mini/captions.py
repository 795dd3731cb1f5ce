"""Captions of scenes: which words stand for which class or ground, and how they are put together."""

from collections.abc import Sequence

import numpy as np

CLASS_WORDS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("aeroplane", "plane", "airplane"),
    "bicycle": ("bicycle", "bike"),
    "bird": ("bird",),
    "boat": ("boat", "ship"),
    "bottle": ("bottle",),
    "bus": ("bus",),
    "car": ("car",),
    "cat": ("cat", "kitten"),
    "chair": ("chair",),
    "cow": ("cow",),
    "dining table": ("dining table", "table"),
    "dog": ("dog", "puppy"),
    "horse": ("horse", "pony"),
    "motorbike": ("motorbike", "motorcycle"),
    "person": ("person",),
    "potted plant": ("potted plant", "plant"),
    "sheep": ("sheep", "lamb"),
    "sofa": ("sofa", "couch"),
    "train": ("train",),
    "tv monitor": ("tv monitor", "television"),
}
GROUND_WORDS: dict[str, tuple[str, ...]] = {
    "grass": ("grass", "lawn"),
    "sand": ("sand", "beach"),
    "water": ("water", "sea"),
    "snow": ("snow",),
    "road": ("road", "street"),
    "floor": ("floor",),
    "sky": ("sky",),
    "wall": ("wall",),
}
OPENINGS = ("a photograph of ", "a photo of ", "a picture of ", "an image of ", "")
_SYNONYM_SHARE = 0.25
_OMITTED_OBJECT_SHARE = 0.10
_GROUND_SHARE = 0.75
_BACKDROP_SHARE = 0.6


def with_article(word: str) -> str:
    """'aeroplane' -> 'an aeroplane', 'dog' -> 'a dog'."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    """The class's own name, or with a fixed chance one of its synonyms."""
    if len(words) > 1 and rng.random() < _SYNONYM_SHARE:
        return words[int(rng.integers(1, len(words)))]
    return words[0]


def _listed(phrases: list[str], rng: np.random.Generator) -> str:
    if len(phrases) == 1:
        return phrases[0]
    joint = " next to " if len(phrases) == 2 and rng.random() < 0.25 else " and "
    return ", ".join(phrases[:-1]) + joint + phrases[-1]


def caption(rng: np.random.Generator, objects: Sequence[str], ground: str, backdrop: str | None) -> str:
    """One caption of a scene, in lower case.

    Objects come in random order: a caption must not tell where a thing is by the order of its words.
    Now and then an object is left out, as people do, so that the model sees things without a name.

    Args:
        rng: Source of every choice.
        objects: Class names, at least one.
        ground: Name of the ground the objects stand on.
        backdrop: What is above the horizon, or None where the ground fills the picture.
    """
    names = [objects[i] for i in rng.permutation(len(objects))]
    if len(names) > 1 and rng.random() < _OMITTED_OBJECT_SHARE:
        names = names[:-1]
    text = OPENINGS[int(rng.integers(len(OPENINGS)))]
    text += _listed([with_article(_pick(CLASS_WORDS[name], rng)) for name in names], rng)
    if rng.random() < _GROUND_SHARE:
        text += f" on the {_pick(GROUND_WORDS[ground], rng)}"
    if backdrop is not None and rng.random() < _BACKDROP_SHARE:
        place = "under" if backdrop == "sky" else "in front of"
        text += f" {place} the {_pick(GROUND_WORDS[backdrop], rng)}"
    return text
