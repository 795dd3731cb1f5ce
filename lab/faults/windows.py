"""Moments at which a process kills itself: between two steps of writing an item."""

import os
import signal
from collections.abc import Callable
from typing import Any

from ovam.dataset import manifest
from ovam.dataset.store import Store

WINDOWS = ("before the rename", "between rename and manifest", "in the middle of a line")
"""Names of the moments."""


def die() -> None:
    """End this process as a power cut would: nothing more runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(window: str, count: int, end: Callable[[], None] = die) -> None:
    """Let the process end at the `count`-th time that it reaches a moment.

    Args:
        window: One of `WINDOWS`.
        count: From 1.
        end: Ends the process.
    """
    calls = iter(range(1, 10**9))
    if window == WINDOWS[2]:
        _torn(lambda: next(calls) == count, end)
    else:
        _before("rename" if window == WINDOWS[0] else "record", lambda: next(calls) == count, end)


def _before(name: str, reached: Callable[[], bool], end: Callable[[], None]) -> None:
    whole: Any = getattr(Store, name)

    def stopped(self: Store, *given: Any) -> None:
        if reached():
            end()
        whole(self, *given)

    setattr(Store, name, stopped)


def _torn(reached: Callable[[], bool], end: Callable[[], None]) -> None:
    whole = manifest.put

    def stopped(handle: int, data: bytes) -> None:
        if reached():
            os.write(handle, data[: len(data) // 2])
            end()
        whole(handle, data)

    manifest.put = stopped
