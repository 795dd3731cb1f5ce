"""SLiMe's objective (arXiv 2309.03179), from its paper and the defaults of its released arguments, as far as it goes.

SLiMe fits a row for each part and for the background by a cross entropy on cross-attention maps, plus a square error on
maps that self-attention has spread, plus a little of Stable Diffusion's own loss, with Adam.

**This is not all of SLiMe.** A trace has no denoiser, and self-attention only where a capture was asked for it, which
those of the comparison were not (`benchmarks.fits.trials` spreads maps by it), so that

* the square error is taken of the cross-attention map itself, where SLiMe takes it of that map times the averaged
  self-attention (weighted accumulated self-attention), and masks are read off the former here, off the latter there:
  what its paper credits self-attention with is missing;
* Stable Diffusion's loss, with a weight of 0.005, is left out;
* the time step is not drawn anew in every iteration: all that a trace has are averaged.

Of its blocks and time steps a trace has what was captured; SLiMe takes the eighth to twelfth cross-attention block,
the first three of 16x16 and the first two of 32x32 pixels on the way up, and times of 5 to 100 out of 1000. Its sources
as seen do not tell where the vectors begin, or on which scale the cross entropy sees the maps: here they begin as those
of OVAM's authors, and the maps are mean shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rivals.harness import (
    Fitted,
    Keep,
    Mask,
    Watch,
    bordered,
    descend,
    start_rows,
    target_of,
    unwatched,
)
from ovam.aggregate import resize
from ovam.tokens.shares import class_maps
from ovam.trace import Trace

_LEAST = 1e-6  # a share of exactly 0, which rounding makes, has no finite cross entropy


@dataclass(frozen=True)
class Settings:
    """All that may be tuned; the defaults are SLiMe's where it has one.

    Attributes:
        rate: Of Adam.
        iterations: Number of steps.
        square: Weight of the square error.
        keep: Which vectors are returned; SLiMe chooses among its checkpoints, without validation images on those it
            was fitted to.
        size: Most cells of the loss along the height and width; SLiMe's masks are brought to 64 x 64.
        blocks: By name; None takes those of the trace.
        threshold: Of the class's share against the background's; at 0.5 the greater wins, as in SLiMe.
        template: Prompt whose last word the class begins as.
    """

    rate: float = 0.1
    iterations: int = 200
    square: float = 1.0
    keep: Keep = "best"
    size: int = 64
    blocks: tuple[str, ...] | None = None
    threshold: float = 0.5
    template: str = "A photograph of a {}"


PUBLISHED = Settings()


def fit(
    traces: Sequence[Trace], masks: Sequence[Mask], word: str, settings: Settings, watch: Watch = unwatched
) -> Fitted:
    """Optimise a background row and a class row for one annotation, or several; arguments as in `authors.fit`."""
    vectors = descend(
        lambda rows: objective(traces, masks, rows, settings),
        start_rows(traces[0], settings.template.format(word)),
        lambda parameters: torch.optim.Adam(parameters, lr=settings.rate),
        iterations=settings.iterations,
        keep=settings.keep,
        watch=watch,
    )
    return fitted(vectors, settings)


def fitted(vectors: Tensor, settings: Settings) -> Fitted:
    """The scores of a class in any trace, from the rows of the background and of the class."""

    @torch.no_grad()
    def scores(trace: Trace) -> np.ndarray:
        return bordered(resize(_class_map(trace, vectors, settings), trace.size), settings.threshold)

    return scores


def objective(traces: Sequence[Trace], masks: Sequence[Mask], rows: Tensor, settings: Settings) -> Tensor:
    """The loss of vectors (2, width), mean over annotations."""
    losses = []
    for trace, mask in zip(traces, masks, strict=True):
        size = (min(settings.size, trace.size[0]), min(settings.size, trace.size[1]))
        target = F.adaptive_avg_pool2d(target_of(mask)[None], size)[0].round()
        share = resize(_class_map(trace, rows, settings), size)
        losses.append(loss_of(share, target, settings.square))
    return torch.stack(losses).mean()


def loss_of(share: Tensor, target: Tensor, square: float) -> Tensor:
    """Cross entropy of class and background, and the square error of both, each a mean over pixels."""
    entropy = F.binary_cross_entropy(share.clamp(_LEAST, 1 - _LEAST), target)
    return entropy + square * F.mse_loss(share, target)


def _class_map(trace: Trace, rows: Tensor, settings: Settings) -> Tensor:
    chosen = trace if settings.blocks is None else trace.select(blocks=list(settings.blocks))
    return class_maps(chosen, rows)[0]
