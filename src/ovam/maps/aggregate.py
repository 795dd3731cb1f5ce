"""Average maps over steps, blocks and heads, piece by piece, at the finest grid."""

import functools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovam.shapes import Axis, Grid, TokenMaps
from ovam.trace.calls import Call


class Accumulator:
    """The mean over all (step, block, head) triples, each counting the same, built block by block or call by call.

    Args:
        grids: Height and width of every block's pixels.
        keep: Axes to keep apart instead of averaging over them.
    """

    def __init__(self, grids: Mapping[str, Grid], keep: Sequence[Axis]) -> None:
        self.grids, self.keep = grids, frozenset(keep)
        self.grid: Grid = max(grids.values(), key=lambda grid: grid[0] * grid[1])
        self.heads: dict[str, int] = {}
        self.sums: dict[str, list[Tensor]] = {}

    @property
    def keep_head(self) -> bool:
        return "head" in self.keep

    @property
    def keep_step(self) -> bool:
        return "step" in self.keep

    def add(self, block: str, sums: Float[Tensor, "kept_head kept_step token pixel"], heads: int) -> None:
        """Add the values of a block at some steps, summed over its `heads` and these steps unless they are kept."""
        parts = self.sums.setdefault(block, [])
        self.heads[block] = heads
        if self.keep_step or not parts:
            parts.append(sums)
        else:
            parts[0] += sums

    def result(self, calls: Sequence[Call]) -> TokenMaps:
        """Return the mean at the finest grid, (block or head, step, token, height, width); only kept axes are there."""
        rows = (
            resize(torch.cat(parts, dim=1).unflatten(-1, self.grids[block]), self.grid).cpu()
            for block, parts in self.sums.items()
        )
        steps = 1 if self.keep_step else len(calls)
        if self.keep_head:
            maps = torch.cat(list(rows)) / steps
        elif "block" in self.keep:
            counts = [self.heads[block] * steps for block in self.sums]
            maps = torch.cat([row / count for row, count in zip(rows, counts, strict=True)])
        else:
            total = functools.reduce(torch.add, rows)  # one at a time: they are large
            maps = total[0] / (sum(self.heads.values()) * steps)
        return maps if self.keep_step else maps.squeeze(-4)

    def labels(self, calls: Sequence[Call]) -> dict[Axis, tuple[object, ...]]:
        """Return the labels along each kept axis: block names, (block, head) pairs, calls."""
        named: dict[Axis, tuple[object, ...]] = {}
        if "block" in self.keep:
            named["block"] = tuple(self.sums)
        if self.keep_head:
            named["head"] = tuple((block, head) for block in self.sums for head in range(self.heads[block]))
        if self.keep_step:
            named["step"] = tuple(calls)
        return named


def resize(maps: Tensor, size: Grid) -> Tensor:
    """Resize the last two axes, bilinearly: a convex combination, so the range and sums over tokens stay."""
    if maps.shape[-2:] == size:
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(flat, size=size, mode="bilinear", align_corners=False).reshape(*maps.shape[:-2], *size)
