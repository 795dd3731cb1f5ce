"""Which seeds, looks and pairs of classes belong to training, validation, test and judging."""

from typing import Literal, get_args

import numpy as np

from ovam.errors import SplitError
from ovam.mini.scenes import domain_b
from ovam.mini.scenes.domain_b import FLUENT

WORLD = 3
"""Version of the world: another number where a seed gives another picture, other labels or another caption."""

Split = Literal["train", "validation", "test", "hard", "domain b", "judging"]
SEEDS: dict[Split, range] = {
    "train": range(10**8),
    "validation": range(10**8, 2 * 10**8),
    "test": range(2 * 10**8, 3 * 10**8),
    "domain b": range(3 * 10**8, 4 * 10**8),
    "judging": range(4 * 10**8, 5 * 10**8),
    "hard": range(5 * 10**8, 6 * 10**8),
}
"""Seeds of each split. The oracles, who judge as a person would, learn from "judging": scenes of its own, with the
looks and pairs of all splits but domain B. Nothing that is judged may see it. "hard" is test once more, with crowds,
camouflage, small and covered things, and new looks and grounds as often as known ones."""

DRAWN: dict[Split, tuple[int, ...]] = {
    "train": (0,),
    "validation": (2,),
    "test": (3, 4),
    "hard": (),
    "domain b": (),
    "judging": (),
}
"""Styles of the drawn looks of every class. Style 1 is in none: seen from near it is too much like style 0."""

EMOJI: dict[str, dict[Split, tuple[str, ...]]] = {
    "aeroplane": {"train": ("✈️",), "validation": ("🛫",), "test": ("🛩️",)},
    "bicycle": {"train": ("🚲",)},
    "bird": {"train": ("🐦",), "validation": ("🦆", "🦜"), "test": ("🦅", "🦉")},
    "boat": {"train": ("⛵",), "validation": ("🚤", "🛥️"), "test": ("🚢", "⛴️")},
    "bottle": {"train": ("🍾",), "validation": ("🧴",), "test": ("🍼",)},
    "bus": {"train": ("🚌",), "validation": ("🚎",), "test": ("🚍",)},
    "car": {"train": ("🚗",), "validation": ("🚕", "🚙"), "test": ("🚓", "🏎️")},
    "cat": {"train": ("🐈",), "validation": ("🐱", "🐈‍⬛"), "test": ("😺",)},
    "chair": {"train": ("🪑",), "test": ("💺",)},
    "cow": {"train": ("🐄",), "validation": ("🐮", "🐃"), "test": ("🐂",)},
    "dog": {"train": ("🐕",), "validation": ("🐶", "🦮"), "test": ("🐩", "🐕‍🦺")},
    "horse": {"train": ("🐎",), "validation": ("🐴", "🎠")},
    "motorbike": {"train": ("🏍️",), "test": ("🛵",)},
    "person": {"train": ("🧍",), "validation": ("🚶", "💃", "🧍‍♀️"), "test": ("🏃", "🕺")},
    "potted plant": {"train": ("🪴",)},
    "sheep": {"train": ("🐑",), "test": ("🐏",)},
    "sofa": {"train": ("🛋️",)},
    "train": {"train": ("🚆",), "validation": ("🚂", "🚃"), "test": ("🚄", "🚋")},
    "tv monitor": {"train": ("📺",), "test": ("🖥️",)},
}
"""Emoji of each class; a dining table has none."""

HEADS = frozenset("🐱🐮🐶🐴😺") | domain_b.HEADS
"""Emoji that show a head and nothing else."""

Look = int | str
"""How one thing of a class looks: the number of a drawn style, or an emoji."""

_HELD_OUT: dict[Split, tuple[tuple[str, str], ...]] = {
    "validation": (("bird", "dog"), ("chair", "tv monitor"), ("bus", "motorbike"), ("cow", "person")),
    "test": (
        *(("cat", "sofa"), ("dog", "horse"), ("bicycle", "car"), ("cow", "sheep"), ("bottle", "dining table")),
        *(("person", "train"), ("bird", "boat"), ("bus", "person"), ("chair", "potted plant"), ("aeroplane", "bird")),
    ),
}
HELD_OUT: dict[Split, frozenset[frozenset[str]]] = {
    split: frozenset(frozenset(pair) for pair in pairs) for split, pairs in _HELD_OUT.items()
}
"""Pairs of classes that are seen together in this split alone."""


def seed_of(split: Split, index: int) -> int:
    """Return the seed of scene `index` of a split.

    Raises:
        SplitError: the split is unknown, or the index lies outside it, so that its seed would be another split's.
    """
    _check_name(split)
    if not 0 <= index < len(SEEDS[split]):
        raise SplitError(f"scene {index} of split {split!r}: expected a number from 0 to {len(SEEDS[split]) - 1}")
    return SEEDS[split][index]


def _check_name(split: str) -> None:
    if split not in get_args(Split):
        raise SplitError(f"split {split!r} is unknown: expected one of {', '.join(SEEDS)}")


def split_of(seed: int) -> Split:
    """Return the split that a seed belongs to.

    Raises:
        SplitError: the seed belongs to none.
    """
    for split, seeds in SEEDS.items():
        if seed in seeds:
            return split
    raise SplitError(f"seed {seed} belongs to no split: expected one from 0 to {6 * 10**8 - 1}")


def check_split(seed: int, split: Split) -> None:
    """Check that a scene belongs to the expected split, so that training can't use a test scene.

    Raises:
        SplitError: the seed belongs to another split than `split`.
    """
    _check_name(split)
    if split_of(seed) != split:
        raise SplitError(
            f"seed {seed} belongs to split {split_of(seed)!r}, and a scene of {split!r} was expected: "
            f"take seeds from seed_of({split!r}, index)"
        )


def looks(name: str, split: Split) -> tuple[Look, ...]:
    """Return the looks of a class that belong to a split; other splits than training show those of training as well.

    "hard" has those of "test". "judging" has no looks of its own: it shows those of validation and test. The dining
    table of domain B has those of "test".
    """
    if split == "hard":
        return looks(name, "test")
    if split == "domain b":
        return FLUENT.get(name, DRAWN["test"])
    if split == "judging":
        return (*looks(name, "validation"), *looks(name, "test"))
    return (*DRAWN[split], *EMOJI.get(name, {}).get(split, ()))


def choose_look(rng: np.random.Generator, name: str, split: Split, novel_share: float) -> tuple[Look, bool]:
    """Choose a look of a class; return it, and whether it is novel, which means that training never shows it.

    Training has no novel looks, domain B has only novel ones; in the other splits `novel_share` of them are novel.
    """
    novel = split == "domain b" or (split != "train" and bool(rng.random() < novel_share))
    choices = looks(name, split if novel else "train")
    return choices[int(rng.integers(len(choices)))], novel


def may_meet(first: str, second: str, split: Split) -> bool:
    """Return whether two classes may be in one scene of a split; in "judging" any two may."""
    if split == "judging":
        return True
    pair = frozenset((first, second))
    split = "test" if split == "hard" else split
    return all(pair not in pairs or split == owner for owner, pairs in HELD_OUT.items())
