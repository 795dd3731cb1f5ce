"""Generate a data set, unit by unit; a run that was stopped goes on where it was."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.dataset.annotate import annotated
from ovam.dataset.finish import finish
from ovam.dataset.folder import begin, check_recipe, look, refreshed
from ovam.dataset.manifest import MANIFEST, Shard, attempts, failed_line, lines_in
from ovam.dataset.model import Model, load_model
from ovam.dataset.prompts import Asked, Prompts, prompts_of
from ovam.dataset.recipe import Recipe
from ovam.dataset.store import Store, UnwritableError, store_in
from ovam.dataset.units import Unit, units_of
from ovam.dataset.words import Vocabulary, vocabulary_of
from ovam.errors import DatasetError, OvamError
from ovam.output_folders import check_folder
from ovam.progress import Progress, no_progress, pace
from ovam.text_sides import text_of
from ovam.trace.trace import Trace
from ovam.tracing.plan import native_side

_MOST_IN_A_ROW = 3
"""Units that may fail one after another before the run ends: what fails always is no accident."""


@dataclass(eq=False)
class Run:
    """A run while it goes on.

    Attributes:
        recipe: The recipe.
        prompts: Its items.
        vocabulary: Words and tokens.
        shard: Which units are made.
        made: Number of items that were made.
        failures: Error of each item that failed, by its number.
        in_a_row: Units that failed one after another.
        tried: How often items had failed before this run.
    """

    recipe: Recipe
    prompts: Prompts
    vocabulary: Vocabulary
    shard: Shard
    made: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    in_a_row: int = 0
    tried: Mapping[int, int] = field(default_factory=dict)


def generate(
    recipe: Recipe,
    output_dir: str | Path,
    *,
    pipe: Any = None,
    device: str | torch.device = "cpu",
    shard: Shard | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Generate the images and masks of a recipe, as far as they are not there.

    An item's files appear whole or not at all. Items that fail are recorded and tried once more in the end, and again
    by the next run. When all items were tried, `metadata.jsonl`, the card and the contact sheet are written.

    Args:
        recipe: What to make.
        output_dir: A new folder, or that of an earlier run of the same recipe.
        pipe: Pipeline to use instead of loading the recipe's model.
        device: Device of the model, if it is loaded here.
        shard: Which units to make; all by default.
        progress: Called after each denoising step.

    Returns:
        Numbers of items that were made, skipped and failed, and the folder.

    Raises:
        RecipeError: the recipe can't be used.
        DatasetError: the folder belongs to another recipe or model; files can't be written; or several units failed
            one after another.
        The errors of loading a model.
    """
    begun, shard = time.monotonic(), shard or Shard()
    folder = check_folder(output_dir)
    check_recipe(folder, recipe)
    run = Run(recipe, prompts_of(recipe), vocabulary_of(recipe), shard)
    there = look(folder, shard)
    run.tried = attempts(lines_in(folder))
    every = units_of(recipe.data.number, recipe.model.batch, there.units)
    units = [unit for unit in every if shard.has(unit.number)]
    if units:
        model = load_model(recipe, pipe=pipe, device=device, progress=progress)
        run.vocabulary.check(text_of(model.pipe).space)
        about = begin(folder, recipe, model, _size(model), run.vocabulary.hashes())
        with store_in(folder, shard.manifest) as store:
            _all_units(run, units, model, store, begun, progress)
    else:
        about = refreshed(folder, recipe)
    progress("writing the card", 0, 0)
    done = finish(folder, recipe, about)
    mine = len([index for index in there.units if shard.has(index // recipe.model.batch)])
    return {
        "command": "dataset generate",
        "version": __version__,
        "output_dir": str(folder),
        "items": run.made + len(run.failures) + mine,
        "made": run.made,
        "skipped": mine,
        "failed": len(run.failures),
        "failures": [{"source": f"item {i}", "error": run.failures[i]} for i in sorted(run.failures)],
        "complete": done,
        "results": MANIFEST if done else shard.manifest,
        "seconds": round(time.monotonic() - begun, 2),
    }


def _size(model: Model) -> tuple[int, int]:
    native, options = native_side(model.pipe) * model.pipe.vae_scale_factor, model.recipe.model
    return options.height or native, options.width or native


def _all_units(run: Run, units: Sequence[Unit], model: Model, store: Store, begun: float, progress: Progress) -> None:
    """Make units; those that fail are made once more in the end."""
    total = sum(len(unit.missing) for unit in units)
    _units(run, units, model, store, _Telling(progress, begun, total, run))
    again = [
        Unit(unit.number, unit.indices, missing)
        for unit in units
        if (missing := tuple(index for index in unit.missing if index in run.failures))
    ]
    if again:
        run.tried, run.in_a_row = attempts(lines_in(store.folder)), 0
        _units(run, again, model, store, _Telling(progress, begun, total, run))


@dataclass(frozen=True)
class _Telling:
    """Tells the progress of a run."""

    progress: Progress
    begun: float
    total: int
    run: Run

    def step(self, done: int, steps: int) -> None:
        """Tell that a denoising step is done."""
        speed = pace(self.run.made, self.total, time.monotonic() - self.begun, "images")
        self.progress(f"step {done}/{steps}; {speed}", self.run.made, self.total)


def _units(run: Run, units: Sequence[Unit], model: Model, store: Store, telling: _Telling) -> None:
    """Run the model on one unit after another, while the masks of the unit before are made in a second thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="masks") as masks:
        before: Future[None] | None = None
        try:
            for unit in units:
                asked = [run.prompts[index] for index in unit.indices]
                try:
                    traces = model.run(asked, telling.step)
                    run.vocabulary.prepare(traces[0].text, asked)
                except Exception as error:  # what goes wrong with one unit is no reason to leave out the others
                    _failed(run, unit, unit.missing, error, store)
                    continue
                _wait(before)
                before = masks.submit(_annotate, run, unit, asked, traces, store)
                del traces
                if not model.overlaps:
                    _wait(before)
                    before = None
        finally:
            _wait(before)  # also after Ctrl-C: what is generated is kept


def _wait(future: "Future[None] | None") -> None:
    if future is not None:
        future.result()


def _annotate(run: Run, unit: Unit, asked: Sequence[Asked], traces: Sequence[Trace], store: Store) -> None:
    """Make the masks of a unit and write its items."""
    failed = list[tuple[int, Exception]]()
    for one, trace in zip(asked, traces, strict=True):
        if one.index not in unit.missing:
            continue
        try:
            made = annotated(trace, one, run.vocabulary, run.recipe)
            assert trace.image_png is not None  # pipelines are run to a picture
            store.keep(one, unit.number, trace.image_png, made)
        except UnwritableError:
            raise
        except Exception as error:  # as above
            failed.append((one.index, error))
            continue
        run.made += 1
        run.in_a_row = 0
        run.failures.pop(one.index, None)
    for index, reason in failed:
        _failed(run, unit, (index,), reason, store, whole=len(failed) == len(unit.missing))


def _failed(
    run: Run, unit: Unit, indices: Sequence[int], error: Exception, store: Store, *, whole: bool = True
) -> None:
    """Record failures.

    Raises:
        DatasetError: several units failed one after another.
    """
    told = str(error) if isinstance(error, OvamError) else f"{type(error).__name__}: {error}"
    for index in indices:
        run.failures[index] = told
        store.line(failed_line(index, unit.number, run.tried.get(index, 0) + 1, error))
    run.in_a_row += whole and indices[-1] == unit.missing[-1]
    if run.in_a_row >= _MOST_IN_A_ROW:
        raise DatasetError(
            f"{run.in_a_row} units failed one after another, the last one with: {told}; what is done is whole, and the "
            "same command goes on with it"
        ) from error
