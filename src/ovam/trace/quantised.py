"""Numbers kept in eight bits: whole numbers from -127 to 127, and a scale for each head, step and channel.

A channel's scale is its greatest magnitude over the pixels, divided by 127, so that no number is off by more than half
of that. The scale stands outside the pixels alone: rows of one head and step become floats by one multiplication, when
they are read. Folding it into the keys would save that, but only where all rows are of one step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

_LARGEST = 127
_LEAST = torch.finfo(torch.float32).tiny  # of a scale, for channels of nothing but zeros


@dataclass(frozen=True, eq=False)
class Quantised:
    """A tensor in eight bits; it is cut like a tensor, and `float()` gives its numbers back.

    Attributes:
        values: Whole numbers.
        scale: What they are multiplied by, the same for all pixels.
    """

    values: Int8[Tensor, "*kept pixel head_dim"]
    scale: Float32[Tensor, "*kept 1 head_dim"]

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    def __getitem__(self, index: Any) -> "Quantised":
        """A part: entries or slices of head and step, and slices of pixels."""
        head_and_step = index[:2] if isinstance(index, tuple) else index
        return Quantised(self.values[index], self.scale[head_and_step])

    def float(self) -> Float32[Tensor, "*kept pixel head_dim"]:
        """The numbers, as a new tensor."""
        return self.values.float().mul_(self.scale)


Stored = Float[Tensor, "..."] | Quantised
"""Queries, image keys or values as a trace keeps them, (head, step, pixel, head_dim) or a part of it."""


def quantised(tensor: Float[Tensor, "*kept pixel head_dim"]) -> Quantised:
    """Round to eight bits; a channel with NaN or infinity gets a scale that is not finite, and stays recognisable."""
    scale = (tensor.abs().amax(-2, keepdim=True).float() / _LARGEST).clamp(min=_LEAST)
    return Quantised((tensor / scale).round_().to(torch.int8), scale)


def put(room: Stored, given: Stored) -> None:
    """Write numbers where there is room for them, in its type; what is in eight bits already stays as it is."""
    if isinstance(room, Quantised):
        made = given if isinstance(given, Quantised) else quantised(given)
        room.values.copy_(made.values)
        room.scale.copy_(made.scale)
    else:
        room.copy_(floats(given))


def floats(stored: Stored) -> Float[Tensor, "..."]:
    """The numbers as floats: a tensor as it is, without a copy."""
    return stored.float() if isinstance(stored, Quantised) else stored


def is_finite(stored: Stored) -> bool:
    """Whether all numbers are."""
    return bool(torch.isfinite(stored.scale if isinstance(stored, Quantised) else stored).all())


def named_tensors(name: str, stored: Stored) -> dict[str, Tensor]:
    """As it is written to a file: under this name, and with its scale behind it."""
    if isinstance(stored, Quantised):
        return {name: stored.values, f"{name}/scale": stored.scale}
    return {name: stored}


def from_named(name: str, tensors: Mapping[str, Tensor], dtype: str | None) -> Stored:
    """What `named_tensors` made, as the file's header tells its type.

    Raises:
        KeyError: a tensor is missing.
        ValueError: it is of another type, or its scale of another shape.
    """
    found = tensors[name]
    if found.dtype != getattr(torch, str(dtype), None):
        raise ValueError(f"{name} is of {found.dtype}, the header tells {dtype}")
    if found.dtype != torch.int8:
        return found
    scale = tensors[f"{name}/scale"]
    if scale.dtype != torch.float32 or scale.shape != (*found.shape[:-2], 1, found.shape[-1]):
        raise ValueError(f"{name}/scale is {tuple(scale.shape)} of {scale.dtype} for {tuple(found.shape)}")
    return Quantised(found, scale)
