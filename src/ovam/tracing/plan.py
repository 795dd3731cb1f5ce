"""Plan a capture: count the bytes that it will keep, before anything runs, without weights and memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovam.backbones.registry import backbone_of
from ovam.checks import whole
from ovam.errors import OptionError
from ovam.keywords import options_as_keywords
from ovam.models import outline
from ovam.tracing.budget import BlockBytes, bytes_of
from ovam.tracing.capture import check_offered
from ovam.tracing.options import CaptureOptions
from ovam.tracing.presets import with_preset
from ovam.tracing.run import shape_of_run


@dataclass(frozen=True)
class CapturePlan:
    """Bytes that a capture will keep.

    Attributes:
        pipeline: Class name of the pipeline.
        size: (height, width) of the image in pixels.
        calls: Number of kept denoiser calls.
        blocks: Bytes by block, in the order the model runs them; blocks whose self-attention is kept come last.
    """

    pipeline: str
    size: tuple[int, int]
    calls: int
    blocks: tuple[BlockBytes, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(block.nbytes for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class PlanOptions(CaptureOptions):
    """Options of a run and of its capture.

    Attributes:
        height: Height of the images in pixels; by default the model's native height.
        width: Width of the images in pixels; by default the model's native width.
        num_inference_steps: Steps of the run; Heun and PNDM make more denoiser calls than steps.
        images: Number of images.
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 50
    images: int = 1

    @property
    def calls(self) -> int:
        """Number of denoiser calls to keep."""
        numbers = self.numbers
        if numbers is None:
            return self.num_inference_steps
        return 1 if numbers == "middle" else len(numbers)


def planned(model: Any, options: PlanOptions) -> CapturePlan:
    """Return how many bytes `capture` would keep, block by block.

    Args:
        model: A pipeline, "mini", a folder or a model id. Of a named model only the configuration is read.
        options: See `PlanOptions`.

    Raises:
        ModelNotFoundError: no model has this name.
        UnsupportedPipelineError: no backbone reads the pipeline.
        MissingBlockError: the choice fits no block.
        OptionError: an option has a value that is not allowed.
    """
    pipe = outline(model) if isinstance(model, str | Path) else model
    backbone = backbone_of(pipe)
    kept = with_preset(options, backbone)
    check_offered(backbone, kept)
    factor = pipe.vae_scale_factor
    native = native_side(pipe) * factor
    size = (native if options.height is None else options.height, native if options.width is None else options.width)
    counts = {"num_inference_steps": options.num_inference_steps, "images": options.images}
    for name, value in {"height": size[0], "width": size[1], **counts}.items():
        unit = backbone.side_multiple if name in ("height", "width") else 1
        if whole(name, value, least=1) % unit:
            raise OptionError(f"{name}={value}: expected a positive multiple of {unit}")
    latent = (size[0] // factor, size[1] // factor)
    run = shape_of_run(backbone, kept, latent, images=options.images, calls=kept.calls)
    return CapturePlan(type(pipe).__name__, size, kept.calls, bytes_of(run, kept.dtype or torch.float16))


plan = options_as_keywords(PlanOptions, name="plan")(planned)
"""`planned` with its options as keywords."""


def native_side(pipe: Any) -> int:
    """Return the side of the latent that the model was made for; for packed families the pipeline has it."""
    config: Any = backbone_of(pipe).denoiser.config
    return int(getattr(config, "sample_size", None) or pipe.default_sample_size)


def both_sides(pipe: Any, height: int | None, width: int | None) -> tuple[int | None, int | None]:
    """Return (height, width) in pixels, with the model's own side for one that is None; both None if both are.

    Some pipelines of diffusers take their own size for both sides if one is missing.
    """
    if height is None and width is None:
        return None, None
    own = native_side(pipe) * pipe.vae_scale_factor
    return own if height is None else height, own if width is None else width
