"""What all rivals share: the shape of a fitted word, its starting vectors, and a plain descent that can be watched."""

import time
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ovam.trace.calls import Half
from ovam.trace.trace import Trace

Mask = np.ndarray
"""Booleans (height, width) of the image's size."""

Fitted = Callable[[Trace], np.ndarray]
"""From a trace to the word's scores (height, width) at the image's size, in [0, 1], with the border at 0.5."""

Watch = Callable[[int, float, Tensor], None]
"""Told after each iteration: its number from 1 on, the seconds of the fit so far, in which a watcher's own time does
not count, and the vectors (row, width) that the fit would give if it ended here."""

Keep = Literal["last", "best"]


def unwatched(iteration: int, seconds: float, vectors: Tensor) -> None:
    """Nobody looks."""


def start_rows(trace: Trace, text: str) -> Tensor:
    """The start token and the last token of a text's last word, (2, width).

    A tokenizer without a start token gives its end token instead.
    """
    embedded = trace.text.embed(text)
    rows, prompt = embedded.taken_rows().float().cpu(), embedded.prompt
    background = 0 if prompt.tokens[0] == "<start>" else -1
    return torch.stack([rows[background], rows[prompt.spans[-1].tokens[-1]]])


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    optimizer_of: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
    *,
    iterations: int,
    keep: Keep,
    watch: Watch,
    every: int | None = None,
    factor: float = 1.0,
) -> Tensor:
    """Gradient steps of an optimiser of torch's.

    Args:
        loss: Of the vectors (row, width).
        start: First vectors.
        optimizer_of: Makes the optimiser of its parameters.
        iterations: Number of steps; each evaluates the loss and its gradient once.
        keep: "last" gives what the last step led to, whatever its loss; "best" the vectors of least loss.
        watch: See `Watch`.
        every: Iterations after which the rate is multiplied by `factor`; None leaves it as it is.
        factor: See `every`.
    """
    rows = start.clone().requires_grad_()
    optimizer = optimizer_of([rows])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, every or iterations, factor if every else 1.0)
    best, least, seconds = start.clone(), float("inf"), 0.0
    for iteration in range(1, iterations + 1):
        begin = time.perf_counter()
        found = loss(rows)
        if float(found.detach()) < least:
            best, least = rows.detach().clone(), float(found.detach())
        (rows.grad,) = torch.autograd.grad(found, [rows])
        optimizer.step()
        schedule.step()
        kept = best if keep == "best" else rows.detach().clone()
        seconds += time.perf_counter() - begin
        watch(iteration, seconds, kept)
    return best if keep == "best" else rows.detach().clone()


def bordered(values: Tensor, threshold: float) -> np.ndarray:
    """Values in [0, 1] bent at the threshold, so that it comes to lie at 0.5 and their order stays.

    Values that are not finite, of a fit that ran away, become 0: they find nothing.
    """
    finite = values.detach().nan_to_num(0.0, 0.0, 0.0)
    below, above = 0.5 * finite / threshold, 0.5 + 0.5 * (finite - threshold) / (1 - threshold)
    return torch.where(finite > threshold, above, below).clamp(0, 1).numpy()


def half_of_batch(trace: Trace) -> Half:
    """The half that stands first in a batch under guidance, the unconditional one, where the trace kept it."""
    return "uncond" if "uncond" in trace.halves else "cond"


def target_of(mask: Mask) -> Tensor:
    """A mask as numbers, float32."""
    return torch.from_numpy(np.ascontiguousarray(mask)).float()
