"""Denoiser calls: what is known of each, and how some of them are chosen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ovam.errors import MissingStepError

Half = Literal["cond", "uncond"]
"""Which of the two passes of guidance: with the prompt, or with the negative or empty prompt."""


@dataclass(frozen=True)
class Call:
    """One evaluation of the denoiser.

    Attributes:
        index: Position among all calls of the run, kept or not.
        step: Index of the noise level: several calls share a step in schedulers such as Heun and PNDM.
        timestep: The scheduler's value, as the denoiser got it.
        sigma: Noise level where the scheduler has one.
    """

    index: int
    step: int
    timestep: float
    sigma: float | None = None


def step_numbers(steps: int | Iterable[int]) -> frozenset[int]:
    """The steps that are asked for by their numbers, or by the number of one."""
    return frozenset([steps] if isinstance(steps, int) else steps)


def choose_steps(calls: Sequence[Call], steps: int | Iterable[int]) -> list[int]:
    """Positions in `calls` of the calls whose step is asked for.

    Raises:
        MissingStepError: a step is not among the calls.
    """
    wanted = step_numbers(steps)
    missing = wanted - {call.step for call in calls}
    if missing or not wanted:
        there = sorted({call.step for call in calls})
        raise MissingStepError(
            f"step {sorted(missing)} is not in this trace: expected step numbers out of {ranges(there)}; "
            "capture with steps=None to keep every step"
        )
    return [i for i, call in enumerate(calls) if call.step in wanted]


def ranges(numbers: list[int]) -> str:
    """Numbers in words, for messages."""
    if numbers and all(number == numbers[0] + i for i, number in enumerate(numbers)):
        return f"{numbers[0]} to {numbers[-1]}"
    return str(numbers)
