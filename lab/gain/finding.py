"""What one fit finds on scenes that it never saw, pixel by pixel: of its own thing, and of everything else."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lab.fits.methods import Method
from lab.fits.outcome import BORDER, Outcome, Task, pooled, row_of
from lab.fits.scenes import mask_of
from lab.fits.traces import Traces
from ovam.mini.scenes import CLASSES, LABELS, Scene
from ovam.mini.scenes.company import HOME
from ovam.mini.scenes.vocabulary import GROUNDS, PARTS, UNKNOWN_PART

KINDS = ("habitual ground", "other grounds", "other named things", "unnamed things")
"""What the pixels outside a class's mask show, each of them one of these."""

WHOLE, REST = "whole thing", "no marked part"
PART_NAMES = (WHOLE, *PARTS, REST)


@dataclass(frozen=True)
class Detail:
    """One scored scene.

    Attributes:
        seed: Of the scene.
        false: Pixels of each kind above the border.
        there: Pixels of each kind.
        parts: Of things whose parts are known: pixels of each part above the border, and all.
    """

    seed: int
    false: tuple[int, ...]
    there: tuple[int, ...]
    parts: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Finding:
    """A method's fit of one class to one draw of annotations.

    Attributes:
        outcome: As every table of fits has it; not asked elsewhere.
        details: Of the scored scenes, in the order of the outcome's rows.
    """

    outcome: Outcome
    details: tuple[Detail, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Finding":
        details = (
            Detail(
                each["seed"],
                tuple(each["false"]),
                tuple(each["there"]),
                {name: (own, every) for name, (own, every) in each["parts"].items()},
            )
            for each in found["details"]
        )
        return Finding(Outcome.from_json(found["outcome"]), tuple(details))


def find(method: Method, task: Task, traces: Traces) -> Finding:
    """Fit and count."""
    shown, masks = [traces(scene) for scene in task.annotated], [mask_of(scene, task.name) for scene in task.annotated]
    begin = time.perf_counter()
    fitted = method.fit(shown, masks, task.name)
    seconds = time.perf_counter() - begin
    own = [row_of(fitted(traces(scene)), scene, task.name) for scene in task.annotated]
    rows, details = [], []
    for scene in task.scored:
        assert isinstance(scene, Scene)  # of a generated picture it is not known what its pixels show
        scores = fitted(traces(scene))
        rows.append(row_of(scores, scene, task.name))
        details.append(detail_of(scores > BORDER, scene, task.name))
    return Finding(Outcome(tuple(rows), pooled(own), None, seconds), tuple(details))


def detail_of(found: np.ndarray, scene: Scene, name: str) -> Detail:
    """Counts of a mask (height, width) of a class on a scene."""
    shown = kinds_of(scene, name)
    false = tuple(int((shown[found] == kind).sum()) for kind in range(len(KINDS)))
    there = tuple(int((shown == kind).sum()) for kind in range(len(KINDS)))
    parts = parts_of(scene, name)
    return Detail(
        scene.seed, false, there, {part: (int((found & own).sum()), int(own.sum())) for part, own in parts.items()}
    )


def kinds_of(scene: Scene, name: str) -> np.ndarray:
    """Index into `KINDS` of every pixel, (height, width); -1 on the class itself."""
    home, _ = HOME[name]
    number_of = {0: KINDS.index("unnamed things"), LABELS[name]: -1}
    number_of |= {LABELS[ground]: KINDS.index("other grounds") for ground in GROUNDS}
    number_of |= {LABELS[other]: KINDS.index("other named things") for other in CLASSES if other != name}
    number_of[LABELS[home]] = KINDS.index("habitual ground")
    table = np.array([number_of[label] for label in range(max(number_of) + 1)])
    return table[scene.labels]


def parts_of(scene: Scene, name: str) -> dict[str, np.ndarray]:
    """Where each part of a class is in view, (height, width): of whole things whose parts are known.

    Close-ups are left out, and so are things without a marked part: they have nothing to complete.
    """
    known = np.zeros(scene.labels.shape, dtype=bool)
    for number, thing in enumerate(scene.objects, start=1):
        own = scene.instances == number
        if thing.name == name and thing.parts and not thing.close and not (scene.parts[own] == UNKNOWN_PART).any():
            known |= own
    masks = {WHOLE: known, **{part: known & (scene.parts == number) for part, number in PARTS.items()}}
    masks[REST] = known & (scene.parts == 0)
    return {part: own for part, own in masks.items() if own.any()}
