"""Make an image's latent noisy, in diffusion and flow-matching models: add noise, or run sampling backwards."""

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
    """The noise of a latent at each time step of the model's training."""

    def noisy(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Return the image's latent with this noise added."""
        ...

    def target(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Return what the model was trained to predict for the image's latent with this noise."""
        ...

    def moved(self, latent: Tensor, predicted: Tensor, timestep: int, onward: int) -> Tensor:
        """Return the latent at another time step, by one deterministic step along the model's prediction."""
        ...

    def sigma(self, timestep: int) -> float | None:
        """Return the noise level as schedulers define it; see `ovam.trace.calls.Call`."""
        ...


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Variance-preserving noise: sqrt(a) * image + sqrt(1 - a) * noise, with a share a of the image at each time step.

    Attributes:
        signals: The shares a by time step. Time step 0 has a share of nearly 1 and is used for the clean image, as at
            the end of sampling.
        predicts: What the model predicts: the scheduler's `prediction_type`.
    """

    signals: Tensor
    predicts: str

    def noisy(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        signal = self.signals[timestep].to(clean)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Return the noise, the clean latent, or (for "v_prediction") a mixture of both.

        Source:
            Salimans and Ho (arXiv:2202.00512), section 4: v = sqrt(a) * noise - sqrt(1 - a) * image.
        """
        if self.predicts == "v_prediction":
            signal = self.signals[timestep].to(clean)
            return signal.sqrt() * noise - (1 - signal).sqrt() * clean
        return noise if self.predicts == "epsilon" else clean

    def moved(self, latent: Tensor, predicted: Tensor, timestep: int, onward: int) -> Tensor:
        """Return the latent after one DDIM step, in either direction.

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
    """Flow matching: a straight path from image to noise, (1 - s) * image + s * noise; the model predicts its velocity.

    Attributes:
        end: Time step of pure noise.
    """

    end: int

    def noisy(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        level = self.sigma(timestep)
        return (1 - level) * clean + level * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Return the velocity of the path, which is the same at every time step."""
        return noise - clean

    def moved(self, latent: Tensor, predicted: Tensor, timestep: int, onward: int) -> Tensor:
        """Return the latent after one Euler step, in either direction."""
        return latent + (self.sigma(onward) - self.sigma(timestep)) * predicted

    def sigma(self, timestep: int) -> float:
        return timestep / self.end


def schedule_of(backbone: Backbone, *, moves: bool) -> NoiseSchedule:
    """Return the noise schedule with which a pipeline's model was trained.

    Args:
        backbone: Reads the pipeline.
        moves: Whether `moved` or `target` will be called, which need to know what the model predicts.

    Raises:
        UnsupportedPipelineError: the scheduler does not have this information.
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
            f"{type(pipe).__name__} predicts {predicts!r} by its {type(scheduler).__name__}, which inversion and "
            f"word gains can't follow: expected one of {', '.join(_PREDICTIONS)}; put another scheduler in, or use "
            "encode with method='noise'"
        )
    return Diffusion(signals, predicts)


def path_to(timesteps: tuple[int, ...], steps: int, end: int) -> tuple[int, ...]:
    """Return the time steps of an inversion, rising from 0.

    They are `timesteps` and, before the last of these, the time steps of `steps` equal steps from 0 to `end`.
    """
    even = {round(i * end / steps) for i in range(steps)}
    return tuple(sorted({0, *timesteps} | {t for t in even if t < max(timesteps)}))


def check_seed(seed: int, images: int = 1) -> None:
    """Check that torch accepts one seed per image: `seed`, `seed` + 1 and so on.

    Negative seeds are accepted too; torch reads them as large ones.

    Raises:
        OptionError: torch does not accept them.
    """
    if integer(seed) is None or not -_SEEDS // 2 <= seed <= _SEEDS - images:
        raise OptionError(f"seed={seed}: expected a whole number from 0 to {_SEEDS - images}")
