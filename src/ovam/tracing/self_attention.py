"""Choose the blocks whose self-attention is kept, and which of them share one mean."""

import math
from collections.abc import Mapping

import torch

from ovam.backbones.base import Backbone, BlockSpec
from ovam.errors import OptionError
from ovam.trace.blocks import choose_blocks
from ovam.tracing.wanted import Wanted

FINEST = "finest"
"""Choice of the finest grid alone."""
MOST_PIXELS = 64 * 64
"""Finer grids are kept only if they are named: their weights grow with the square of the pixels."""
_SHARE = 0.2  # of the queries' bytes: what self-attention may cost without being asked for


def self_attention_of(wanted: Wanted) -> dict[str, str]:
    """Return the name under which each block's self-attention is kept, for the blocks whose self-attention is kept.

    Blocks that the user names are kept each under its own name. Otherwise those on the way up share one mean a grid,
    under the grid's name, such as "32x32"; "finest" keeps only the finest of these grids. Without any choice the finest
    grids are left out until the rest costs less than a fifth of the queries. Joint attention is then left out as well,
    because its attention would be computed twice.

    Raises:
        MissingBlockError: the choice fits no block.
        OptionError: all were asked for, and there is none of at most `MOST_PIXELS` pixels that can be kept.
    """
    choice = wanted.options.self_attention
    if choice is False:
        return {}
    specs = self_specs(wanted.backbone)
    if choice is not None and choice is not True and choice != FINEST:
        return {name: name for name in choose_blocks({name: wanted.grids[name] for name in specs}, choice)}
    usual = [name for name in _usual(specs, wanted.backbone) if wanted.pixels(name) <= MOST_PIXELS]
    grid_names = {name: "x".join(map(str, wanted.grids[name])) for name in usual}
    if choice is None:
        return {} if wanted.backbone.text_kind == "replayed" else _cheap(grid_names, wanted)
    if not grid_names:
        raise OptionError(
            f"self_attention={choice!r} on a {type(wanted.backbone.pipe).__name__} keeps grids of up to 64 x 64 pixels "
            "of blocks that diffusers' own attention processors run, and there is none: name blocks or grids instead, "
            "self_attention=[...]"
        )
    if choice == FINEST:
        most = max(map(wanted.pixels, grid_names))
        return {name: grid for name, grid in grid_names.items() if wanted.pixels(name) == most}
    return grid_names


def self_specs(backbone: Backbone) -> Mapping[str, BlockSpec]:
    """Return the blocks in which pixels attend to pixels; in joint attention each of its blocks."""
    return backbone.blocks() if backbone.text_kind == "replayed" else backbone.self_blocks()


def _usual(specs: Mapping[str, BlockSpec], backbone: Backbone) -> list[str]:
    """Return the blocks that are kept without a choice; in joint attention the middle third, which was not compared."""
    names = [name for name, spec in specs.items() if spec.default]
    return names[len(names) // 3 : -(-2 * len(names) // 3)] if backbone.text_kind == "replayed" else names


def _cheap(found: Mapping[str, str], wanted: Wanted) -> dict[str, str]:
    """Return the entries of the coarser grids, as far as they cost little."""
    specs, dtype = wanted.backbone.blocks(), wanted.options.dtype or torch.float16
    numbers = sum(specs[name].heads * specs[name].head_dim * wanted.pixels(name) for name in wanted.chosen)
    left = _SHARE * numbers * wanted.calls * dtype.itemsize
    pixels = {kept: wanted.pixels(block) for block, kept in found.items()}
    kept = set[str]()
    for name, count in sorted(pixels.items(), key=lambda item: item[1]):
        left -= math.prod((count, count, torch.float32.itemsize))
        if left < 0:
            break
        kept.add(name)
    return {block: name for block, name in found.items() if name in kept}
