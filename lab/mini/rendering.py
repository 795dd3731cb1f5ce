"""Call a function for many scenes, with a progress bar, and in several processes where there are many."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TypeVar

from rich.progress import track

Asked = TypeVar("Asked")
Made = TypeVar("Made")

_ALONE = 64
"""This process renders so many scenes before a second one has started."""


def each_scene(make: Callable[[Asked], Made], scenes: Sequence[Asked], title: str) -> Iterator[Made]:
    """Yield `make(scene)` for each scene, in order.

    Args:
        make: Is sent to the processes, so it must be a function of a module, or a `partial` of one.
        scenes: What it is called with.
        title: Of the progress bar.
    """
    with ExitStack() as stack:
        made: Iterator[Made] = map(make, scenes)
        if len(scenes) > _ALONE:
            workers = stack.enter_context(get_context("spawn").Pool())
            made = workers.imap(make, scenes, chunksize=_ALONE)
        yield from track(made, title, len(scenes))
