"""Check that denoiser calls come as a capture expects them, and raise errors if they do not.

A run makes one denoiser call for each of the scheduler's time steps, all in one thread. The two halves of guidance are
one batch, or they run one after the other.
"""

import logging
from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, NoReturn

import torch
from torch import Tensor

from ovam.backbones.base import Evaluation
from ovam.errors import UnsupportedPipelineError
from ovam.tracing.pipeline_hooks import refused_copy
from ovam.tracing.run import Run

log = logging.getLogger("ovam")


def check_call(pipe: Any, run: Run, evaluation: Evaluation, text: Tensor | None) -> None:
    """Check that a new call is the scheduler's next one; `text` is the call's text embedding.

    A custom loop may call the denoiser several times at one time step. If it does so with another text, these calls
    may be the halves of guidance, and a warning says so once.

    Raises:
        UnsupportedPipelineError: the pipeline calls its denoiser again at a time step that is over.
    """
    last, index = run.calls[-1] if run.calls else None, len(run.calls)
    if last is None or last.timestep != evaluation.timestep or run.is_planned(index, evaluation.timestep):
        return
    if run.by_pipeline and run.levels:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} calls its denoiser again at the time step {evaluation.timestep:g} (denoiser call "
            f"{index}), where its scheduler has no second call: pipelines that look at a reference picture or optimise "
            "a text call it more often a step, and which of the calls made the image is not known; expected one call "
            "for each of the scheduler's time steps; capture a run of the pipeline that this one is derived from"
        )
    if not run.warned_of_text and not _same(text, run.text):
        run.warned_of_text = True
        log.warning(
            "the denoiser is called again at the time step %g with another text: if these are the halves of guidance, "
            "their maps are the mean of both; encode both texts by one call of pipe.encode_prompt(prompt, ..., "
            "negative_prompt=...) inside the block, which tells the halves apart, or run them as one batch",
            evaluation.timestep,
        )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return one is other
    return torch.equal(one, other.to(one))


class _Handler:
    """A hook of one denoiser. It can't be copied: a copied denoiser would report its calls to the same capture."""

    def __init__(self, handler: Callable[..., None], pipeline: str) -> None:
        self._handler, self._pipeline = handler, pipeline

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._handler(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise refused_copy(self._pipeline)


class OneThread:
    """Runs the handlers of a capture one at a time, and refuses runs in several threads.

    A capture follows the run that started last. If an earlier run still makes calls, it is refused. The current run
    is then refused as well unless it is over, because both runs used the scheduler's state.

    Args:
        pipe: The pipeline.
        run: Returns the current run.
        drop: Drops the current run.
    """

    def __init__(self, pipe: Any, run: Callable[[], Run], drop: Callable[[], None]) -> None:
        self.pipe, self._run, self._drop, self._lock = pipe, run, drop, RLock()
        self._overtaken = set[int]()  # threads whose runs were not over when another began

    def at_start(self, handler: Callable[..., None]) -> Callable[..., None]:
        """Wrap a handler of the start of a run."""
        return self._locked(handler, self._take_over)

    def between_calls(self, handler: Callable[..., None]) -> Callable[..., None]:
        """Wrap a handler of an event between denoiser calls. Custom loops may change the thread there."""
        return self._locked(handler, lambda: self._check(self._run().by_pipeline))

    def within_call(self, handler: Callable[..., None]) -> Callable[..., None]:
        """Wrap a handler of an event within a denoiser call."""
        return self._locked(handler, lambda: self._check(self._run().evaluating))

    def _locked(self, handler: Callable[..., None], check: Callable[[], None]) -> Callable[..., None]:
        def guarded(*args: Any, **kwargs: Any) -> None:
            with self._lock:
                check()
                handler(*args, **kwargs)

        return _Handler(guarded, type(self.pipe).__name__)

    def _take_over(self) -> None:
        run, own = self._run(), get_ident()
        if run.by_pipeline and run.thread_id not in (None, own):
            self._overtaken.add(run.thread_id)
        self._overtaken.discard(own)

    def _check(self, bound: bool) -> None:
        """Refuse a call from another thread; `bound` says whether the run is tied to its thread now."""
        run, own = self._run(), get_ident()
        if own in self._overtaken:
            self._overtaken.discard(own)
            run.crossed = run.by_pipeline or run.evaluating
            self._refuse()
        if run.crossed:
            self._drop()
            self._refuse()
        if bound and run.thread_id not in (None, own):
            run.crossed = True
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnsupportedPipelineError(
            f"this {type(self.pipe).__name__} is run by two threads at once inside one capture, which mix their calls "
            "and the scheduler's state: expected one run after the other; use a lock, or a pipeline for each thread"
        )
