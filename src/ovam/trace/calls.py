"""Denoiser calls: what a trace stores about each call, and how to choose some of them.

Three numbers tell which call is meant. All modules use these names for the three numbers:

* call index: the position of the call among all calls of the run, kept or not (`Call.index`).
* step: the index of the call's noise level (`Call.step`). With schedulers such as Heun and PNDM, several calls share a
  step.
* kept index: the position of the call among the kept calls (`Trace.calls`). It is also the position of the call on the
  axis `step` of a stored tensor.

If a run makes one call per step and keeps steps 3 and 5, then call index 5 is step 5 and kept index 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ovam.checks import integer
from ovam.errors import MissingStepError, OptionError

Half = Literal["cond", "uncond"]
"""Half of guidance. Guidance passes two texts through the denoiser: "cond" is the pass with the prompt, "uncond" the
pass with the negative or empty prompt."""


@dataclass(frozen=True)
class Call:
    """One evaluation of the denoiser.

    Attributes:
        index: Call index: position among all calls of the run, kept or not.
        step: Index of the noise level; several calls may share it.
        timestep: The scheduler's time step, as the denoiser received it.
        sigma: Noise level, or None if the scheduler has none.
    """

    index: int
    step: int
    timestep: float
    sigma: float | None = None


StepChoice = int | Iterable[int] | Literal["middle"] | None
"""One step number, several of them, all steps (None), or the middle step ("middle")."""


def step_numbers(steps: StepChoice) -> frozenset[int] | Literal["middle"] | None:
    """Check a choice of steps; return its numbers, "middle", or None for all.

    Raises:
        OptionError: `steps` is not a choice of steps.
    """
    if steps is None:
        return None
    if isinstance(steps, str) and steps == "middle":
        return "middle"
    choice: object = steps
    given = [integer(choice)] if not isinstance(choice, Iterable) else [integer(step) for step in choice]
    numbers = frozenset(number for number in given if number is not None)
    if None in given or any(number < 0 for number in numbers):
        raise OptionError(f"steps={steps!r}: expected step numbers, such as range(10, 20), or 'middle'")
    return numbers


def choose_steps(calls: Sequence[Call], steps: int | Iterable[int] | Literal["middle"]) -> list[int]:
    """Return the kept indices of the chosen steps: for each call of a chosen step, its position in `calls`.

    Raises:
        MissingStepError: a chosen step has no call in this trace, or `steps` is empty.
        OptionError: `steps` is not a choice of steps.
    """
    kept = sorted({call.step for call in calls})
    wanted = step_numbers(steps)
    if wanted == "middle":
        wanted = frozenset(kept[len(kept) // 2 : len(kept) // 2 + 1])
    assert isinstance(wanted, frozenset)
    if not wanted:
        raise MissingStepError(
            f"steps=[] chooses no step: expected at least one step number from these: {ranges(kept)}; with steps=None "
            "all steps are used"
        )
    missing = wanted.difference(kept)
    if missing:
        raise MissingStepError(
            f"step {sorted(missing)} is not in this trace: expected step numbers from these: {ranges(kept)}; "
            "capture with steps=None to keep every step"
        )
    return [i for i, call in enumerate(calls) if call.step in wanted]


def ranges(numbers: list[int]) -> str:
    """Return numbers as text for messages: "3 to 7" if they are consecutive, otherwise a list such as "[3, 5]"."""
    if len(numbers) > 1 and all(number == numbers[0] + i for i, number in enumerate(numbers)):
        return f"{numbers[0]} to {numbers[-1]}"
    return str(numbers)
