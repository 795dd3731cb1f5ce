"""How hard a scene is: number of things, camouflage, small things, new looks, unusual grounds."""

from dataclasses import dataclass, replace

from ovam.mini.scenes.splits import Split


@dataclass(frozen=True)
class Difficulty:
    """Shares and sizes that a scene is drawn with.

    Attributes:
        counts: Chance of one, two and three named things.
        sides: Longer side of a thing by the number of things, as a share of the picture's side: least and most.
        small: Chance that a thing is far smaller.
        toys: Least and most things of no class.
        covering: Chance that such a thing stands in front of the named ones.
        camouflage: Chance of patches on the ground in the colours of the named things.
        astray: Chance that the first thing stands on another ground than in most training scenes; not used in training.
        novel: Chance of a look that training never shows; not used in training.
        new_pair: Chance of a pair of classes that training never shows; not used in training.
    """

    counts: tuple[float, float, float]
    sides: dict[int, tuple[float, float]]
    small: float
    toys: tuple[int, int]
    covering: float
    camouflage: float
    astray: float
    novel: float
    new_pair: float


CALM = Difficulty(
    counts=(0.36, 0.42, 0.22),
    sides={1: (0.52, 0.94), 2: (0.40, 0.72), 3: (0.33, 0.54)},
    small=0.05,
    toys=(0, 2),
    covering=0.2,
    camouflage=0.1,
    astray=0.2,
    novel=0.2,
    new_pair=0.2,
)
TRAINING = replace(CALM, counts=(0.5, 0.36, 0.14), toys=(0, 1))
HARD = Difficulty(
    counts=(0.38, 0.40, 0.22),
    sides={1: (0.45, 0.92), 2: (0.36, 0.70), 3: (0.30, 0.54)},
    small=0.15,
    toys=(3, 8),
    covering=0.4,
    camouflage=0.45,
    astray=0.5,
    novel=0.5,
    new_pair=0.35,
)


def difficulty_of(split: Split, seed: int) -> Difficulty:
    """Return the difficulty of a scene. In "judging", which trains the oracles, every second scene is hard."""
    if split == "train":
        return TRAINING
    hard = split == "hard" or (split == "judging" and seed % 2 == 1)
    return HARD if hard else CALM
