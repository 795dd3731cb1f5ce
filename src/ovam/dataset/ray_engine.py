"""Share the units of a data set out among workers of a Ray cluster: a Ray Data job with a pool of actors.

Numbers of units go to the workers, and a line for each item comes back. Pictures and masks do not pass through Ray:
each worker writes them into the data set's folder, as a run without Ray does.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ovam.dataset.about import About
from ovam.dataset.folder import begin
from ovam.dataset.manifest import attempts, lines_in
from ovam.dataset.model import Facts
from ovam.dataset.ray_cluster import cluster, errors_of_ray
from ovam.dataset.ray_options import RayOptions
from ovam.dataset.ray_share import Share, blocks_of, share_of
from ovam.dataset.ray_worker import DONE, ENDED, Job, UnitMaker, facts_of
from ovam.dataset.recipe import Recipe
from ovam.dataset.units import Unit, still_missing
from ovam.dataset.work import Run
from ovam.defaults import CHOSEN_HASH
from ovam.errors import DatasetError
from ovam.partial import partial_folder
from ovam.progress import Progress, pace


def generate_with_ray(
    run: Run,
    folder: Path,
    units: Sequence[Unit],
    options: RayOptions,
    *,
    device: str | torch.device,
    progress: Progress,
) -> tuple[About, dict[str, int]]:
    """Make units with Ray; those that fail are made once more in the end.

    Args:
        run: The run; what was made and what failed is noted in it.
        folder: Folder of the data set, on a disk that all machines of the cluster see under this name.
        units: What to make.
        options: The cluster and the workers.
        device: Device of the models; a worker on "cuda" gets a GPU of its own.
        progress: Called for each group of units.

    Returns:
        The content of `dataset.json`, and how many items each process made.

    Raises:
        MissingPackageError: Ray is not installed.
        OptionError: the cluster can't be reached, or has too few GPUs.
        DatasetError: several units failed one after another, or a worker can't write.
        OvamError: the job was ended by Ray.
        The errors of loading a model.
    """
    folder, threads, made_by = folder.absolute(), torch.get_num_threads(), Counter[str]()
    with cluster(options.address) as resources:
        share = share_of(resources, options.workers, str(device), threads)
        progress(f"loading {run.recipe.model.model} in a worker", 0, 0)
        facts = _facts(run.recipe, share, threads)
        run.vocabulary.check(facts.space)
        about = begin(folder, run.recipe, facts, run.vocabulary.hashes())
        total, begun = sum(len(unit.missing) for unit in units), time.monotonic()
        for todo in _passes(run, units):
            wanted = {index for unit in todo for index in unit.missing}
            with partial_folder(folder) as room:
                job = Job(
                    str(folder), str(room), share.device, threads, facts.hash, CHOSEN_HASH, attempts(lines_in(folder))
                )
                for rows in _results(job, todo, share):
                    made_by.update(_noted(run, rows, wanted))
                    progress(pace(run.made, total, time.monotonic() - begun, "images"), run.made, total)
    return about, dict(sorted(made_by.items()))


def _passes(run: Run, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """Yield all units, and then those that failed."""
    yield units
    if again := still_missing(units, run.failures):
        yield again


def _noted(run: Run, rows: Any, wanted: set[int]) -> list[str]:
    """Note what became of some items; return the process of each that was made.

    Raises:
        DatasetError: the worker can't go on.
    """
    made_by = list[str]()
    for index, status, error, worker in zip(*(rows[name] for name in _COLUMNS), strict=True):
        if status == ENDED:
            raise DatasetError(str(error))
        if int(index) not in wanted:
            continue
        if status == DONE:
            run.made += 1
            run.failures.pop(int(index), None)
            made_by.append(str(worker) or "a worker that was killed")
        else:
            run.failures[int(index)] = str(error)
    return made_by


_COLUMNS = ("index", "status", "error", "worker")


def _facts(recipe: Recipe, share: Share, threads: int) -> Facts:
    """Load the model in a worker once, so that what is wrong with it is told before anything is written."""
    import ray

    ask = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=1)(facts_of)
    with errors_of_ray():
        facts: Facts = ray.get(ask.remote(recipe, share.device, threads))
    return facts


def _results(job: Job, units: Sequence[Unit], share: Share) -> Iterator[Any]:
    """Run the job, and yield what the workers tell, block by block."""
    import pyarrow
    import ray

    blocks = [pyarrow.table({"unit": numbers}) for numbers in blocks_of(units, share.workers)]
    with errors_of_ray():
        rows = ray.data.from_arrow(blocks).map_batches(
            UnitMaker,
            fn_constructor_args=(job,),
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(share.workers, len(blocks))),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
        )
        yield from rows.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
