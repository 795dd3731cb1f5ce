"""Thresholds of an optimised token: the score where its mask begins, and the least presence of its class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ovam.checks import number, whole
from ovam.errors import OptionError

BORDER = 0.5
"""`moved` returns scores and presences for which this number is the threshold: a pixel with a greater score belongs to
the mask, and a class with a smaller presence is absent."""
LEAST, MOST = 0.01, 0.99
"""Bounds of a threshold. With a threshold beyond these bounds, nearly all pixels, or nearly none, would be above it."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Thresholds of one class, chosen on annotated pictures; see `ovam.tokens.thresholds`.

    Attributes:
        mask: Score above which a pixel belongs to the class, in [0.01, 0.99]; None means 0.5.
        presence: Least presence, in [0.01, 0.99]; with a smaller presence the class counts as absent. With None the
            class counts as absent only if the option `presence` (`ovam.masks.options.MaskOptions`) says so.
        pictures: Number of annotated pictures on which the thresholds were chosen, 0 if unknown; this is information
            only.
        refined: Whether the thresholds were chosen on refined maps; this is information only.

    Raises:
        OptionError: a value is not allowed.
    """

    mask: float | None = None
    presence: float | None = None
    pictures: int = 0
    refined: bool = False

    def __post_init__(self) -> None:
        for name in ("mask", "presence"):
            value = getattr(self, name)
            if value is None:
                continue
            if number(name, value, least=LEAST) > MOST:
                raise OptionError(f"{name}={value!r}: expected a number from {LEAST:g} to {MOST:g}")
            object.__setattr__(self, name, float(value))
        object.__setattr__(self, "pictures", whole("pictures", self.pictures, least=0))
        if not isinstance(self.refined, bool):
            raise OptionError(f"refined={self.refined!r}: expected True or False")


def moved(values: Tensor, threshold: float | None) -> Tensor:
    """Move values so that a threshold lies at 0.5: add the same number to the log-odds of all values.

    The order of the values stays the same.

    Args:
        values: Scores or presences in [0, 1], any shape.
        threshold: In (0, 1); None changes nothing.
    """
    if threshold is None:
        return values
    return torch.sigmoid(torch.logit(values) - torch.logit(torch.tensor(threshold, dtype=values.dtype)))
