"""Presets: named settings of a capture for each family, as in `ovam.capture(pipe, preset="small")`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch

from ovam.backbones.base import Backbone
from ovam.backbones.flux import FluxBackbone
from ovam.backbones.pixart import PixArtBackbone
from ovam.backbones.sd3 import SD3Backbone
from ovam.backbones.sdxl import SDXLBackbone
from ovam.backbones.unet import UNetBackbone
from ovam.errors import OptionError
from ovam.tracing.options import CaptureOptions

Options = TypeVar("Options", bound=CaptureOptions)

PRESETS: Mapping[type[Backbone], Mapping[str, CaptureOptions]] = {
    # with it, mini loses less than one point of mIoU: docs/performance.md, "Storage types"
    UNetBackbone: {"small": CaptureOptions(blocks=("up_blocks",), dtype=torch.int8)},
    # the loss of quality by these has not been measured
    SDXLBackbone: {"small": CaptureOptions(blocks=("up_blocks",), dtype=torch.int8)},
    PixArtBackbone: {"small": CaptureOptions(steps="middle", dtype=torch.int8)},
    SD3Backbone: {"small": CaptureOptions(steps="middle", dtype=torch.int8)},
    FluxBackbone: {"small": CaptureOptions(blocks=("transformer_blocks",), steps="middle", dtype=torch.int8)},
}
"""Presets by family and name."""


def with_preset(options: Options, backbone: Backbone) -> Options:
    """Return the options with the settings of their preset; explicit options override the preset.

    Raises:
        OptionError: the family has no preset of this name.
    """
    known, preset = PRESETS.get(type(backbone), {}), options.preset
    if preset is None:
        return options
    if preset not in known:
        raise OptionError(
            f"preset={preset!r}: expected {' or '.join(map(repr, known)) or 'none'} for a "
            f"{type(backbone.pipe).__name__}, or blocks, steps and dtype by themselves"
        )
    settings = known[preset]
    return replace(
        options,
        blocks=settings.blocks if options.blocks is None else options.blocks,
        steps=settings.steps if options.steps is None else options.steps,
        dtype=settings.dtype if options.dtype is None else options.dtype,
    )
