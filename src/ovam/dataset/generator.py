"""Generate a data set, unit by unit; a run that was stopped continues where it was."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovam import __version__
from ovam.dataset.about import About
from ovam.dataset.finish import finish
from ovam.dataset.folder import begin, check_defaults, check_recipe, look, refreshed
from ovam.dataset.manifest import MANIFEST, Shard, attempts, lines_in
from ovam.dataset.model import Model, load_model
from ovam.dataset.names import ABOUT
from ovam.dataset.prompts import prompts_of
from ovam.dataset.ray_options import RayOptions
from ovam.dataset.recipe import Recipe
from ovam.dataset.store import Store, store_in
from ovam.dataset.units import Unit, still_missing, units_of
from ovam.dataset.words import vocabulary_of
from ovam.dataset.work import Run, make_units
from ovam.errors import OptionError
from ovam.output_folders import check_folder
from ovam.progress import Progress, no_progress, pace


def generate(
    recipe: Recipe,
    output_dir: str | Path,
    *,
    pipe: Any = None,
    device: str | torch.device = "cpu",
    shard: Shard | None = None,
    ray: RayOptions | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Generate those images and masks of a recipe that are missing.

    An item's files appear whole or not at all. Items that fail are recorded and tried once more in the end, and again
    by the next run. When all items were tried, `metadata.jsonl`, the card and the contact sheet are written.

    Args:
        recipe: What to make.
        output_dir: A new folder, or that of an earlier run of the same recipe.
        pipe: Pipeline to use instead of loading the recipe's model.
        device: Device of the model, if it is loaded here.
        shard: Which units to make; all by default.
        ray: Share the units out among workers of a Ray cluster; by default this process makes them all. The files
            have the same bytes.
        progress: Called after each denoising step; with Ray, for each group of units that is done.

    Returns:
        Numbers of items that were made, skipped and failed, and the folder; with Ray `workers`, the number of items
        that each process made.

    Raises:
        RecipeError: the recipe can't be used.
        DatasetError: the folder belongs to another recipe or model, or was begun with other defaults; files can't be
            written; or several units failed one after another.
        MissingPackageError: Ray was asked for and is not installed.
        OptionError: with Ray: there are too few GPUs, or a pipeline or a shard is given as well.
        The errors of loading a model.
    """
    begun, shard = time.monotonic(), shard or Shard()
    if ray is not None and (pipe is not None or shard.count > 1):
        what = "a pipeline" if pipe is not None else "a shard"
        raise OptionError(
            f"{what} was given together with Ray, whose workers load the model and share the units: expected one of "
            "the two; leave the other out"
        )
    folder = check_folder(output_dir)
    check_recipe(folder, recipe)
    run = Run(recipe, prompts_of(recipe), vocabulary_of(recipe))
    there = look(folder, shard)
    every = units_of(recipe.data.number, recipe.model.batch, there.units)
    units = [unit for unit in every if shard.has(unit.number)]
    workers: dict[str, Any] = {}
    if units:
        check_defaults(folder)
    about: About | None
    if not units:  # all is there, or a shard has nothing to do
        about = refreshed(folder, recipe) if (folder / ABOUT).is_file() else None
    elif ray is None:
        about = _here(run, folder, shard, units, pipe, device, progress)
    else:
        from ovam.dataset.ray_engine import generate_with_ray

        about, made_by = generate_with_ray(run, folder, units, ray, device=device, progress=progress)
        workers = {"workers": made_by}
    progress("writing the card", 0, 0)
    done = about is not None and finish(folder, recipe, about)
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
        **workers,
        "seconds": round(time.monotonic() - begun, 2),
    }


def _here(
    run: Run,
    folder: Path,
    shard: Shard,
    units: Sequence[Unit],
    pipe: Any,
    device: str | torch.device,
    progress: Progress,
) -> About:
    """Make the units in this process."""
    begun = time.monotonic()
    model = load_model(run.recipe, pipe=pipe, device=device, progress=progress)
    model.check_prompts(run.prompts)
    facts = model.facts()
    run.vocabulary.check(facts.space)
    about = begin(folder, run.recipe, facts, run.vocabulary.hashes())
    with store_in(folder, shard.manifest) as store:
        _all_units(run, units, model, store, begun, progress)
    return about


def _all_units(run: Run, units: Sequence[Unit], model: Model, store: Store, begun: float, progress: Progress) -> None:
    """Make units; those that fail are made once more in the end."""
    total = sum(len(unit.missing) for unit in units)
    reporter = _Reporter(progress, begun, total, run)
    run.tried = attempts(lines_in(store.folder))
    make_units(run, units, model, store, reporter.step)
    again = still_missing(units, run.failures)
    if again:
        run.tried, run.in_a_row = attempts(lines_in(store.folder)), 0
        make_units(run, again, model, store, reporter.step)


@dataclass(frozen=True)
class _Reporter:
    """Tells the progress of a run."""

    progress: Progress
    begun: float
    total: int
    run: Run

    def step(self, done: int, steps: int) -> None:
        """Tell that a denoising step is done."""
        speed = pace(self.run.made, self.total, time.monotonic() - self.begun, "images")
        self.progress(f"step {done}/{steps}; {speed}", self.run.made, self.total)
