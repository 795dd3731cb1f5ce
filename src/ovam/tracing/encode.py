"""Make a trace of a real image: encode it, add noise or not, and watch the denoiser run on it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
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
from ovam.errors import ImageInputError, UnsupportedPipelineError
from ovam.input_file import regular
from ovam.keywords import options_as_keywords
from ovam.picture_formats import FORMATS
from ovam.trace.trace import Trace
from ovam.tracing.capture import check_offered
from ovam.tracing.decoded import png
from ovam.tracing.encode_options import EncodeOptions
from ovam.tracing.keep_queries import QueryRecorder
from ovam.tracing.noise import NoiseSchedule, path_to, schedule_of
from ovam.tracing.options import of_calls
from ovam.tracing.plan import native_side
from ovam.tracing.schedule import Level
from ovam.tracing.session import Session
from ovam.tracing.storage import storage_of

Look = Callable[[Tensor, int], Tensor]
"""Runs the denoiser on a latent at a time step, and returns its prediction, float32."""


def encode_image(pipe: Any, image: str | Path | Image.Image | np.ndarray, options: EncodeOptions) -> Trace:
    """Make a trace of an image that the model did not generate.

    The denoiser runs on the image's latent at some time steps, without guidance. Each of these calls is one entry of
    the trace's step axis. The method decides which latent the denoiser gets:

    * "noise": the image's latent with random noise added; each time step gets `noises` different noises.
    * "inversion": the latent from which sampling would have made this image. Sampling is run backwards from the clean
      latent, by DDIM steps or, for flow-matching models (SD3, FLUX), by Euler steps. It is deterministic. The time
      steps in between are not kept.
    * "clean": the clean latent itself, once. This is for models tuned for it, such as CleanDIFT's UNets; other models
      expect noise that is not there.

    Args:
        pipe: A pipeline of a supported family.
        image: A file, a PIL image, or an array (height, width, 3) of uint8 or of floats in [0, 1].
        options: See `EncodeOptions`.

    Returns:
        A trace whose picture and size are the image's own.

    Raises:
        ImageInputError: the image can't be read or is of another kind.
        OptionError: the method is unknown, a time step is outside the scheduler's range, torch can't take the seed,
            an option belongs to another method, or the autoencoder can't take the size.
        UnsupportedPipelineError: `encode` does not support the family or the scheduler.
        PromptTooLongError: the prompt is longer than the encoder reads.
        The errors of `capture`.

    Source:
        DDIM inversion after Song et al. (arXiv:2010.02502), section 4.3; one call on the clean latent after Stracke
        et al., "CleanDIFT: Diffusion Features without Noise" (arXiv:2412.03439).
    """
    picture = read_image(image)
    backbone = backbone_of(pipe)
    check_family(backbone)
    denoiser: Any = backbone.denoiser
    end = int(pipe.scheduler.config.num_train_timesteps)
    times = options.times(end)
    options.check_size(pipe.vae_scale_factor * backbone.latent_multiple)
    inverts = options.method == "inversion"
    schedule = schedule_of(backbone, moves=inverts)
    if inverts:
        path = path_to(times, options.inversion_steps, end)
        steps = [i for i, timestep in enumerate(path) if timestep in times]
    else:
        path, steps = tuple(timestep for timestep in times for _ in range(options.noises)), None
    kept = of_calls(options, steps)
    check_offered(backbone, kept)
    model_size = native_size(backbone, picture) if options.size is None else options.size
    backbone.reader().check_length(options.prompt)  # the pipeline itself would only warn and cut it
    traces: list[Trace] = []
    session = Session(backbone, kept, QueryRecorder(backbone, traces, storage_of(kept)))
    with torch.no_grad(), evaluating(pipe), last_layer(pipe), ExitStack() as watching:
        conditions = backbone.conditions(options.prompt, model_size)
        clean = latent_of(pipe, picture, model_size).to(device_of(denoiser))
        watching.enter_context(session.installed())
        session.begin(
            Request(images=1, prompts=(options.prompt,)),
            (options.seed if options.method == "noise" else None,),
            levels=[Level(float(timestep), schedule.sigma(timestep)) for timestep in path],
            kept=len(path) if steps is None else len(steps),
        )

        def look(latent: Tensor, timestep: int) -> Tensor:
            return backbone.look(latent.to(denoiser.dtype), timestep, conditions).float()

        if inverts:
            _look_inverting(look, clean, schedule, path)
        else:
            _look_at(look, clean, schedule if options.method == "noise" else None, path, options.seed)
        session.finish([png(picture)], (picture.height, picture.width))
    return replace(traces[0], source=replace(traces[0].source, kind="encoded"))


def _look_at(look: Look, clean: Tensor, schedule: NoiseSchedule | None, path: Sequence[int], seed: int) -> None:
    """Run the denoiser at each time step, on the latent with new noise; without a schedule, on the clean latent."""
    generator = torch.Generator().manual_seed(seed)
    for timestep in path:
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        look(clean if schedule is None else schedule.noisy(clean, noise, timestep), timestep)


def _look_inverting(look: Look, latent: Tensor, schedule: NoiseSchedule, path: Sequence[int]) -> None:
    """Run the denoiser at every time step of a rising path, on the latent that the previous prediction gave."""
    for timestep, onward in itertools.pairwise(path):
        latent = schedule.moved(latent, look(latent, timestep), timestep, onward)
    look(latent, path[-1])


def read_image(image: str | Path | Image.Image | np.ndarray) -> Image.Image:
    """Return any accepted image as RGB and upright; transparent pixels become white.

    Raises:
        ImageInputError: the file is missing or no image, or the array has another shape or type.
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
        with Image.open(regular(path), formats=FORMATS) as opened:
            opened.load()
            return opened
    except FileNotFoundError as error:
        raise ImageInputError(f"image {path} is not there: expected the name of an image file") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageInputError(
            f"image {path} can't be read ({error}): expected a PNG, JPEG, WebP, BMP, GIF or TIFF file"
        ) from error


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


