"""What a scheduler tells of the denoiser calls that lie ahead: their time steps and noise levels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Level(NamedTuple):
    """Noise level of a call.

    Attributes:
        timestep: The scheduler's time step.
        sigma: Its sigma, if it has one: rounded time steps of two noise levels may be equal.
        within: Whether the call is made on the way from one of the scheduler's noise levels to the next.
    """

    timestep: float
    sigma: float | None
    within: bool = False


def levels_from(scheduler: Any, timestep: float) -> list[Level]:
    """Noise levels of the calls from this time step on, as far as the scheduler tells."""
    timesteps = [float(t) for t in getattr(scheduler, "timesteps", ())]
    if timestep not in timesteps:
        return []
    sigmas, between = getattr(scheduler, "sigmas", None), _between(scheduler)
    told = [float(s) for s in sigmas] if sigmas is not None and len(sigmas) >= len(timesteps) else None
    levels = []
    for i, t in enumerate(timesteps):
        within = between is not None and i % 2 == 1
        sigma = between[i] if between is not None and within else told[i] if told else None
        levels.append(Level(t, sigma, within))
    return levels[_place(scheduler, timesteps, timestep) :]


def _between(scheduler: Any) -> list[float] | None:
    """Sigmas of every second call where a scheduler makes it in the middle of a step; None where it makes none.

    At the index of such a call is its sigma, whatever stands at the others.
    """
    halfway = getattr(scheduler, "sigmas_interpol", None)  # KDPM2
    if halfway is not None:
        found = [float(s) for s in halfway]
        return [found[0], *found] if hasattr(scheduler, "sigmas_down") else found  # ancestral: one place before
    if not hasattr(scheduler, "mid_point_sigma"):
        return None
    sigmas = [float(s) for s in scheduler.sigmas]  # DPMSolverSDE
    return [sigmas[0], *(math.sqrt(high * low) for high, low in itertools.pairwise(sigmas))]


def _place(scheduler: Any, timesteps: Sequence[float], timestep: float) -> int:
    """Where a call stands among the scheduler's: where the scheduler says, if it does, since time steps may be equal.

    What it says may be left from another run.
    """
    told = (getattr(scheduler, name, None) for name in ("step_index", "begin_index"))
    fitting = (place for place in told if place is not None and timesteps[place : place + 1] == [timestep])
    return next(fitting, timesteps.index(timestep))


def is_new_step(before: Level, level: Level) -> bool:
    """Whether a call begins a step: calls of one noise level share it, as in Heun and PNDM, and those within it."""
    return before != level and not level.within


def steps_of(levels: Sequence[Level]) -> list[int]:
    """The step of each call."""
    changes = (is_new_step(before, after) for before, after in itertools.pairwise(levels))
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
