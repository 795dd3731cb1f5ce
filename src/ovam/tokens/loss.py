"""What a fit minimises: cross entropy of every pixel, and the overlap of every class, on calibrated maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "class height width"]


@dataclass(frozen=True, eq=False)
class Target:
    """What an annotation says of the cells of a lattice.

    Attributes:
        shares: Of background and classes in each cell; they sum to 1 where anything counts.
        weight: How much of each cell counts, in [0, 1].
    """

    shares: Float[Tensor, "label height width"] = field(repr=False)
    weight: Float[Tensor, "height width"] = field(repr=False)


def loss_of(logits: Sequence[Logits], targets: Sequence[Target]) -> Float[Tensor, ""]:
    """Cross entropy, a mean over pixels and annotations, and soft overlap, a mean over classes.

    The background has the log-odds 0, so that of one class the probability is a sigmoid with its border at 0.5, and of
    several the greatest wins. The overlap is Dice's, pooled over annotations, so that a class may be absent from some.

    Args:
        logits: Log-odds of the classes against the background, one stack an annotation.
        targets: What is right, one an annotation, at the sizes of the logits.
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
