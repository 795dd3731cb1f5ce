"""Tensors in eight bits: integers from -127 to 127, and a scale for each head, step and channel.

The scale of a channel is its largest magnitude over the pixels, divided by 127. So no number is wrong by more than half
of the scale. All pixels share the scale: rows of one head and step become floats by one multiplication when they are
read. Folding the scale into the keys would save this, but it works only if all rows belong to one step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

_LARGEST = 127
_LEAST = torch.finfo(torch.float32).tiny  # minimum of a scale, for channels that are all zero


@dataclass(frozen=True, eq=False)
class Quantised:
    """A tensor in eight bits. It is indexed like a tensor, and `float()` returns its numbers.

    Attributes:
        values: Integers from -127 to 127.
        scale: Factor on `values`, the same for all pixels.
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
        """Return a part: take entries or slices of head and step, and slices of pixels."""
        head_and_step = index[:2] if isinstance(index, tuple) else index
        return Quantised(self.values[index], self.scale[head_and_step])

    def float(self) -> Float32[Tensor, "*kept pixel head_dim"]:
        """Return the numbers as a new tensor."""
        return self.values.float().mul_(self.scale)


Stored = Float[Tensor, "..."] | Quantised
"""Queries, image keys or image values as a trace stores them: (head, step, pixel, head_dim), or a part of it."""


def quantised(tensor: Float[Tensor, "*kept pixel head_dim"]) -> Quantised:
    """Round to eight bits; a channel with NaN or infinity gets a scale that is not finite, so `is_finite` finds it."""
    scale = (tensor.abs().amax(-2, keepdim=True).float() / _LARGEST).clamp(min=_LEAST)
    return Quantised((tensor / scale).round_().to(torch.int8), scale)


def put(room: Stored, given: Stored) -> None:
    """Copy numbers into `room`, in its type; eight-bit numbers go into eight-bit room unchanged."""
    if isinstance(room, Quantised):
        made = given if isinstance(given, Quantised) else quantised(given)
        room.values.copy_(made.values)
        room.scale.copy_(made.scale)
    else:
        room.copy_(floats(given))


def floats(stored: Stored) -> Float[Tensor, "..."]:
    """Return the numbers as floats; a tensor is returned as it is, without a copy."""
    return stored.float() if isinstance(stored, Quantised) else stored


def is_finite(stored: Stored) -> bool:
    """Return whether all numbers are finite."""
    return bool(torch.isfinite(stored.scale if isinstance(stored, Quantised) else stored).all())


def named_tensors(name: str, stored: Stored) -> dict[str, Tensor]:
    """Return the tensors to write to a file: `name` and, for eight bits, `name/scale`."""
    if isinstance(stored, Quantised):
        return {name: stored.values, f"{name}/scale": stored.scale}
    return {name: stored}


def from_named(name: str, tensors: Mapping[str, Tensor], dtype: str | None) -> Stored:
    """Return what `named_tensors` wrote; `dtype` is the type in the file's header.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the tensor has another type, or its scale another type or shape.
    """
    found = tensors[name]
    if found.dtype != getattr(torch, str(dtype), None):
        raise ValueError(f"{name} is of {found.dtype}, the header says {dtype}")
    if found.dtype != torch.int8:
        return found
    scale = tensors[f"{name}/scale"]
    if scale.dtype != torch.float32 or scale.shape != (*found.shape[:-2], 1, found.shape[-1]):
        raise ValueError(f"{name}/scale is {tuple(scale.shape)} of {scale.dtype} for {tuple(found.shape)}")
    return Quantised(found, scale)
