"""Which blocks DAAM takes its mean over, and at which lattice; the mean itself is `ovam.methods.daam_mean`.

DAAM selects blocks by factors: the ratio of the lattice's side to that of the block's grid.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ovam.compat.daam.errors import NoHeatMapsError
from ovam.shapes import Grid
from ovam.trace.trace import Trace

_FACTORS = frozenset({0, 1, 2, 4, 16, 32, 64})
"""DAAM's default factors; it never uses blocks of factor 8."""


@dataclass(frozen=True)
class Lattice:
    """The common grid of DAAM's maps.

    Attributes:
        size: Height and width.
        pixels: Number of pixels that factors are computed from.
    """

    size: Grid
    pixels: int

    def factor(self, grid: Grid) -> int:
        """Return the ratio of the lattice's side to a grid's, rounded down; 0 for a finer grid."""
        return int(math.sqrt(self.pixels // (grid[0] * grid[1])))


def lattice_of(pipe: Any, trace: Trace) -> Lattice:
    """Return DAAM's lattice: 64 x 64 for UNets of 512 or 1024 pixels, 96 x 96 for 768, for any square picture.

    DAAM has none for other shapes and other families; then it is the finest grid.
    """
    unet = getattr(pipe, "unet", None)
    if unet is not None and trace.size[0] == trace.size[1]:
        side = int(unet.config.sample_size)
        side = 64 if side * pipe.vae_scale_factor == 1024 else side
        return Lattice((side, side), side * side)
    finest = max((block.grid for block in trace.blocks.values()), key=math.prod)
    return Lattice(finest, math.prod(finest))


def layers_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return blocks in the order of DAAM's `layer_idx`: blocks on the way up come first."""
    return tuple(sorted(names, key=lambda name: not name.startswith("up_blocks")))


def chosen(
    trace: Trace, lattice: Lattice, *, factors: Collection[int] | None, head: int | None, layer: int | None
) -> tuple[str, ...]:
    """Return the blocks that fit factors, head and layer.

    Raises:
        NoHeatMapsError: no block fits.
    """
    layers = layers_of(trace.blocks)
    found = {name: lattice.factor(trace.blocks[name].grid) for name in layers}
    usable = [name for name in layers if found[name] in (_FACTORS if factors is None else factors) and found[name] != 8]
    names = tuple(
        name
        for i, name in enumerate(layers)
        if name in usable and layer in (None, i) and (head is None or 0 <= head < trace.blocks[name].heads)
    )
    if not names:
        most = max(block.heads for block in trace.blocks.values())
        raise NoHeatMapsError(
            f"no heat maps found for factors={factors}, head_idx={head}, layer_idx={layer}: expected factors among "
            f"{sorted(set(found.values()) - {8})}, a head below {most} and a layer below {len(layers)}"
        )
    return names
