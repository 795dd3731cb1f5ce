"""Read the time steps and noise levels of the coming denoiser calls from a scheduler."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Level(NamedTuple):
    """Noise level of a call.

    Attributes:
        timestep: The scheduler's time step.
        sigma: The scheduler's sigma, if it has one. Two noise levels may have the same rounded time step.
        within: Whether the call lies between one of the scheduler's noise levels and the next.
    """

    timestep: float
    sigma: float | None
    within: bool = False


def levels_from(scheduler: Any, timestep: float) -> list[Level]:
    """Return the noise levels of the calls from this time step on; empty if the scheduler does not list it."""
    timesteps = [float(t) for t in getattr(scheduler, "timesteps", ())]
    if timestep not in timesteps:
        return []
    sigmas, between = getattr(scheduler, "sigmas", None), _between(scheduler)
    own = [float(s) for s in sigmas] if sigmas is not None and len(sigmas) >= len(timesteps) else None
    levels = []
    for i, t in enumerate(timesteps):
        within = between is not None and i % 2 == 1
        sigma = between[i] if between is not None and within else own[i] if own else None
        levels.append(Level(t, sigma, within))
    return levels[_place(scheduler, timesteps, timestep) :]


def _between(scheduler: Any) -> list[float] | None:
    """Return sigmas by call for schedulers whose every second call is in the middle of a step; None for others.

    Only the entries of these second calls have a meaning.
    """
    halfway = getattr(scheduler, "sigmas_interpol", None)  # KDPM2
    if halfway is not None:
        found = [float(s) for s in halfway]
        return [found[0], *found] if hasattr(scheduler, "sigmas_down") else found  # ancestral: listed one index earlier
    if not hasattr(scheduler, "mid_point_sigma"):
        return None
    sigmas = [float(s) for s in scheduler.sigmas]  # DPMSolverSDE
    return [sigmas[0], *(math.sqrt(high * low) for high, low in itertools.pairwise(sigmas))]


def _place(scheduler: Any, timesteps: Sequence[float], timestep: float) -> int:
    """Return the index of a call in the scheduler's list of time steps.

    A time step may occur twice, so the scheduler's own index is used, unless it is left from another run and does not
    fit.
    """
    indices = (getattr(scheduler, name, None) for name in ("step_index", "begin_index"))
    fitting = (place for place in indices if place is not None and timesteps[place : place + 1] == [timestep])
    return next(fitting, timesteps.index(timestep))


def is_new_step(before: Level, level: Level) -> bool:
    """Return whether a call begins a step.

    Calls of one noise level share a step, as in Heun and PNDM. Calls between two noise levels belong to the first.
    """
    return before != level and not level.within


def steps_of(levels: Sequence[Level]) -> list[int]:
    """Return the step of each call."""
    changes = (is_new_step(before, after) for before, after in itertools.pairwise(levels))
    return list(itertools.accumulate(changes, initial=0))


def sigma_at(scheduler: Any, timestep: float) -> float | None:
    """Return noise over signal, sqrt((1 - a) / a), at a time step of a variance-preserving schedule.

    Between two whole time steps it is linear. It is None if the scheduler has no such schedule, or where its betas
    end in pure noise.
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or not 0 <= timestep <= len(alphas) - 1:
        return None
    below, above = (float(alphas[i]) for i in (math.floor(timestep), math.ceil(timestep)))
    if min(below, above) <= 0:
        return None
    low, high = (((1 - signal) / signal) ** 0.5 for signal in (below, above))
    return low + (timestep % 1) * (high - low)
