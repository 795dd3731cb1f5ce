"""A real image as a trace: encode it, noise it at chosen time steps, and watch the denoiser look at it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ovam.backbones.base import Backbone, Request
from ovam.backbones.offload import device_of
from ovam.backbones.registry import backbone_of
from ovam.capture import byte_limit, choice_of
from ovam.decoded import png
from ovam.errors import ImageInputError, OptionError, UnsupportedPipelineError
from ovam.recorders import QueryRecorder
from ovam.session import Session
from ovam.trace import BlockChoice, Trace

TIMESTEPS = (50, 150, 250, 350, 450, 550, 650)
"""Default time steps of 1000: early enough to see detail, late enough to see what a thing is."""


def encode(
    pipe: Any,
    image: str | Path | Image.Image | np.ndarray,
    prompt: str = "",
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    noises: int = 1,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    blocks: BlockChoice = None,
    dtype: torch.dtype = torch.float16,
    device: str | torch.device = "cpu",
    limit_gib: float | None = None,
) -> Trace:
    """Make a trace of an image that the model did not generate.

    The image's latent is noised at each time step, with `noises` different noises, and the denoiser is run
    once on each, without guidance. The trace has one step entry per evaluation and answers any words.

    Args:
        pipe: A pipeline of a supported family.
        image: A file, a PIL image, or an array (height, width, 3) of uint8 or of floats in [0, 1].
        prompt: What the denoiser is told; empty by default, so that no word is favoured.
        timesteps: Time steps of the scheduler's training range, each in [0, 999] as a rule.
        noises: Noises a time step.
        seed: Seed of the noises.
        size: (height, width) to resize to for the model; by default its native area in the image's proportions.
        blocks: As in `capture`.
        dtype: As in `capture`.
        device: As in `capture`.
        limit_gib: As in `capture`.

    Returns:
        A trace whose picture and size are the image's own.

    Raises:
        ImageInputError: the image can't be read or is of another kind.
        OptionError: a time step outside the scheduler's range, no noise, or a size the autoencoder can't take.
        UnsupportedPipelineError: a family or a scheduler that `encode` can't work with.
        PromptTooLongError: the prompt is longer than the encoder reads.
        The errors of `capture`.
    """
    picture = read_image(image)
    backbone = backbone_of(pipe)
    _check_family(backbone)
    denoiser: Any = backbone.denoiser
    _check_options(timesteps, noises, int(pipe.scheduler.config.num_train_timesteps))
    _check_size(size, pipe.vae_scale_factor)
    signals = _signals(pipe)
    model_size = _native_size(backbone, picture) if size is None else size
    backbone.reader().check_length(prompt)  # the pipeline itself would cut it with a mere warning
    traces: list[Trace] = []
    target = torch.device(device)
    recorder = QueryRecorder(backbone, traces, dtype=dtype, device=target, limit=byte_limit(target, limit_gib))
    session = Session(backbone, choice_of(blocks, None, "cond"), recorder)
    generator = torch.Generator().manual_seed(seed)
    order = sorted(timesteps, reverse=True)
    with torch.no_grad(), _evaluating(pipe), _last_layer(pipe), ExitStack() as watching:
        conditions = backbone.conditions(prompt, model_size)
        clean = _latent(pipe, picture, model_size).to(denoiser.dtype)
        watching.enter_context(session.installed())
        session.begin(Request(images=1, prompts=(prompt,)), (seed,), calls=len(order) * noises)
        for timestep in order:
            for _ in range(noises):
                noise = torch.randn(clean.shape, generator=generator).to(clean)
                signal = signals[timestep].to(clean)
                noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
                denoiser(noisy, timestep=torch.tensor([timestep], device=clean.device), **conditions)
        session.finish([png(picture)], (picture.height, picture.width))
    return replace(traces[0], source=replace(traces[0].source, kind="encoded"))


def read_image(image: str | Path | Image.Image | np.ndarray) -> Image.Image:
    """Any accepted image as RGB and upright; transparent pixels become white.

    Raises:
        ImageInputError: a file that is missing or no image, or an array of another shape or type.
    """
    if isinstance(image, str | Path):
        image = _opened(Path(image))
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, Image.Image):
        raise ImageInputError(
            f"image is a {type(image).__name__}: expected a file name, a PIL image, or an array (height, width, 3)"
        )
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip them to white
        raise ImageInputError(
            f"image has pixels of mode {image.mode}: expected 8 bits a channel; scale it to 0..255 first"
        )
    if min(image.size) == 0:
        raise ImageInputError(f"image is {image.height} x {image.width} pixels: expected at least 1 x 1")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return image.convert("RGB")


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened
    except FileNotFoundError as error:
        raise ImageInputError(f"image {path} is not there: expected the name of an image file") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageInputError(f"image {path} can't be read ({error}): expected a PNG, JPEG or WebP file") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype not in (np.uint8, np.float32, np.float64):
        raise ImageInputError(
            f"image is an array of shape {array.shape} and type {array.dtype}: expected (height, width, 3) of uint8, "
            "or of floats in [0, 1]"
        )
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    if array.size and (not np.isfinite(array).all() or array.min() < 0 or array.max() > 1):
        raise ImageInputError(
            f"image is an array of floats from {array.min()} to {array.max()}: expected them in [0, 1]; "
            "divide by 255, or pass uint8"
        )
    return Image.fromarray((array * 255).round().astype(np.uint8))


def _check_family(backbone: Backbone) -> None:
    """A family that can't look at real images refuses by its own words, before its scheduler or size is looked at.

    Raises:
        UnsupportedPipelineError: the family can't, or the denoiser wants more than a latent.
    """
    if type(backbone).conditions is Backbone.conditions:
        backbone.conditions("", (0, 0))
    denoiser: Any = backbone.denoiser
    wanted, given = denoiser.config.in_channels, backbone.pipe.vae.config.latent_channels
    if wanted != given:
        raise UnsupportedPipelineError(
            f"{type(backbone.pipe).__name__}: its {type(denoiser).__name__} reads {wanted} channels and a latent has "
            f"{given}, as models made for inpainting do: expected one that reads a latent alone; encode the image "
            "with the model it was made from"
        )


def _check_options(timesteps: Sequence[int], noises: int, training_steps: int) -> None:
    outside = [timestep for timestep in timesteps if not 0 <= timestep < training_steps or timestep % 1]
    if outside or not timesteps:
        raise OptionError(
            f"timesteps={tuple(timesteps)}: expected at least one, each a whole number from 0 to {training_steps - 1}, "
            "the range the scheduler was trained on"
        )
    if noises < 1:
        raise OptionError(f"noises={noises}: expected at least 1")


def _check_size(size: tuple[int, int] | None, cell: int) -> None:
    if size is not None and any(length < cell or length % cell for length in size):
        raise OptionError(f"size={size}: expected (height, width), each a positive multiple of {cell} pixels")


def _signals(pipe: Any) -> Tensor:
    """Share of the image's variance that is left at each time step of the scheduler's training."""
    signals = getattr(pipe.scheduler, "alphas_cumprod", None)
    if signals is None:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} with a {type(pipe.scheduler).__name__} can't encode real images: expected a "
            "scheduler of the models trained on noise (alphas_cumprod), such as DDIMScheduler; put one in its place"
        )
    return signals


def _latent(pipe: Any, picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """The scaled latent of the picture at the size the model works on, without sampling noise."""
    pixels = pipe.image_processor.preprocess(picture, height=size[0], width=size[1])
    with _wide_enough(pipe):
        pixels = pixels.to(device_of(pipe.vae), pipe.vae.dtype)
        return pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor


def _native_size(backbone: Backbone, picture: Image.Image) -> tuple[int, int]:
    """The model's native area in the picture's proportions, in whole cells of the coarsest grid."""
    denoiser: Any = backbone.denoiser
    side = denoiser.config.sample_size
    coarsest = min(height for height, _ in backbone.grids((side, side)).values())
    scale = backbone.pipe.vae_scale_factor
    cell = scale * -(-side // coarsest)
    ratio = (picture.height / picture.width) ** 0.5
    return max(cell, round(side * scale * ratio / cell) * cell), max(cell, round(side * scale / ratio / cell) * cell)


@contextmanager
def _wide_enough(pipe: Any) -> Iterator[None]:
    """The autoencoder in float32 where the pipeline itself would decode in it, since float16 overflows (SDXL)."""
    narrow = hasattr(pipe, "upcast_vae") and pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast
    if narrow:
        pipe.vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            pipe.vae.to(torch.float16)


@contextmanager
def _evaluating(pipe: Any) -> Iterator[None]:
    """Dropout off in all parts, and the mode of each module put back."""
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    training = [module for part in parts for module in part.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _last_layer(pipe: Any) -> Iterator[None]:
    """Words are read from the encoder's last layer, whatever layers the pipeline's last run skipped."""
    attributes, before = vars(pipe), vars(pipe).get("_clip_skip")
    if "_clip_skip" in attributes:
        attributes["_clip_skip"] = None
    try:
        yield
    finally:
        if "_clip_skip" in attributes:
            attributes["_clip_skip"] = before
