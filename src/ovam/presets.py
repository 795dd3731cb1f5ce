"""Settings of a capture that have a name, family by family: what `ovam.capture(pipe, preset=...)` stands for."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ovam.backbones.base import Backbone
from ovam.backbones.flux import FluxBackbone
from ovam.backbones.pixart import PixArtBackbone
from ovam.backbones.sd3 import SD3Backbone
from ovam.backbones.sdxl import SDXLBackbone
from ovam.backbones.unet import UNetBackbone
from ovam.errors import OptionError
from ovam.run import StepChoice
from ovam.trace import BlockChoice


@dataclass(frozen=True)
class Settings:
    """What to keep and in which type; the names are those of `ovam.capture`."""

    blocks: BlockChoice = None
    steps: StepChoice = None
    dtype: torch.dtype = torch.float16


PRESETS: Mapping[type[Backbone], Mapping[str, Settings]] = {
    # mini loses less than one point of mIoU by it: docs/performance.md, "Storage types"
    UNetBackbone: {"small": Settings(blocks=("up_blocks",), dtype=torch.int8)},
    # nobody has measured what these cost in quality
    SDXLBackbone: {"small": Settings(blocks=("up_blocks",), dtype=torch.int8)},
    PixArtBackbone: {"small": Settings(steps="middle", dtype=torch.int8)},
    SD3Backbone: {"small": Settings(steps="middle", dtype=torch.int8)},
    FluxBackbone: {"small": Settings(blocks=("transformer_blocks",), steps="middle", dtype=torch.int8)},
}
"""By family and name."""


def settings_of(
    backbone: Backbone,
    preset: str | None,
    *,
    blocks: BlockChoice = None,
    steps: StepChoice = None,
    dtype: torch.dtype | None = None,
) -> Settings:
    """The settings of a preset, or the defaults without one; what is given beside it takes its place.

    Raises:
        OptionError: the family has no preset of this name.
    """
    known = PRESETS.get(type(backbone), {})
    if preset is not None and preset not in known:
        raise OptionError(
            f"preset={preset!r}: expected {' or '.join(map(repr, known)) or 'none'} for a "
            f"{type(backbone.pipe).__name__}, or blocks, steps and dtype by themselves"
        )
    settings = Settings() if preset is None else known[preset]
    return Settings(
        blocks=settings.blocks if blocks is None else blocks,
        steps=settings.steps if steps is None else steps,
        dtype=settings.dtype if dtype is None else dtype,
    )
