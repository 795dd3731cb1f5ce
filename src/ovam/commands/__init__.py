"""What the command line does, as functions: each command calls one of them, and so can Python."""

from collections.abc import Callable

NUM_INFERENCE_STEPS = 30
GUIDANCE_SCALE = 7.5

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how much of it is done, of how much; 0 of 0 where that is not known."""


def no_progress(what: str, done: int, total: int) -> None:
    """Tell nobody."""
