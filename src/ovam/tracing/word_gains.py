"""Ask the denoiser about words: does it predict a picture's noise better if it reads the word?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ovam.backbones.base import Backbone
from ovam.backbones.offload import device_of
from ovam.backbones.registry import backbone_of
from ovam.checks import listed, size_of, whole
from ovam.keywords import options_as_keywords
from ovam.maps.gains import GainMaps, WordGains
from ovam.maps.words import Listed, check_different, contrast_of, entries_of, names_of
from ovam.progress import Progress, no_progress
from ovam.prompt import BAR, folded, synonyms_of
from ovam.tokens.options import AGAINST
from ovam.tracing.encode import check_family, evaluating, last_layer, latent_of, native_size, read_image
from ovam.tracing.encode_options import check_size, falling_times
from ovam.tracing.noise import NoiseSchedule, check_seed, schedule_of
from ovam.tracing.session import check_not_captured

Picture = str | Path | Image.Image | np.ndarray
TIMESTEPS = (50, 100, 150, 200, 250, 300)
"""Default time steps, out of 1000. At these the denoiser still sees the picture, and little of the error is left to
chance; chosen on validation scenes of mini."""


@dataclass(frozen=True, kw_only=True)
class GainOptions:
    """Options of `ovam.word_gains`. Values are checked when the object is made.

    The denoiser runs once for each word, time step and noise: with three words, eight words to compare with, the empty
    prompt and the defaults, 216 times. Fewer time steps or noises are faster and less certain.

    Attributes:
        against: Words to compare with, besides the other words: a word must be ahead of them to be present. Name what
            the picture could show instead, and nothing that means the same. By default they are common backgrounds
            (`ovam.tokens.options.AGAINST`).
        timesteps: Time steps in the scheduler's training range, usually [0, 999].
        noises: Number of noises per time step.
        seed: Seed of the noises.
        size: (height, width) to which the picture is resized for the model; by default the model's native area in the
            picture's proportions.
        batch: Texts in one batch of the denoiser. Fewer need less memory.

    Raises:
        OptionError: a value is not allowed.
    """

    against: Listed = AGAINST
    timesteps: Sequence[int] | np.ndarray = TIMESTEPS
    noises: int = 3
    seed: int = 0
    size: tuple[int, int] | None = None
    batch: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "against", contrast_of(self.against))
        object.__setattr__(self, "timesteps", tuple(listed("timesteps", self.timesteps)))
        for name in ("noises", "batch"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        check_seed(self.seed)
        if self.size is not None:
            object.__setattr__(self, "size", size_of("size", self.size))


def measure_gains(
    pipe: Any,
    image: Picture,
    words: Listed,
    options: GainOptions,
    progress: Progress = no_progress,
) -> WordGains:
    """Measure word gains as `word_gains` does, and report how many runs of the denoiser are done."""
    names = _names(words, options.against)
    picture = read_image(image)
    backbone = backbone_of(pipe)
    check_family(backbone)
    check_not_captured(backbone)
    times = falling_times(tuple(options.timesteps), int(pipe.scheduler.config.num_train_timesteps))
    check_size(options.size, pipe.vae_scale_factor * backbone.latent_multiple)
    schedule = schedule_of(backbone, moves=True)
    size = native_size(backbone, picture) if options.size is None else options.size
    texts = ("", *dict.fromkeys(text for name in names for text in synonyms_of(name)))
    for text in texts:
        backbone.reader().check_length(text)  # the pipeline itself would only warn and cut it
    looks = [timestep for timestep in times for _ in range(options.noises)]
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad(), evaluating(pipe), last_layer(pipe):
        batches = [
            [backbone.conditions(text, size) for text in texts[start : start + options.batch]]
            for start in range(0, len(texts), options.batch)
        ]
        clean = latent_of(pipe, picture, size).to(device_of(backbone.denoiser))
        total = torch.zeros(len(texts), *clean.shape[-2:])
        for number, timestep in enumerate(looks):
            progress("asking the denoiser", number * len(texts), len(looks) * len(texts))
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            total += gains_of(_errors(backbone, schedule, clean, noise, timestep, batches))
    mean = dict(zip(texts, total / len(looks), strict=True))
    maps = torch.stack([torch.stack([mean[text] for text in synonyms_of(name)]).amax(0) for name in names])
    return WordGains(names, maps, len(looks))


def _errors(
    backbone: Backbone,
    schedule: NoiseSchedule,
    clean: Tensor,
    noise: Tensor,
    timestep: int,
    batches: Sequence[Sequence[Mapping[str, Any]]],
) -> Float[Tensor, "text height width"]:
    """Return the squared errors of the denoiser's predictions, summed over channels, one map for each text.

    The conditions of the texts are given in batches.
    """
    noisy, target = schedule.noisy(clean, noise, timestep), schedule.target(clean, noise, timestep)
    denoiser: Any = backbone.denoiser
    noisy, errors = noisy.to(denoiser.dtype), list[Tensor]()
    for conditions in batches:
        found = backbone.look(noisy.expand(len(conditions), -1, -1, -1), timestep, joined(conditions)).float()
        errors.append((found - target).square().sum(1).cpu())
    return torch.cat(errors)


def joined(conditions: Sequence[Any]) -> Any:
    """Return the conditions of several texts as those of one batch: tensors with one row are put one after the other.

    What has no row for each text, such as the positions of the text's tokens in FLUX, is the same for all texts.
    """
    first = conditions[0]
    if isinstance(first, Mapping):
        return {name: joined([each[name] for each in conditions]) for name in first}
    if isinstance(first, Tensor) and len(first) == 1:
        return torch.cat(list(conditions))
    return first


def gains_of(errors: Float[Tensor, "text height width"]) -> GainMaps:
    """Return the decrease of squared errors against the first text's, divided by the mean of the first text's."""
    return (errors[:1] - errors) / errors[0].mean()


def _names(words: Listed, against: Listed) -> tuple[str, ...]:
    """Return the words, and then the words to compare with that are not among them, each once."""
    asked = names_of(entries_of(words))
    check_different(asked)
    known = {folded(text) for name in asked for text in synonyms_of(name)}
    others = [name for name in names_of(contrast_of(against)) if not known & {*map(folded, name.split(BAR))}]
    return tuple({folded(name): name for name in (*asked, *others)}.values())


def _measured(pipe: Any, image: Picture, words: Listed, options: GainOptions) -> WordGains:
    """Measure how much better the denoiser predicts a picture's noise when it reads each word.

    Noise is added to the picture's latent, and the denoiser predicts it: once with the empty prompt, and once with each
    word alone. All words see the same noises. The result tells better than attention whether a word is there:
    `gains.presence("dog")`. With `trace.segment(words, gains=gains)` the gains also change the masks.

    Args:
        pipe: A pipeline of a family that `ovam.encode` supports.
        image: The picture, generated or not: a file, a PIL image, or an array as in `ovam.encode`.
        words: Words and phrases; a `TokenSet` stands for the names of its classes. Synonyms ("dog|puppy") count as one
            word, with the greatest of their gains at each place.
        options: See `GainOptions`.

    Returns:
        The gains of the words, and then those of the words to compare with.

    Raises:
        EmptyWordsError: there is no word.
        OptionError: a word is listed twice.
        PromptTooLongError: a word is longer than the encoder reads.
        The errors of `ovam.encode`.

    Source:
        Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023 (arXiv:2303.16203): the class
        whose name gives the least error. Here the errors are kept by place, so that several things can be present.
    """
    return measure_gains(pipe, image, words, options)


word_gains = options_as_keywords(GainOptions, name="word_gains")(_measured)
"""`measure_gains` with its options as keywords."""
