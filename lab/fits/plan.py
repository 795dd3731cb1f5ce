"""Which fits a run asks for, and making those that are still missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from rich.progress import track

from lab.fits import generated
from lab.fits.digest import code
from lab.fits.methods import Method
from lab.fits.outcome import Outcome, Task, reach
from lab.fits.scenes import FIRST, Scored, annotation_scenes, of_split, scored_with, without
from lab.fits.store import Store
from lab.fits.traces import Traces
from ovam.mini.scenes import WORLD, Scene, Split

DRAWS, SCENES, TWENTY_SCENES = 5, 200, 20

Outcomes = dict[str, dict[str, list[Outcome]]]
"""By method and class, the outcome of each draw."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        split: Of the scored scenes, or one of `generated.TRUTHS`.
        methods: The rows.
        classes: Those asked.
        draws: Number of annotation draws.
        count: Number of scored scenes, from `FIRST` on; of generated pictures all are taken.
        images_dir: Where generated pictures lie, or are made.
    """

    split: str
    methods: Sequence[Method]
    classes: Sequence[str]
    draws: int = DRAWS
    count: int = SCENES
    images_dir: Path = Path("runs/images")

    def keys(self) -> Iterator[tuple[Method, dict[str, Any]]]:
        """Every fit, with the key of its outcome, class by class."""
        for name in self.classes:
            for method in self.methods:
                for draw in range(self.draws if method.drawn else 1):
                    uses = {"draw": draw} if method.drawn else {}
                    if not method.drawn and method.taken == "one":  # asked on the annotations of all draws
                        uses = {"draws": self.draws}
                    about = {"method": method.name, "settings": dict(method.settings), "taken": method.taken}
                    yield method, {**about, "class": name, **uses}

    def basis(self, traces: Traces) -> dict[str, Any]:
        """What all outcomes depend on."""
        about = {"split": self.split, "scenes": self.count, "world": WORLD, "code": code()}
        about |= {"oracles": generated.oracle_hashes()} if self.split in generated.TRUTHS else {}
        return {"model": traces.model, "encoded": traces.encoded, **about}

    @cached_property
    def scored(self) -> list[Scored]:
        if self.split in generated.TRUTHS:
            return [*generated.pictures(self.images_dir, self.split)]
        draw, first = of_split(cast("Split", self.split)), FIRST.get(self.split, 0)
        return [draw(index) for index in range(first, first + self.count)]

    @cached_property
    def annotated(self) -> dict[str, list[Scene]]:
        twenty = any(method.taken == "twenty" for method in self.methods)
        return annotation_scenes(self.classes, max(TWENTY_SCENES, self.draws) if twenty else self.draws)

    def task(self, method: Method, key: dict[str, Any]) -> Task:
        name = key["class"]
        scenes, draw = self.annotated[name], key.get("draw")
        if method.taken == "twenty":
            return self.task_of(name, scenes[:TWENTY_SCENES])
        return self.task_of(name, scenes[: self.draws] if draw is None else [scenes[draw]])

    def task_of(self, name: str, annotated: Sequence[Scene]) -> Task:
        """A class on all scenes, with these annotations."""
        return Task(name, annotated, list(scored_with(self.scored, name)), list(without(self.scored, name)))

    def run(self, traces: Traces, store: Store) -> Outcomes:
        """All outcomes, those that are missing made; classes that no scene shows are left out."""
        wanted = list(self.keys())
        missing = [(method, key) for method, key in wanted if store.get(key) is None]
        for method, key in track(missing, "fits") if missing else ():
            store.put(key, reach(method, self.task(method, key), traces))
        found: Outcomes = {method.name: {} for method in self.methods}
        for method, key in wanted:
            outcome = store.get(key)
            if outcome is not None and outcome.rows:
                found[method.name].setdefault(key["class"], []).append(outcome)
        return found
