"""The commands of the command line as Python functions; each command calls one of them."""

from collections.abc import Callable

NUM_INFERENCE_STEPS = 30
GUIDANCE_SCALE = 7.5

Progress = Callable[[str, int, int], None]
"""Called with the name of the work, the amount done and the total; both are 0 if unknown."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""
