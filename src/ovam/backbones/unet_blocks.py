"""Attention blocks of a UNet2DConditionModel: their order and grids."""

from collections.abc import Mapping, Sequence
from typing import Any

from ovam.backbones.base import BlockSpec
from ovam.backbones.cross_attention import attention, block_spec, is_cross
from ovam.backbones.self_attention import is_plain, is_self
from ovam.backbones.unet_features import feature_grids
from ovam.shapes import Grid

WORD_BLOCKS = "_word_blocks"
"""Key of a UNet's config: names of the blocks whose maps follow words, or their beginnings ("up_blocks.2").

Diffusers keeps keys that begin with an underscore, and does not read them.
"""


def unet_modules(unet: Any) -> dict[str, Any]:
    """Return cross- and self-attention modules by path, in running order."""
    order = ("down_blocks", "mid_block", "up_blocks")
    modules = attention(unet, lambda name, module: is_cross(module) or is_self(name, module))
    return dict(sorted(modules.items(), key=lambda item: order.index(item[0].split(".")[0])))


def unet_specs(unet: Any) -> dict[str, BlockSpec]:
    """Return all cross-attention blocks. By default those are captured that the config names under `WORD_BLOCKS`.

    If it names none, the default is all but the middle one, whose grid is coarse.
    """
    modules = {name: module for name, module in unet_modules(unet).items() if module.is_cross_attention}
    default = _word_blocks(unet, tuple(modules)) or {name for name in modules if not name.startswith("mid_block")}
    return {name: block_spec(name, module, default=name in default) for name, module in modules.items()}


def _word_blocks(unet: Any, names: Sequence[str]) -> set[str]:
    """Return the blocks that the UNet's config names; other values than a list of names are nobody's choice."""
    named = unet.config.get(WORD_BLOCKS)
    beginnings = [entry for entry in named if isinstance(entry, str)] if isinstance(named, list | tuple) else []
    return {name for name in names if any(name == entry or name.startswith(f"{entry}.") for entry in beginnings)}


def unet_self_specs(unet: Any) -> dict[str, BlockSpec]:
    """Return all self-attention blocks; by default those on the way up, if one of diffusers' processors runs them."""
    modules = unet_modules(unet)
    return {
        name: block_spec(name, module, default=name.startswith("up_blocks") and is_plain(module))
        for name, module in modules.items()
        if not module.is_cross_attention
    }


def unet_grids(unet: Any, latent: Grid) -> Mapping[str, Grid]:
    """Return the grid of every block and layer; each level halves it, rounding up, like the strided convolutions."""
    levels = [latent]
    for _ in range(len(unet.config.down_block_types) - 1):
        levels.append(((levels[-1][0] + 1) // 2, (levels[-1][1] + 1) // 2))
    return {name: levels[_level(name, len(levels))] for name in unet_modules(unet)} | feature_grids(unet, levels)


def _level(name: str, levels: int) -> int:
    """Return the level of a block; 0 is the finest, and the middle block has the coarsest."""
    part, index = name.split(".")[:2]
    if part == "mid_block":
        return levels - 1
    return int(index) if part == "down_blocks" else levels - 1 - int(index)
