"""Tensors in eight bits: integers from -127 to 127, and one scale for each head, step and channel.

The scale of a channel is the largest magnitude of its numbers over all pixels, divided by 127. So rounding changes a
number by at most half of the scale. All pixels of one head and step have the same scales. So, when queries are read,
one multiplication by the scales turns the integers into floats.

One could multiply the keys by the scales instead. ovam does not do this: each step has its own scales, so queries of
several steps could no longer be handled together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

_LARGEST_INTEGER = 127
_LEAST_SCALE = torch.finfo(torch.float32).tiny  # minimum of a scale, for channels that are all zero


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
        """Return a part.

        For head and step, `index` may be numbers, slices or a tensor of numbers; for the pixels it may be a slice.
        """
        head_and_step = index[:2] if isinstance(index, tuple) else index
        return Quantised(self.values[index], self.scale[head_and_step])

    def float(self) -> Float32[Tensor, "*kept pixel head_dim"]:
        """Return the numbers as a new tensor."""
        return self.values.float().mul_(self.scale)


Stored = Float[Tensor, "..."] | Quantised
"""A tensor as a trace stores it, such as queries (head, step, pixel, head_dim) or image keys; or a part of it."""


def quantised(tensor: Float[Tensor, "*kept pixel head_dim"]) -> Quantised:
    """Round to eight bits.

    A channel with NaN or infinity gets a scale that is not finite, so that `is_finite` finds it.
    """
    scale = (tensor.abs().amax(-2, keepdim=True).float() / _LARGEST_INTEGER).clamp(min=_LEAST_SCALE)
    return Quantised((tensor / scale).round_().to(torch.int8), scale)


def put(target: Stored, given: Stored) -> None:
    """Copy numbers into `target`, and convert them to its type.

    If `given` and `target` are both `Quantised`, integers and scales are copied unchanged.
    """
    if isinstance(target, Quantised):
        made = given if isinstance(given, Quantised) else quantised(given)
        target.values.copy_(made.values)
        target.scale.copy_(made.scale)
    else:
        target.copy_(floats(given))


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
        ValueError: the tensor has another type than the header says, or its scale has a wrong type or shape.
    """
    values = tensors[name]
    if values.dtype != getattr(torch, str(dtype), None):
        raise ValueError(f"{name} has type {values.dtype}, but the header says {dtype}")
    if values.dtype != torch.int8:
        return values
    scale = tensors[f"{name}/scale"]
    expected = (*values.shape[:-2], 1, values.shape[-1])
    if scale.dtype != torch.float32 or scale.shape != expected:
        raise ValueError(
            f"{name}/scale has shape {tuple(scale.shape)} and type {scale.dtype}: expected shape {expected} and type "
            f"torch.float32, because the values have shape {tuple(values.shape)}"
        )
    return Quantised(values, scale)
