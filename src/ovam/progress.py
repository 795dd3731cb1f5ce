"""Progress of long work: report it, and say how fast it goes."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the work, the amount done and the total; both are 0 if unknown."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


def pace(made: int, total: int, seconds: float, unit: str) -> str:
    """Return how many items are made a second, and the time that is left.

    Example:
        >>> pace(10, 40, 20.0, "images")
        '0.50 images/s, 0:01:00 left; images'
    """
    if not made:
        return unit
    return f"{made / max(seconds, 1e-9):.2f} {unit}/s, {clock(seconds / made * (total - made))} left; {unit}"


def clock(seconds: float | int) -> str:
    """Return a duration as hours, minutes and seconds.

    Example:
        >>> clock(3725)
        '1:02:05'
    """
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"
