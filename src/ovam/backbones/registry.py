"""Which backbone reads which pipeline, decided by class names, so that nothing heavy is imported to ask."""

from typing import Any

from ovam.backbones.base import Backbone
from ovam.backbones.flux import FluxBackbone
from ovam.backbones.pixart import PixArtBackbone
from ovam.backbones.sd3 import SD3Backbone
from ovam.backbones.sdxl import SDXLBackbone
from ovam.backbones.unet import UNetBackbone
from ovam.errors import UnsupportedPipelineError

BACKBONES: tuple[type[Backbone], ...] = (UNetBackbone, SDXLBackbone, PixArtBackbone, SD3Backbone, FluxBackbone)


def supported() -> tuple[str, ...]:
    """Class names of all supported pipelines."""
    return tuple(name for backbone in BACKBONES for name in backbone.pipelines)


def register(backbone: type[Backbone]) -> None:
    """Let a backbone of your own read its pipelines, before any other that names them too."""
    global BACKBONES
    BACKBONES = (backbone, *BACKBONES)


def backbone_of(pipe: Any) -> Backbone:
    """The backbone of a pipeline; a subclass of a supported one is read as its parent.

    Raises:
        UnsupportedPipelineError: no backbone reads it.
    """
    ancestry = [cls.__name__ for cls in type(pipe).__mro__]
    for backbone in BACKBONES:
        if set(ancestry) & set(backbone.pipelines):
            return backbone(pipe)
    raise UnsupportedPipelineError(
        f"pipeline is a {ancestry[0]}: expected one of {', '.join(supported())}; load such a pipeline with "
        "ovam.load(...), or write a backbone for this one and ovam.backbones.registry.register it (CONTRIBUTING.md)"
    )
