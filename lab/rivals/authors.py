"""The protocol of OVAM's authors (arXiv 2403.14291), from what is known of their released code, none of which is used.

`PUBLISHED` is what the released function does by default, `SCRIPT` what their experiments' script sets. Both have these
defects, each of which a setting turns off:

1. The two maps, of the start token as background and of the class, are brought to [0, 1] by the least and greatest
   value of both together: an integer for the number of added maps was meant to divide them, and is never used as a
   divisor. (`scale="mean"` divides.)
2. The loss takes these values, which are shares already, for scores and puts them through a softmax once more, so that
   a perfect map has a loss of 0.3133 and gradients are weak. (`loss="shares"` is the cross entropy of the shares.)
3. The last vectors are returned, not the best. (`keep="best"`; their script keeps the best.)
4. Queries are those of the batch's first half, under guidance the unconditional one. (`queries="cond"`.)

Also theirs, and no defects: the loss at the image's size, plain gradient descent at a rate that falls in steps, a class
that begins as the last token of its prompt's last word, and for a mask the map over its greatest value, cut at a
threshold. Their refinement by self-attention is left out, since as released it is constant, and so is their CRF.

An iteration here costs what `ovam.tokens.class_maps` needs, which favours the rival: `python -m lab.performance --only
token_iteration --peer PATH` tells what their own code takes. That gradients flow through least and greatest value is
assumed. Several annotations, of which they use one, weigh alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.rivals.harness import (
    Fitted,
    Keep,
    Mask,
    Watch,
    bordered,
    descend,
    half_of_batch,
    start_rows,
    target_of,
    unwatched,
)
from ovam.maps.resize import resize
from ovam.tokens.class_maps import class_maps
from ovam.trace.calls import Half
from ovam.trace.trace import Trace

_LEAST = 1e-4  # shares of exactly 0 and 1, which `scale` makes, have no finite cross entropy


@dataclass(frozen=True)
class Settings:
    """All that may be tuned; the defaults are those of the released function.

    Attributes:
        rate: Of gradient descent, at first.
        iterations: Number of steps.
        every: Iterations after which the rate falls.
        factor: By which it falls.
        keep: Which vectors are returned.
        scale: How the two maps are brought to [0, 1].
        loss: What the cross entropy is taken of.
        queries: Which half of guidance.
        threshold: Of the class's map over its greatest value. Their own are 0.75 and 0.8 for optimised tokens: mostly
            0.8 without refinement.
        template: Prompt whose last word the class begins as.
    """

    rate: float = 300.0
    iterations: int = 1000
    every: int = 80
    factor: float = 0.7
    keep: Keep = "last"
    scale: Literal["joint extremes", "mean"] = "joint extremes"
    loss: Literal["softmax of shares", "shares"] = "softmax of shares"
    queries: Literal["first", "cond"] = "first"
    threshold: float = 0.8
    template: str = "A photograph of a {}"


PUBLISHED = Settings()
SCRIPT = Settings(rate=100.0, iterations=800, every=120, keep="best")


def fit(
    traces: Sequence[Trace], masks: Sequence[Mask], word: str, settings: Settings, watch: Watch = unwatched
) -> Fitted:
    """Optimise the start token and the word's last token for one annotation, or several.

    Args:
        traces: Of the annotated images.
        masks: One a trace, at its image's size.
        word: The class.
        settings: `PUBLISHED`, `SCRIPT`, or those that were tuned.
        watch: See `harness.Watch`.
    """
    vectors = descend(
        lambda rows: objective(traces, masks, rows, settings),
        start_rows(traces[0], settings.template.format(word)),
        lambda parameters: torch.optim.SGD(parameters, lr=settings.rate),
        iterations=settings.iterations,
        keep=settings.keep,
        watch=watch,
        every=settings.every,
        factor=settings.factor,
    )
    return fitted(vectors, settings)


def fitted(vectors: Tensor, settings: Settings) -> Fitted:
    """The scores of a class in any trace, from the rows of the background and of the class."""

    @torch.no_grad()
    def scores(trace: Trace) -> np.ndarray:
        class_map = resize(class_maps(trace, vectors, _half(trace, settings))[0], trace.size)
        return bordered(class_map / class_map.max(), settings.threshold)

    return scores


def objective(traces: Sequence[Trace], masks: Sequence[Mask], rows: Tensor, settings: Settings) -> Tensor:
    """The loss of vectors (2, width), mean over annotations."""
    losses = []
    for trace, mask in zip(traces, masks, strict=True):
        class_map = resize(class_maps(trace, rows, _half(trace, settings))[0], trace.size)
        losses.append(loss_of(scaled(class_map, settings.scale), target_of(mask), settings.loss))
    return torch.stack(losses).mean()


def scaled(class_map: Tensor, scale: str) -> Tensor:
    """The class's map, of which the background's is the rest to 1, as the loss takes it.

    The least value of both maps together is as far from 0 as the greatest is from 1, so that they still sum to 1.
    """
    if scale == "mean":
        return class_map
    low = torch.minimum(class_map.min(), 1 - class_map.max())
    return (class_map - low) / (1 - 2 * low)


def loss_of(share: Tensor, target: Tensor, kind: str) -> Tensor:
    """Cross entropy of class and background, mean over pixels."""
    if kind == "shares":
        return F.binary_cross_entropy(share.clamp(_LEAST, 1 - _LEAST), target)
    scores, shares = torch.stack([1 - share, share]), torch.stack([1 - target, target])
    return F.cross_entropy(scores[None], shares[None])


def _half(trace: Trace, settings: Settings) -> Half:
    return half_of_batch(trace) if settings.queries == "first" else "cond"
