"""Spread maps over the image by its self-attention: pixels that attend to each other get similar values."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.errors import NothingCapturedError
from ovam.maps.resize import resize
from ovam.maps.result import AttentionMaps
from ovam.precision import float32
from ovam.refine.options import RefineOptions
from ovam.shapes import Grid, TokenMaps
from ovam.trace.blocks import choose_blocks

Affinity = Float[Tensor, "pixel pixel"]
"""Weights of each pixel (a row) over all pixels; every row sums to 1."""

Columns = Float[Tensor, "pixel map"]
"""Maps as columns."""


@float32()
def refined(maps: AttentionMaps, options: RefineOptions) -> AttentionMaps:
    """Refine maps by one or more products `x <- S x`, where S is the mean image self-attention.

    Every new value is a weighted mean of the old ones, so maps stay in their range, and with "powers" and "restart"
    the maps of all tokens of a prompt still sum to 1. Word gains are refined in the same way. S takes 4 bytes for each
    pair of pixels: 64 MB at 64 x 64.

    Args:
        maps: Maps whose trace has kept self-attention.
        options: See `RefineOptions`.

    Raises:
        NothingCapturedError: the maps have no self-attention.
        MissingBlockError: a chosen block or grid was not kept.

    Source:
        Powers: DiffSegmenter (arXiv:2309.02773), Dataset Diffusion (arXiv:2309.14303). Restart: NERVE
        (arXiv:2511.08248). Sharpened: iSeg (arXiv:2409.03209).
    """
    by_grid, gains = affinities(maps, options), maps.gains
    found = _over_grids(maps.token_maps.flatten(0, -3), by_grid, options).reshape(maps.token_maps.shape)
    if gains is not None:
        gains = replace(gains, maps=_over_grids(resize(gains.maps, maps.grid), by_grid, options))
    return replace(maps, token_maps=found, gains=gains, plain=maps.plain or maps, refined=True)


def _over_grids(maps: TokenMaps, by_grid: Mapping[Grid, Affinity], options: RefineOptions) -> TokenMaps:
    """Return the mean of the maps that each grid's self-attention refines, at the grid of the given maps."""
    size = (maps.shape[-2], maps.shape[-1])
    each = [resize(_spread(resize(maps, grid), affinity, options), size) for grid, affinity in by_grid.items()]
    return functools.reduce(torch.add, each) / len(each)


def affinities(maps: AttentionMaps, options: RefineOptions) -> dict[Grid, Affinity]:
    """Return the mean self-attention of the chosen blocks, one matrix for each of their grids.

    Raises:
        The errors of `refined`.
    """
    kept = maps.self_attention
    if not kept:
        raise NothingCapturedError(
            "these maps have no self-attention, which refining needs: use self_attention=True with capture, encode or "
            "stream, keep all steps, and make the maps from that trace; for a real picture use "
            "ovam.encode(pipe, picture, self_attention=True)"
        )
    grids = {name: part.grid for name, part in kept.items()}
    finest = max(grids.values(), key=lambda grid: grid[0] * grid[1])
    names = choose_blocks(grids, [finest] if options.blocks is None else options.blocks)
    return {grid: _mean([kept[name].weights for name in names if grids[name] == grid]) for grid in _order(grids, names)}


def _order(grids: Mapping[str, Grid], names: Sequence[str]) -> list[Grid]:
    return list(dict.fromkeys(grids[name] for name in names))


def _mean(matrices: Sequence[Affinity]) -> Affinity:
    if len(matrices) == 1:
        return matrices[0].float()
    total = matrices[0].float().clone()
    for matrix in matrices[1:]:
        total += matrix
    return total / len(matrices)


def _spread(maps: TokenMaps, affinity: Affinity, options: RefineOptions) -> TokenMaps:
    """Return the maps after all products; they have the affinity's grid."""
    columns = maps.flatten(-2).T.to(affinity.device)
    spread = {"powers": _powers, "restart": _restart, "sharpened": _sharpened}[options.method]
    return spread(columns, affinity, options).T.reshape(maps.shape).to(maps.device)


def _powers(columns: Columns, affinity: Affinity, options: RefineOptions) -> Columns:
    if options.exponent != 1:
        affinity = _normalised(affinity**options.exponent)
    for _ in range(options.products):
        columns = affinity @ columns
    return columns


def _restart(columns: Columns, affinity: Affinity, options: RefineOptions) -> Columns:
    first = columns
    for _ in range(options.products):
        columns = torch.lerp(first, affinity @ columns, options.spread)
    return columns


def _sharpened(columns: Columns, affinity: Affinity, options: RefineOptions) -> Columns:
    """Multiply by the sharpened affinity, then stretch each map to its old least and greatest value."""
    low, high = columns.amin(0), columns.amax(0)
    sharp = sharpened(affinity, options.sharpness)
    for _ in range(options.products):
        columns = sharp @ columns
        columns = columns - columns.amin(0)
        columns = columns / columns.sum(0).clamp_min(torch.finfo(columns.dtype).tiny)
    return low + (high - low) * columns / columns.amax(0).clamp_min(torch.finfo(columns.dtype).tiny)


def sharpened(affinity: Affinity, sharpness: float) -> Affinity:
    """Return the affinity with less entropy: weights far below the greatest of their column become 0.

    A weight w, as a share of the greatest weight in its column, becomes `w + sharpness * log10(e * w)`, at least 0.
    """
    shares = affinity / affinity.amax(0).clamp_min(torch.finfo(affinity.dtype).tiny)
    weights = shares + sharpness * (math.e * shares).log10() if sharpness else shares
    return _normalised(weights.clamp_min(0))


def _normalised(affinity: Affinity) -> Affinity:
    """Return the affinity with rows that sum to 1; a row of zeros attends to its own pixel."""
    totals = affinity.sum(1, keepdim=True)
    own = torch.eye(len(affinity), device=affinity.device)
    return torch.where(totals > 0, affinity / totals.clamp_min(torch.finfo(affinity.dtype).tiny), own)
