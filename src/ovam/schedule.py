"""What a scheduler tells of the denoiser calls that lie ahead: their time steps and noise levels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

Level = tuple[float, float | None]
"""A time step and the scheduler's sigma, if it has one: rounded time steps of two noise levels may be equal."""


def levels_from(scheduler: Any, timestep: float) -> list[Level]:
    """Noise levels of the calls from this time step on, as far as the scheduler tells."""
    timesteps = [float(t) for t in getattr(scheduler, "timesteps", ())]
    if timestep not in timesteps:
        return []
    sigmas = getattr(scheduler, "sigmas", None)
    told = [float(s) for s in sigmas] if sigmas is not None and len(sigmas) >= len(timesteps) else None
    return [(t, told[i] if told else None) for i, t in enumerate(timesteps)][_place(scheduler, timesteps, timestep) :]


def _place(scheduler: Any, timesteps: Sequence[float], timestep: float) -> int:
    """Where a call stands among the scheduler's: where the scheduler says, if it does, since time steps may be equal.

    What it says may be left from another run.
    """
    told = (getattr(scheduler, name, None) for name in ("step_index", "begin_index"))
    fitting = (place for place in told if place is not None and timesteps[place : place + 1] == [timestep])
    return next(fitting, timesteps.index(timestep))


def steps_of(levels: Sequence[Level]) -> list[int]:
    """The step of each call: calls of one noise level share it, as in Heun and PNDM."""
    changes = (before != after for before, after in itertools.pairwise(levels))
    return list(itertools.accumulate(changes, initial=0))


def sigma_at(scheduler: Any, timestep: float) -> float | None:
    """Noise over signal at a time step of a variance-preserving schedule, sqrt((1 - a) / a), linear in between.

    None where the scheduler has no such schedule, or betas that end in pure noise.
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or not 0 <= timestep <= len(alphas) - 1:
        return None
    below, above = (float(alphas[i]) for i in (math.floor(timestep), math.ceil(timestep)))
    if min(below, above) <= 0:
        return None
    low, high = (((1 - signal) / signal) ** 0.5 for signal in (below, above))
    return low + (timestep % 1) * (high - low)
