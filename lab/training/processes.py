"""Run calls in processes of their own, with one thread each: on small models threads of one process gain little."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

from ovam.cli.terminal import quiet

_EVERY = 1.0
"""Seconds between two calls of `meanwhile`."""


def in_processes(
    work: Callable[..., Any], calls: Sequence[tuple[Any, ...]], meanwhile: Callable[[], None], jobs: int = 0
) -> Iterator[tuple[int, Any]]:
    """Yield the number of a call and its result, in the order in which they end.

    The first error ends all: calls that have not begun do not begin, and those that have are waited for.

    Args:
        work: What is called; a function of a module.
        calls: Arguments of each call.
        meanwhile: Called every second.
        jobs: Number of processes; by default as many as calls.
    """
    with ProcessPoolExecutor(jobs or len(calls), get_context("spawn"), _end_with_parent) as pool:
        numbers = {pool.submit(_alone, work, *given): number for number, given in enumerate(calls)}
        left = set(numbers)
        try:
            while left:
                done, left = wait(left, timeout=_EVERY, return_when=FIRST_COMPLETED)
                meanwhile()
                for one in done:
                    yield numbers[one], one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that began it is killed; it would wait for ever."""
    parent = parent_process()
    assert parent is not None

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait_for_it, daemon=True).start()


def _alone(work: Callable[..., Any], *given: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    with quiet():
        return work(*given)
