"""Options of `ovam.encode`."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from ovam.checks import listed, size_of, whole
from ovam.errors import OptionError
from ovam.tracing.noise import check_seed
from ovam.tracing.options import KeepOptions

Method = Literal["noise", "inversion", "clean"]
TIMESTEPS = (50, 150, 250, 350, 450, 550, 650)
"""Default time steps, out of 1000: the low ones show detail, the high ones show what a thing is."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(KeepOptions):
    """Options of `ovam.encode`: how the denoiser runs on a real image.

    Attributes:
        prompt: Prompt that the denoiser reads; empty by default, so that no word is favoured.
        method: Which latent the denoiser gets: "noise", "inversion" or "clean".
        timesteps: Time steps in the scheduler's training range, usually [0, 999]; `TIMESTEPS` by default. "clean"
            needs exactly one, the time step with which the model was tuned.
        noises: Number of noises per time step.
        inversion_steps: Number of steps of an inversion from the image to pure noise; it stops after the last time
            step that is needed.
        seed: Seed of the noises.
        size: (height, width) to which the image is resized for the model; by default the model's native area in the
            image's proportions.
    """

    prompt: str = ""
    method: Method = "noise"
    timesteps: Sequence[int] | np.ndarray | None = None
    noises: int = 1
    inversion_steps: int = 50
    seed: int = 0
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in get_args(Method):
            raise OptionError(f"method={self.method!r}: expected one of {get_args(Method)}")
        for name in ("noises", "inversion_steps"):
            whole(name, getattr(self, name), least=1)
        if self.noises > 1 and self.method != "noise":
            raise OptionError(
                f"noises={self.noises} with method={self.method!r}, which puts no noise on: expected method='noise'"
            )
        if not isinstance(self.prompt, str):
            raise OptionError(f"prompt={self.prompt!r}: expected a text, which may be empty")
        if self.timesteps is not None:
            object.__setattr__(self, "timesteps", tuple(listed("timesteps", self.timesteps)))
        if self.method == "clean" and (self.timesteps is None or len(self.timesteps) != 1):
            raise OptionError(
                f"timesteps={self.timesteps} with method='clean': expected one, the time step that the model was tuned "
                "with for clean images, for example timesteps=(0,)"
            )
        check_seed(self.seed)
        if self.size is not None:
            object.__setattr__(self, "size", size_of("size", self.size))

    def times(self, training_steps: int) -> tuple[int, ...]:
        """Return the time steps in falling order, as in sampling.

        Args:
            training_steps: Number of the scheduler's training steps.

        Raises:
            OptionError: a time step is outside the scheduler's range, or there is none.
        """
        return falling_times(TIMESTEPS if self.timesteps is None else tuple(self.timesteps), training_steps)

    def check_size(self, cell: int) -> None:
        """Check that the autoencoder can take images of this size.

        Args:
            cell: Both sides must be multiples of this number of pixels.

        Raises:
            OptionError: a side is not.
        """
        check_size(self.size, cell)


def falling_times(times: Sequence[Any], training_steps: int) -> tuple[int, ...]:
    """Check time steps, and return them in falling order; see `EncodeOptions.times`."""
    outside = [t for t in times if not isinstance(t, Real) or not 0 <= float(t) < training_steps or float(t) % 1]
    if outside or not times:
        raise OptionError(
            f"timesteps={tuple(times)}: expected at least one, each a whole number from 0 to {training_steps - 1}, "
            "the range the scheduler was trained on"
        )
    return tuple(sorted(map(int, times), reverse=True))


def check_size(size: tuple[int, int] | None, cell: int) -> None:
    """Check the size of an image; see `EncodeOptions.check_size`."""
    if size is not None and any(length < cell or length % cell for length in size):
        raise OptionError(f"size={size}: expected (height, width), each a positive multiple of {cell} pixels")
