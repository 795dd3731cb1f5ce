"""What a capture will keep, told before anything runs: no weights, no memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovam.backbones.registry import backbone_of
from ovam.capture import Guidance, check_offered, choice_of
from ovam.errors import OptionError
from ovam.kept import BlockBytes, block_bytes
from ovam.models import outline
from ovam.presets import settings_of
from ovam.recorders import kept_layout
from ovam.run import plan_run
from ovam.storage import storage_type
from ovam.trace import BlockChoice


@dataclass(frozen=True)
class CapturePlan:
    """Bytes that a capture will keep.

    Attributes:
        pipeline: Class name of the pipeline.
        size: (height, width) of the image in pixels.
        calls: Kept denoiser calls.
        blocks: In the order in which the model runs them; those whose self-attention is kept stand behind the others.
    """

    pipeline: str
    size: tuple[int, int]
    calls: int
    blocks: tuple[BlockBytes, ...]

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(block.nbytes for block in self.blocks)


def plan(
    model: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int = 50,
    images: int = 1,
    blocks: BlockChoice = None,
    guidance: Guidance = "cond",
    dtype: torch.dtype | None = None,
    preset: str | None = None,
    outputs: bool = False,
    self_attention: BlockChoice = None,
) -> CapturePlan:
    """How many bytes `capture` would keep, block by block.

    Args:
        model: A pipeline, or "mini", a folder or a model id, of which only the configuration is read.
        height: Of the images in pixels; by default the model's own.
        width: Likewise.
        steps: Denoiser calls to keep: the steps of the run, or of those chosen; Heun and PNDM make more calls. Of a
            preset that keeps the middle step alone there is one.
        images: Number of images.
        blocks: As in `capture`.
        guidance: As in `capture`.
        dtype: As in `capture`.
        preset: As in `capture`.
        outputs: As in `capture`.
        self_attention: As in `capture`.

    Raises:
        ModelNotFoundError: the name is no model's.
        UnsupportedPipelineError: no backbone reads the pipeline.
        MissingBlockError: the choice fits no block.
        OptionError: an option has a value it can't take.
    """
    pipe = outline(model) if isinstance(model, str | Path) else model
    backbone = backbone_of(pipe)
    settings = settings_of(backbone, preset, blocks=blocks, dtype=dtype)
    choice = choice_of(settings.blocks, settings.steps, guidance, outputs=outputs, self_attention=self_attention)
    check_offered(backbone, choice)
    factor = pipe.vae_scale_factor
    native = native_side(pipe) * factor
    size = (native if height is None else height, native if width is None else width)
    for name, value in {"height": size[0], "width": size[1], "steps": steps, "images": images}.items():
        unit = backbone.side_multiple if name in ("height", "width") else 1
        if value < 1 or value % unit:
            raise OptionError(f"{name}={value}: expected a positive multiple of {unit}")
    latent = (size[0] // factor, size[1] // factor)
    calls = steps if choice.steps is None else 1
    run = plan_run(backbone, choice, latent, images=images, calls=calls)
    rows = block_bytes(run, kept_layout(run, storage_type(settings.dtype)))
    return CapturePlan(type(pipe).__name__, size, calls, rows)


def native_side(pipe: Any) -> int:
    """Side of the latent that the model was made for; packed families tell it of the pipeline alone."""
    config: Any = backbone_of(pipe).denoiser.config
    return int(getattr(config, "sample_size", None) or pipe.default_sample_size)
