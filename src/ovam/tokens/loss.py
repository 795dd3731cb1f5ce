"""The loss of a fit: cross entropy of every pixel and overlap of every class, on calibrated maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "class height width"]


@dataclass(frozen=True, eq=False)
class Target:
    """An annotation at the cells of a lattice.

    Attributes:
        shares: Shares of background and classes in each cell; they sum to 1 in every cell with a weight above 0.
        weight: The part of each cell that is not ignored, in [0, 1].
    """

    shares: Float[Tensor, "label height width"] = field(repr=False)
    weight: Float[Tensor, "height width"] = field(repr=False)


def loss_of(logits: Sequence[Logits], targets: Sequence[Target]) -> Float[Tensor, ""]:
    """Return cross entropy (mean over pixels and annotations) plus 1 - soft overlap (mean over classes).

    The background has log-odds of 0. So the probability of a single class is a sigmoid with its border at 0.5; of
    several classes the most probable one wins. The overlap is the Dice coefficient, pooled over annotations, so a
    class may be absent from some of them.

    Args:
        logits: Log-odds of the classes against the background, one stack per annotation.
        targets: Targets, one per annotation, at the sizes of the logits.
    """
    entropy, both, either = [], [], []
    for found, target in zip(logits, targets, strict=True):
        log_shares = torch.cat([torch.zeros_like(found[:1]), found]).log_softmax(0)
        weight = target.weight
        entropy.append(-(target.shares * log_shares).sum(0).mul(weight).sum() / weight.sum())
        probabilities, right = log_shares[1:].exp(), target.shares[1:]
        both.append((weight * probabilities * right).sum((1, 2)))
        either.append((weight * (probabilities + right)).sum((1, 2)))
    overlap = 2 * torch.stack(both).sum(0) / torch.stack(either).sum(0)
    return torch.stack(entropy).mean() + (1 - overlap).mean()
