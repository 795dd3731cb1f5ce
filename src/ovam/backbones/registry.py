"""Choose the backbone for a pipeline by class names, so that no heavy package is imported."""

from difflib import SequenceMatcher
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
    """Return the class names of all supported pipelines."""
    return tuple(name for backbone in BACKBONES for name in backbone.pipelines)


def register(backbone: type[Backbone]) -> None:
    """Add your own backbone; it has priority over others with the same pipelines."""
    global BACKBONES
    BACKBONES = (backbone, *BACKBONES)


def backbone_of(pipe: Any) -> Backbone:
    """Return the backbone of a pipeline; a subclass of a supported pipeline gets its parent's backbone.

    Raises:
        UnsupportedPipelineError: no backbone supports it.
    """
    for name in _ancestry(pipe):
        for backbone in BACKBONES:
            if name in backbone.pipelines:
                return backbone(pipe)
    own = type(pipe).__name__
    raise UnsupportedPipelineError(
        f"pipeline is a {own}, which is not supported: expected one of the {len(supported())} supported pipelines "
        "of Stable Diffusion 1, 2, XL and 3, PixArt and FLUX.1 (Fill and Kontext too), such as a "
        f"StableDiffusionPipeline, or the one with the most similar name, a {nearest(own)} "
        "(ovam.backbones.registry.supported() lists all); load one with ovam.load(...), or write a backbone for this "
        "one (docs/adding-a-backbone.md)"
    )


def nearest(name: str) -> str:
    """Return the supported pipeline with the most similar class name."""
    stem = name.removesuffix("Pipeline")
    return max(supported(), key=lambda other: SequenceMatcher(None, stem, other.removesuffix("Pipeline")).ratio())


def read_as(pipe: Any) -> str:
    """Return the class name of the supported pipeline that this one is, or is derived from.

    Raises:
        UnsupportedPipelineError: no backbone supports it.
    """
    return next(name for name in _ancestry(pipe) if name in backbone_of(pipe).pipelines)


def _ancestry(pipe: Any) -> list[str]:
    """Return the names of the pipeline's class and its parent classes, its own first."""
    return [cls.__name__ for cls in type(pipe).__mro__]
