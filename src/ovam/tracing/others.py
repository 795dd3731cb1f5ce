"""Refuse other pipelines that share a captured denoiser; their calls would be mistaken for a custom loop."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ovam.backbones.offload import unwrapped
from ovam.errors import UnsupportedPipelineError

_captured: dict[nn.Module, Any] = {}
"""The pipelines that are being captured, by denoiser."""

_progress_bar: list[Any] = []
"""The original method, while at least one capture is open."""


@contextmanager
def other_pipelines_refused(pipe: Any, denoiser: nn.Module) -> Iterator[None]:
    """Refuse runs of other pipelines on the same denoiser inside the `with` block.

    Diffusers pipelines call `progress_bar`, a method of their common class, right before their loop. This method is
    wrapped while any capture is open. Captures may end in any order.
    """
    from diffusers import DiffusionPipeline  # slow to import, and imported already if there is a pipeline

    if not _captured:
        _progress_bar.append(DiffusionPipeline.progress_bar)
        DiffusionPipeline.progress_bar = _refusing(DiffusionPipeline.progress_bar)
    _captured[denoiser] = pipe
    try:
        yield
    finally:
        del _captured[denoiser]
        if not _captured:
            DiffusionPipeline.progress_bar = _progress_bar.pop()  # even if it was replaced meanwhile


def _refusing(progress_bar: Any) -> Any:
    @functools.wraps(progress_bar)
    def wrapper(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        _check_own(pipe)
        return progress_bar(pipe, *args, **kwargs)

    return wrapper


def _check_own(pipe: Any) -> None:
    parts = [unwrapped(part) for part in vars(pipe).values()]
    for denoiser, captured in list(_captured.items()):
        if captured is not pipe and any(part is denoiser for part in parts):
            raise UnsupportedPipelineError(
                f"this {type(pipe).__name__} runs the {type(denoiser).__name__} of another pipeline that is being "
                f"captured, a {type(captured).__name__}, which does not know this run's prompt and guidance: "
                "expected a run of the captured pipeline object itself; capture this pipeline instead, or run it "
                "outside of the `with` block"
            )
