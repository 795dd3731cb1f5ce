"""Which steps and halves of a run are kept, decided at its first denoiser call."""

from typing import Any

from ovam.backbones.base import Evaluation
from ovam.errors import MissingStepError, NothingCapturedError
from ovam.trace.calls import Half
from ovam.tracing.options import CaptureOptions
from ovam.tracing.run import Run
from ovam.tracing.schedule import levels_from, steps_of


def chosen_steps(
    run: Run, options: CaptureOptions, scheduler: Any, evaluation: Evaluation
) -> tuple[frozenset[int] | None, int]:
    """Return the steps to keep and the number of their calls, from the scheduler's remaining time steps.

    Raises:
        MissingStepError: a chosen step comes after the run's last step, or the middle step is not known.
    """
    if run.planned_calls is not None:
        assert not isinstance(options.numbers, str)  # `encode` names its steps by number
        return options.numbers, run.planned_calls
    ahead, chosen = levels_from(scheduler, evaluation.timestep), options.numbers
    if chosen == "middle" and not ahead:
        raise MissingStepError(
            f"steps='middle' of a run whose scheduler does not list the time step {evaluation.timestep:g}: how "
            "many will follow is not known; name the steps by their numbers, steps=[10]"
        )
    steps = steps_of(ahead) or [0]
    if chosen is None:
        return None, len(steps)
    wanted = frozenset({(steps[-1] + 1) // 2}) if chosen == "middle" else chosen
    beyond = sorted(wanted - set(steps))
    if beyond or not wanted:
        raise MissingStepError(
            f"step {beyond} will not be reached: this run has the steps 0 to {steps[-1]}; "
            "choose among them, or raise num_inference_steps"
        )
    return wanted, sum(step in wanted for step in steps)


def check_halves(run: Run, options: CaptureOptions, evaluation: Evaluation) -> None:
    """Check that the run has the halves of guidance that are to be kept.

    Raises:
        NothingCapturedError: it has no unconditional half.
    """
    guided = (run.request is not None and run.request.guided) or len(evaluation.halves) > 1
    there: tuple[Half, ...] = ("cond", "uncond") if guided else ("cond",)
    missing = [half for half in options.halves if half not in there]
    if missing:
        raise NothingCapturedError(
            f"guidance={'both' if len(options.halves) == 2 else missing[0]!r} asks for unconditional queries, "
            "but this run has no guidance: expected a guidance scale above 1; raise it, or capture with "
            "guidance='cond'"
        )
