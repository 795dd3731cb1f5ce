"""What a capture will keep, told before anything runs: no weights, no memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovam.backbones.registry import backbone_of
from ovam.capture import Guidance, check_outputs, choice_of, storage_type
from ovam.errors import OptionError
from ovam.models import outline
from ovam.recorders import kept_layout
from ovam.run import plan_run
from ovam.trace import BlockChoice, Grid


@dataclass(frozen=True)
class BlockBytes:
    """What a capture keeps of one block, all steps, images and halves together.

    Attributes:
        name: Module path in the denoiser.
        grid: Height and width of its pixels.
        query: Bytes of queries; 0 where the block was not chosen.
        replay: Bytes of image keys, values and modulation, which late words need in joint attention.
        output: Bytes of attention outputs, where they were asked for.
    """

    name: str
    grid: Grid
    query: int
    replay: int
    output: int


@dataclass(frozen=True)
class CapturePlan:
    """Bytes that a capture will keep.

    Attributes:
        pipeline: Class name of the pipeline.
        size: (height, width) of the image in pixels.
        calls: Kept denoiser calls.
        blocks: In the order in which the model runs them.
    """

    pipeline: str
    size: tuple[int, int]
    calls: int
    blocks: tuple[BlockBytes, ...]

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(block.query + block.replay + block.output for block in self.blocks)


def plan(
    model: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int = 50,
    images: int = 1,
    blocks: BlockChoice = None,
    guidance: Guidance = "cond",
    dtype: torch.dtype = torch.float16,
    outputs: bool = False,
) -> CapturePlan:
    """How many bytes `capture` would keep, block by block.

    Args:
        model: A pipeline, or "mini", a folder or a model id, of which only the configuration is read.
        height: Of the images in pixels; by default the model's own.
        width: Likewise.
        steps: Denoiser calls to keep: the steps of the run, or of those chosen; Heun and PNDM make more calls.
        images: Number of images.
        blocks: As in `capture`.
        guidance: As in `capture`.
        dtype: As in `capture`.
        outputs: As in `capture`.

    Raises:
        ModelNotFoundError: the name is no model's.
        UnsupportedPipelineError: no backbone reads the pipeline.
        MissingBlockError: the choice fits no block.
        OptionError: an option has a value it can't take.
    """
    pipe = outline(model) if isinstance(model, str | Path) else model
    backbone, choice = backbone_of(pipe), choice_of(blocks, None, guidance)
    if outputs:
        check_outputs(backbone)
    factor = pipe.vae_scale_factor
    native = native_side(pipe) * factor
    size = (native if height is None else height, native if width is None else width)
    for name, value in {"height": size[0], "width": size[1], "steps": steps, "images": images}.items():
        unit = backbone.side_multiple if name in ("height", "width") else 1
        if value < 1 or value % unit:
            raise OptionError(f"{name}={value}: expected a positive multiple of {unit}")
    latent = (size[0] // factor, size[1] // factor)
    run = plan_run(backbone, choice.blocks, latent, halves=choice.halves, images=images, calls=steps, outputs=outputs)
    bytes_of = {name: {"query": 0, "replay": 0, "output": 0} for name in run.watched}
    for (name, part), kept in kept_layout(run, storage_type(dtype)).items():
        bytes_of[name][part if part in ("query", "output") else "replay"] += kept.nbytes * images * len(choice.halves)
    grids = backbone.grids(latent)
    rows = tuple(BlockBytes(name, grids[name], **parts) for name, parts in bytes_of.items())
    return CapturePlan(type(pipe).__name__, size, steps, rows)


def native_side(pipe: Any) -> int:
    """Side of the latent that the model was made for; packed families tell it of the pipeline alone."""
    config: Any = backbone_of(pipe).denoiser.config
    return int(getattr(config, "sample_size", None) or pipe.default_sample_size)
