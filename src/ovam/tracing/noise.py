"""How an image's latent gets noisy in the two kinds of model: by noise put on it, or by steps against the sampling."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ovam.backbones.base import Backbone
from ovam.checks import integer
from ovam.errors import OptionError, UnsupportedPipelineError

_SEEDS = 2**64
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


@runtime_checkable
class NoiseSchedule(Protocol):
    """What a latent is at each time step of the model's training."""

    def noisy(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """The image's latent with this noise put on it."""
        ...

    def moved(self, latent: Tensor, predicted: Tensor, timestep: int, onward: int) -> Tensor:
        """The latent at another time step, on the way without chance that the model's prediction tells."""
        ...

    def sigma(self, timestep: int) -> float | None:
        """Noise level as schedulers tell it; see `ovam.trace.calls.Call`."""
        ...


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Variance is kept: sqrt(a) * image + sqrt(1 - a) * noise, with a share a of the image at each time step.

    Attributes:
        signals: The shares a by time step; that of step 0 is nearly 1 and stands for the clean image, as it does
            where sampling ends.
        predicts: What the model predicts, by the scheduler's word.
    """

    signals: Tensor
    predicts: str

    def noisy(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        signal = self.signals[timestep].to(clean)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise

    def moved(self, latent: Tensor, predicted: Tensor, timestep: int, onward: int) -> Tensor:
        """A step of DDIM, in either direction.

        Source:
            Song et al., "Denoising Diffusion Implicit Models", ICLR 2021 (arXiv:2010.02502), equation (12) with
            sigma = 0; v-prediction after Salimans and Ho (arXiv:2202.00512), appendix D.
        """
        signal, target = (self.signals[t].to(latent) for t in (timestep, onward))
        share, rest = signal.sqrt(), (1 - signal).sqrt()
        if self.predicts == "epsilon":
            noise, clean = predicted, (latent - rest * predicted) / share
        elif self.predicts == "v_prediction":
            noise, clean = share * predicted + rest * latent, share * latent - rest * predicted
        else:
            noise, clean = (latent - share * predicted) / rest, predicted
        return target.sqrt() * clean + (1 - target).sqrt() * noise

    def sigma(self, timestep: int) -> float | None:
        signal = float(self.signals[timestep])
        return ((1 - signal) / signal) ** 0.5 if signal > 0 else None


@dataclass(frozen=True)
class Flow:
    """A straight way from image to noise, (1 - s) * image + s * noise; the model predicts its velocity.

    Attributes:
        end: Time step of pure noise.
    """

    end: int

    def noisy(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        level = self.sigma(timestep)
        return (1 - level) * clean + level * noise

    def moved(self, latent: Tensor, predicted: Tensor, timestep: int, onward: int) -> Tensor:
        """A step of Euler's method, in either direction."""
        return latent + (self.sigma(onward) - self.sigma(timestep)) * predicted

    def sigma(self, timestep: int) -> float:
        return timestep / self.end


def schedule_of(backbone: Backbone, *, moves: bool) -> NoiseSchedule:
    """The noise that a pipeline's model was trained on.

    Args:
        backbone: Reads the pipeline.
        moves: Whether its predictions are needed as well.

    Raises:
        UnsupportedPipelineError: the scheduler does not tell it.
    """
    pipe: Any = backbone.pipe
    scheduler = pipe.scheduler
    if backbone.flow:
        return Flow(int(scheduler.config.num_train_timesteps))
    signals, predicts = getattr(scheduler, "alphas_cumprod", None), str(scheduler.config.get("prediction_type"))
    if signals is None:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} with a {type(scheduler).__name__} can't encode real images: expected a "
            "scheduler of the models trained on noise (alphas_cumprod), such as DDIMScheduler; put one in its place"
        )
    if moves and predicts not in _PREDICTIONS:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} predicts {predicts!r} by its {type(scheduler).__name__}, which inversion can't "
            f"follow: expected one of {', '.join(_PREDICTIONS)}; use method='noise', or put another scheduler in"
        )
    return Diffusion(signals, predicts)


def path_to(timesteps: tuple[int, ...], steps: int, end: int) -> tuple[int, ...]:
    """Time steps of an inversion, rising from 0: evenly on the way to `end` in so many steps, and those asked for."""
    even = {round(i * end / steps) for i in range(steps)}
    return tuple(sorted({0, *timesteps} | {t for t in even if t < max(timesteps)}))


def check_seed(seed: int, images: int = 1) -> None:
    """Whether torch takes the seeds of so many images, which follow each other; negative ones stand for large ones.

    Raises:
        OptionError: it does not.
    """
    if integer(seed) is None or not -_SEEDS // 2 <= seed <= _SEEDS - images:
        raise OptionError(f"seed={seed}: expected a whole number from 0 to {_SEEDS - images}")
