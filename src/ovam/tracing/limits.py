"""Limits of a run: sizes and numbers of steps that a pipeline accepts, checked before it runs."""

from typing import Any

from ovam.backbones.registry import backbone_of
from ovam.errors import OptionError
from ovam.tracing.plan import native_side

_MOST_SIDES = 8  # maximum ratio to the model's own side, up or down: far beyond useful sizes, but fits in memory


def check_steps(pipe: Any, num_inference_steps: int) -> None:
    """Raise OptionError if there are more steps than the scheduler was trained with; no scheduler accepts that."""
    most = int(getattr(pipe.scheduler.config, "num_train_timesteps", None) or 1000)
    if num_inference_steps > most:
        raise OptionError(
            f"num_inference_steps={num_inference_steps}: expected at most {most}, the steps that the "
            f"{type(pipe.scheduler).__name__} was trained with; models need 20 to 50 as a rule"
        )


def check_sides(pipe: Any, **sides: int | None) -> None:
    """Raise OptionError if the pipeline can't make images of these sides; None means the model's own."""
    native = native_side(pipe) * pipe.vae_scale_factor
    for name, side in sides.items():
        if side is not None and side * _MOST_SIDES < native:
            raise OptionError(
                f"{name}={side}: expected at least {native // _MOST_SIDES} pixels, an eighth of the side of the images "
                "that the model was made for"
            )
    check_size(backbone_of(pipe).side_multiple, _MOST_SIDES * native, **sides)


def check_size(unit: int, largest: int | None = None, **sides: int | None) -> None:
    """Raise OptionError for a side that the pipeline would refuse, round (FLUX), or need too much memory for."""
    for name, side in sides.items():
        if side is not None and side < 1:
            raise OptionError(f"{name}={side}: expected a positive multiple of {unit} pixels")
        if side is not None and largest is not None and side > largest:
            raise OptionError(
                f"{name}={side}: expected at most {largest} pixels, {_MOST_SIDES} times the side of the images that "
                "the model was made for"
            )
        if side is not None and side % unit:
            nearest = max(1, round(side / unit)) * unit
            raise OptionError(f"{name}={side}: expected a multiple of {unit} pixels, for example {nearest}")
