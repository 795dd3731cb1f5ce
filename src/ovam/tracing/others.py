"""Other pipelines on a denoiser that is being watched: their calls of it look like a loop of the user's own."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ovam.backbones.offload import unwrapped
from ovam.errors import UnsupportedPipelineError

_captured: dict[nn.Module, Any] = {}
"""The pipelines that are being captured, by their denoisers."""

_progress_bar: list[Any] = []
"""The method as it was before the first capture that is open."""


@contextmanager
def others_refused(pipe: Any, denoiser: nn.Module) -> Iterator[None]:
    """Refuse runs of other pipelines on the same denoiser inside the `with` block.

    Pipelines of diffusers ask for a progress bar right before their loop, by a method of their common class, which is
    wrapped as long as any capture is open. Captures need not be left in the order they were entered.
    """
    from diffusers import DiffusionPipeline  # heavy, and there already where there is a pipeline

    if not _captured:
        _progress_bar.append(DiffusionPipeline.progress_bar)
        DiffusionPipeline.progress_bar = _refusing(DiffusionPipeline.progress_bar)
    _captured[denoiser] = pipe
    try:
        yield
    finally:
        del _captured[denoiser]
        if not _captured:
            DiffusionPipeline.progress_bar = _progress_bar.pop()  # also where another was put there meanwhile


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
                f"captured, a {type(captured).__name__}, which is told nothing of this run's prompt and guidance: "
                "expected a run of the captured pipeline object itself; capture this pipeline instead, or run it "
                "outside of the `with` block"
            )
