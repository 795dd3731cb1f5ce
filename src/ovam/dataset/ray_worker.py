"""A worker of a Ray job: a process with a model that makes units. Nothing here needs Ray itself."""

import os
import platform
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovam import __version__
from ovam.dataset.item import read_item
from ovam.dataset.manifest import failed_line
from ovam.dataset.model import Facts, Model, load_model
from ovam.dataset.names import ITEMS, stem_of
from ovam.dataset.prompts import prompts_of
from ovam.dataset.recipe import Recipe, kept_recipe
from ovam.dataset.store import Store, store_in
from ovam.dataset.units import Unit, unit_of
from ovam.dataset.words import vocabulary_of
from ovam.dataset.work import Run, make_units
from ovam.defaults import CHOSEN_HASH
from ovam.errors import DatasetError, OvamError
from ovam.malloc import keep_freed_memory
from ovam.progress import no_progress

DONE, FAILED, ENDED = "done", "failed", "ended"
"""What becomes of an item; the last one tells that the worker can't go on at all."""

MOST_BEGUN = 5
"""How often a block is begun whose worker was killed each time: what always kills its worker is no accident."""


@dataclass(frozen=True)
class Job:
    """What all workers of a job know.

    Attributes:
        folder: The data set, begun already, on a disk that all workers see.
        room: Folder for notes of the job, on the same disk.
        device: Device of the model.
        threads: Threads that torch uses. It is the same in all workers, because sums are rounded differently with
            another number of threads.
        model: Hash of the weights that the data set was begun with.
        defaults: Hash of the defaults that its masks are made with.
        tried: How often items had failed before.
    """

    folder: str
    room: str
    device: str
    threads: int
    model: str
    defaults: str
    tried: Mapping[int, int]


def facts_of(recipe: Recipe, device: str, threads: int) -> Facts:
    """Load a recipe's model, and return what a data set must know of it.

    Raises:
        The errors of `load_model`.
    """
    torch.set_num_threads(threads)
    model = load_model(recipe, device=device, progress=no_progress)
    model.check_prompts(prompts_of(recipe))
    return model.facts()


class UnitMaker:
    """Makes the units of a block: what Ray calls in each worker. The model is loaded with the first block.

    A block may come twice, after a worker was killed; what is there already is not made again.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._own = f"{platform.node()}:{os.getpid()}"
        self._manifest = f"manifest-{os.getpid()}-{secrets.token_hex(8)}.jsonl"  # nobody else ever appends to it
        self._ready: tuple[Run, Model] | None = None

    def __call__(self, block: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Make units.

        Args:
            block: `unit`, their numbers.

        Returns:
            Columns with an entry for each item of these units: `index`, `status`, `error`, `worker`.
        """
        numbers = [int(number) for number in block["unit"]]
        try:
            return self._made(numbers)
        except Exception as error:  # as an exception it would be lost among Ray's own
            message = str(error) if isinstance(error, OvamError) else f"{type(error).__name__}: {error}"
            return {"index": [-1], "status": [ENDED], "error": [message], "worker": [self._own]}

    def _made(self, numbers: list[int]) -> dict[str, Any]:
        run, model = self._loaded()
        folder = Path(self._job.folder)
        units = [self._unit(run.recipe, number, folder) for number in numbers]
        run.failures.clear()
        todo = [unit for unit in units if unit.missing]
        with store_in(folder, self._manifest) as store:
            if self._begun(numbers[0]) > MOST_BEGUN:
                give_up(run, todo, store)
            else:
                make_units(run, todo, model, store, lambda done, steps: None)
        indices = [index for unit in units for index in unit.indices]
        made = {index for unit in todo for index in unit.missing} - set(run.failures)
        return {
            "index": indices,
            "status": [FAILED if index in run.failures else DONE for index in indices],
            "error": [run.failures.get(index, "") for index in indices],
            "worker": [self._own if index in made else "" for index in indices],
        }

    def _begun(self, block: int) -> int:
        """Note that a block is begun; return how often it was."""
        note = Path(self._job.room) / f"{block}.begun"
        with note.open("ab") as file:
            file.write(b".")
        return note.stat().st_size

    def _unit(self, recipe: Recipe, number: int, folder: Path) -> Unit:
        unit = unit_of(number, recipe.data.number, recipe.model.batch)
        return Unit(number, unit.indices, tuple(index for index in unit.indices if not _is_there(folder, index)))

    def _loaded(self) -> tuple[Run, Model]:
        if self._ready is None:
            torch.set_num_threads(self._job.threads)
            keep_freed_memory()
            if self._job.defaults != CHOSEN_HASH:
                raise DatasetError(
                    f"ovam {__version__} of {self._own} has the defaults {CHOSEN_HASH} of refinement and CRF, and the "
                    f"data set is made with {self._job.defaults}: expected the same version of ovam on all machines"
                )
            recipe = kept_recipe(Path(self._job.folder))
            model = load_model(recipe, device=self._job.device, progress=no_progress)
            if model.hash != self._job.model:
                raise DatasetError(
                    f"the model {model.name!r} of {self._own} has weights {model.hash}, and the data set was begun "
                    f"with {self._job.model}: expected the same weights on all machines"
                )
            run = Run(recipe, prompts_of(recipe), vocabulary_of(recipe), tried=self._job.tried)
            self._ready = (run, model)
        return self._ready


def _is_there(folder: Path, index: int) -> bool:
    name = f"{stem_of(index)}.json"
    return (folder / ITEMS / name).is_file() and read_item(folder, name).whole


def give_up(run: Run, units: Sequence[Unit], store: Store) -> None:
    """Record that units were begun too often."""
    error = DatasetError(
        f"its worker was killed {MOST_BEGUN} times while it, or a neighbour, was made: expected workers with enough "
        "memory; make batch smaller, or give fewer workers"
    )
    for unit in units:
        for index in unit.missing:
            run.failures[index] = str(error)
            store.line(failed_line(index, unit.number, run.tried.get(index, 0) + 1, error))
