"""What the command line does, as functions: each command calls one of them, and so can Python."""

from collections.abc import Callable

NUM_INFERENCE_STEPS = 30
GUIDANCE_SCALE = 7.5

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and of how much; 0 of 0 where that is not known."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""
