"""Make units one after another: the model runs on one, while the masks of the one before are made."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from threadpoolctl import threadpool_limits

from ovam.dataset.annotate import annotated
from ovam.dataset.manifest import failed_line
from ovam.dataset.model import Model
from ovam.dataset.prompts import PlannedItem, Prompts
from ovam.dataset.recipe import Recipe
from ovam.dataset.store import Store, UnwritableError
from ovam.dataset.units import Unit
from ovam.dataset.words import Vocabulary
from ovam.errors import DatasetError, OvamError
from ovam.trace.trace import Trace

_MOST_IN_A_ROW = 3
"""Units that may fail one after another before the run ends: what fails always is no accident."""

Seen = tuple[Trace, Sequence[Trace]]
"""The run that made a picture, and the later looks at it."""

AfterStep = Callable[[int, int], None]
"""Called after each step with the number of steps done, and of all."""


@dataclass(eq=False)
class Run:
    """The state of a run.

    Attributes:
        recipe: The recipe.
        prompts: Its items.
        vocabulary: Words and tokens.
        made: Number of items that were made.
        failures: Error of each item that failed, by its number.
        in_a_row: Units that failed one after another.
        tried: How often items had failed before this run.
    """

    recipe: Recipe
    prompts: Prompts
    vocabulary: Vocabulary
    made: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    in_a_row: int = 0
    tried: Mapping[int, int] = field(default_factory=dict)


def make_units(run: Run, units: Sequence[Unit], model: Model, store: Store, after_step: AfterStep) -> None:
    """Run the model on one unit after another, while the masks of the unit before are made in a second thread.

    Raises:
        DatasetError: several units failed one after another, or nothing more can be written.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="masks", initializer=_compute_alone) as masks:
        before: Future[None] | None = None
        try:
            for unit in units:
                items = [run.prompts[index] for index in unit.indices]
                try:
                    traces = model.run(items, after_step)
                    looks = [model.looks(one, trace) for one, trace in zip(items, traces, strict=True)]
                    run.vocabulary.prepare(traces[0].text, items)
                except Exception as error:  # what goes wrong with one unit is no reason to leave out the others
                    _failed(run, unit, unit.missing, error, store)
                    continue
                _wait(before)
                before = masks.submit(_annotate, run, unit, items, list(zip(traces, looks, strict=True)), store)
                del traces, looks
                if not model.overlaps:
                    _wait(before)
                    before = None
        finally:
            _wait(before)  # also after Ctrl-C: what is generated is kept


def _compute_alone() -> None:
    """Make torch compute in this thread alone: a second pool of threads would keep the model's from the processors."""
    torch.get_num_threads()  # sets up this thread's number of threads, which is not to come later
    threadpool_limits(limits=1, user_api="openmp")  # of this thread; the model's keeps its own


def _wait(future: "Future[None] | None") -> None:
    if future is not None:
        future.result()


def _annotate(run: Run, unit: Unit, items: Sequence[PlannedItem], seen: Sequence[Seen], store: Store) -> None:
    """Make the masks of a unit and write its items."""
    failed = list[tuple[int, Exception]]()
    for one, (trace, looks) in zip(items, seen, strict=True):
        if one.index not in unit.missing:
            continue
        try:
            made = annotated(trace, one, run.vocabulary, run.recipe, looks)
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
    message = str(error) if isinstance(error, OvamError) else f"{type(error).__name__}: {error}"
    for index in indices:
        run.failures[index] = message
        store.line(failed_line(index, unit.number, run.tried.get(index, 0) + 1, error))
    run.in_a_row += whole and indices[-1] == unit.missing[-1]
    if run.in_a_row >= _MOST_IN_A_ROW:
        raise DatasetError(
            f"{run.in_a_row} units failed one after another, the last one with: {message}; finished items are "
            "complete, and the same command continues"
        ) from error
