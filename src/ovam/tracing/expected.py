"""What a capture expects of the calls that it watches, and what it says where they are others.

A run makes one denoiser call for each of its scheduler's time steps, both halves of guidance in it or one after the
other, and makes them in one thread.
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
    """Whether a call that begins is the scheduler's next one; `text` is what the denoiser is told in it.

    A loop of the user's own may look several times at a time step. If it tells another text there, the halves of
    guidance may be meant, and it is warned once.

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
    """A hook of one denoiser; a copy of that would tell the capture of its own calls."""

    def __init__(self, handler: Callable[..., None], pipeline: str) -> None:
        self._handler, self._pipeline = handler, pipeline

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._handler(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise refused_copy(self._pipeline)


class OneThread:
    """Lets the handlers of a capture run one at a time, and refuses runs of several threads inside it.

    A capture follows the run that was begun last. One before it that broke off tells of nothing any more; if it does,
    it is refused, and the other as well unless it is over: they shared the scheduler's state.

    Args:
        pipe: The pipeline.
        run: Tells the current run.
        drop: Forgets it.
    """

    def __init__(self, pipe: Any, run: Callable[[], Run], drop: Callable[[], None]) -> None:
        self.pipe, self._run, self._drop, self._lock = pipe, run, drop, RLock()
        self._overtaken = set[int]()  # threads whose runs were not over when another began

    def starting(self, handler: Callable[..., None]) -> Callable[..., None]:
        """A handler that begins a run."""
        return self._locked(handler, self._take_over)

    def going_on(self, handler: Callable[..., None]) -> Callable[..., None]:
        """A handler of what the run's thread does between denoiser calls; a loop of the user's own may change it."""
        return self._locked(handler, lambda: self._check(self._run().by_pipeline))

    def inside(self, handler: Callable[..., None]) -> Callable[..., None]:
        """A handler of what happens within a denoiser call."""
        return self._locked(handler, lambda: self._check(self._run().evaluating))

    def _locked(self, handler: Callable[..., None], check: Callable[[], None]) -> Callable[..., None]:
        def guarded(*args: Any, **kwargs: Any) -> None:
            with self._lock:
                check()
                handler(*args, **kwargs)

        return _Handler(guarded, type(self.pipe).__name__)

    def _take_over(self) -> None:
        run, own = self._run(), get_ident()
        if run.by_pipeline and run.thread not in (None, own):
            self._overtaken.add(run.thread)
        self._overtaken.discard(own)

    def _check(self, bound: bool) -> None:
        """`bound` is whether the run is tied to its thread now."""
        run, own = self._run(), get_ident()
        if own in self._overtaken:
            self._overtaken.discard(own)
            run.crossed = run.by_pipeline or run.evaluating
            self._refuse()
        if run.crossed:
            self._drop()
            self._refuse()
        if bound and run.thread not in (None, own):
            run.crossed = True
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnsupportedPipelineError(
            f"this {type(self.pipe).__name__} is run by two threads at once inside one capture, which mix their calls "
            "and the scheduler's state: expected one run after the other; use a lock, or a pipeline for each thread"
        )
