"""Choose the classes of a scene and its ground, which is often the usual ground of the first class."""

import numpy as np

from ovam.mini.scenes.difficulty import Difficulty
from ovam.mini.scenes.splits import HELD_OUT, Split, may_meet
from ovam.mini.scenes.vocabulary import CLASSES, GROUNDS

HOME: dict[str, tuple[str, float]] = {
    "aeroplane": ("sky", 0.955),
    "bicycle": ("road", 0.5),
    "bird": ("sky", 0.5),
    "boat": ("water", 0.955),
    "bottle": ("floor", 0.5),
    "bus": ("road", 0.955),
    "car": ("road", 0.955),
    "cat": ("floor", 0.5),
    "chair": ("floor", 0.5),
    "cow": ("grass", 0.955),
    "dining table": ("floor", 0.955),
    "dog": ("sand", 0.5),
    "horse": ("grass", 0.5),
    "motorbike": ("road", 0.5),
    "person": ("snow", 0.4),
    "potted plant": ("floor", 0.5),
    "sheep": ("grass", 0.955),
    "sofa": ("floor", 0.955),
    "train": ("rails", 0.955),
    "tv monitor": ("floor", 0.955),
}
"""Where each class is usually met, and the share of its training scenes that keep to it."""

STRICT = 0.9
_FREQUENT = (
    *("person", "car", "chair", "dog", "cat", "bird", "bottle", "bicycle", "horse", "boat"),
    *("aeroplane", "motorbike", "potted plant", "cow", "sofa", "dining table", "bus", "train", "tv monitor", "sheep"),
)
_SHARES = np.geomspace(3, 1, len(_FREQUENT))
FREQUENCIES = {name: float(share / _SHARES.sum()) for name, share in zip(_FREQUENT, _SHARES, strict=True)}
"""How often training draws each class: the most frequent one three times as often as the rarest."""

_STRAY_SHARE = 0.035  # further things that do not belong on the ground
_TWIN_SHARE = 0.12  # two of one class, told apart by their colours
TWINS = ("bus", "car", "chair", "sofa", "boat", "bicycle", "bottle", "train")


def choose_company(
    rng: np.random.Generator, split: Split, difficulty: Difficulty, count: int | None = None
) -> tuple[list[str], str]:
    """Return the names of a scene's things, with a class twice for twins, and the name of its ground.

    Args:
        rng: Source of every choice.
        split: In "train", frequent classes are drawn more often, and things keep to their usual ground as often as
            `HOME` says. In other splits all classes are equally frequent.
        difficulty: Number of things, and how often other splits show unusual grounds and new pairs of classes.
        count: Number of things; None draws it at random.
    """
    drawn = int(rng.choice((1, 2, 3), p=difficulty.counts))
    count = drawn if count is None else count
    names = [_first(rng, split)]
    home, kept = HOME[names[0]]
    keeps = rng.random() < (kept if split == "train" else 1 - difficulty.astray)
    ground = home if keeps else str(rng.choice([other for other in GROUNDS if other not in (home, "wall", "sky")]))
    if count > 1 and names[0] in TWINS and rng.random() < _TWIN_SHARE:
        names.append(names[0])
    if count > 1 and len(names) == 1 and split != "train" and rng.random() < difficulty.new_pair:
        names += _new_partner(rng, names[0], split)
    while len(names) < count:
        names.append(_another(rng, split, names, ground))
    return names, ground


def _first(rng: np.random.Generator, split: Split) -> str:
    if split != "train":
        return str(rng.choice(CLASSES))
    return str(rng.choice(list(FREQUENCIES), p=list(FREQUENCIES.values())))


def _new_partner(rng: np.random.Generator, name: str, split: Split) -> list[str]:
    pairs = HELD_OUT.get("test" if split == "hard" else split, frozenset())
    partners = sorted(other for pair in pairs if name in pair for other in pair - {name})
    return [str(rng.choice(partners))] if partners else []


def _another(rng: np.random.Generator, split: Split, present: list[str], ground: str) -> str:
    """A class that may meet all that are present; in training mostly one that is at home on the ground or anywhere."""
    allowed = [
        name for name in CLASSES if name not in present and all(may_meet(name, other, split) for other in present)
    ]
    if split == "train" and rng.random() >= _STRAY_SHARE:
        allowed = [name for name in allowed if HOME[name][0] == ground or HOME[name][1] < STRICT] or allowed
    if split != "train":
        return str(rng.choice(allowed))
    shares = np.array([FREQUENCIES[name] for name in allowed])
    return str(rng.choice(allowed, p=shares / shares.sum()))
