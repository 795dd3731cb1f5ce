"""Report how far a training is, and end it cleanly when it is interrupted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from ovam.progress import Progress


class Watch(TrainerCallback):  # type: ignore[misc] # transformers is not typed
    """Reports steps, and evaluates after the last one. Once `stop_requested` is set, training stops with a checkpoint.

    Args:
        progress: Called after every step.
    """

    def __init__(self, progress: Progress) -> None:
        self.stop_requested = False
        self._progress, self._miou = progress, ""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Remember the figure, to show it beside the steps."""
        self._miou = f" (mIoU {(metrics or {}).get('eval_miou', float('nan')):.3f})"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report, and end the training if it was asked for."""
        self._progress(f"training{self._miou}", state.global_step, state.max_steps)
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True  # the last step too, whatever the rhythm
        elif self._anywhere(args):
            control.should_save = control.should_training_stop = True

    def _anywhere(self, args: Any) -> bool:
        """Whether any of the processes that train together was asked to stop; all must do so after the same step."""
        if args.world_size == 1:
            return self.stop_requested
        requested = torch.tensor(float(self.stop_requested), device=args.device)
        torch.distributed.all_reduce(requested)
        return bool(requested)


@contextmanager
def interruptible(watch: Watch) -> Iterator[None]:
    """Let the first Ctrl-C, or a scheduler's SIGTERM, end the training after its step; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        if watch.stop_requested:
            raise KeyboardInterrupt
        watch.stop_requested = True

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