def check_family(backbone: Backbone) -> None:
    """Check that the family can encode real images, before its scheduler or size is read.

    Raises:
        UnsupportedPipelineError: the family can't (it raises its own error), or the denoiser needs more than a latent.
    """
    if type(backbone).conditions is Backbone.conditions:
        backbone.conditions("", (0, 0))
    wanted, given = backbone.latent_channels, backbone.pipe.vae.config.latent_channels
    if wanted != given:
        raise UnsupportedPipelineError(
            f"{type(backbone.pipe).__name__}: its {type(backbone.denoiser).__name__} reads {wanted} channels and a "
            f"latent has {given}, as models made for inpainting do: expected one that reads only a latent; encode the "
            "image with the model it was made from"
        )


def latent_of(pipe: Any, picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return the scaled latent of the picture at the model's size, without sampling noise; float32."""
    pixels = pipe.image_processor.preprocess(picture, height=size[0], width=size[1])
    with _wide_enough(pipe):
        pixels = pixels.to(device_of(pipe.vae), pipe.vae.dtype)
        encoded = pipe.vae.encode(pixels)
    # AutoencoderTiny returns a latent instead of a distribution
    latent: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return _scaled(latent.float(), pipe.vae.config)


def _scaled(latent: Tensor, config: Any) -> Tensor:
    """Scale a latent as in the denoiser's training; variants of SDXL have a mean and deviation for each channel."""
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or deviation is None:
        return (latent - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
    mean, deviation = (torch.tensor(part).to(latent).view(1, -1, 1, 1) for part in (mean, deviation))
    return (latent - mean) * config.scaling_factor / deviation


def native_size(backbone: Backbone, picture: Image.Image) -> tuple[int, int]:
    """Return a size with the model's native area and the picture's proportions, in whole cells of the coarsest grid."""
    side = native_side(backbone.pipe)
    coarsest = min(height for height, _ in backbone.grids((side, side)).values())
    scale = backbone.pipe.vae_scale_factor
    cell = scale * -(-side // coarsest)
    ratio = (picture.height / picture.width) ** 0.5
    return max(cell, round(side * scale * ratio / cell) * cell), max(cell, round(side * scale / ratio / cell) * cell)


encode = options_as_keywords(EncodeOptions, name="encode")(encode_image)
"""`encode_image` with its options as keywords."""


@contextmanager
def _wide_enough(pipe: Any) -> Iterator[None]:
    """Use the autoencoder in float32 if the pipeline itself would decode in float32, as float16 overflows (SDXL)."""
    narrow = hasattr(pipe, "upcast_vae") and pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast
    if narrow:
        pipe.vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            pipe.vae.to(torch.float16)


@contextmanager
def evaluating(pipe: Any) -> Iterator[None]:
    """Switch dropout off in all parts, and restore the mode of each module afterwards."""
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
def last_layer(pipe: Any) -> Iterator[None]:
    """Read words from the encoder's last layer, whatever layers the pipeline's last run skipped."""
    attributes, before = vars(pipe), vars(pipe).get("_clip_skip")
    if "_clip_skip" in attributes:
        attributes["_clip_skip"] = None
    try:
        yield
    finally:
        if "_clip_skip" in attributes:
            attributes["_clip_skip"] = before
