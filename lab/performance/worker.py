"""One subject of the questions about maps and fits, in a process of its own."""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab.performance.process import Process, serve

SMALL_ALLOCATION = 1 << 16
"""With this, glibc returns freed buffers to the system at once, so that no earlier call hides a later one's peak."""


@dataclass(frozen=True)
class Setting:
    """Who is measured, on which queries.

    Attributes:
        peer: Folder of the peer's checkout; None measures this library.
        dtype: Name of the type the queries are stored in.
        steps: Denoiser calls.
        seed: Of the queries.
    """

    peer: str | None
    dtype: str
    steps: int
    seed: int


class Worker(Process):
    """The parent's end of a process that holds one subject."""

    def __init__(self, setting: Setting, *, for_memory: bool = False) -> None:
        names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if for_memory else ()
        environment = dict.fromkeys(names, str(SMALL_ALLOCATION))
        super().__init__("lab.performance.worker", json.dumps(asdict(setting)), environment=environment)


def _serve(setting: Setting) -> None:
    """Do tasks until the parent closes its end."""
    subject = _subject(setting)
    serve({name: partial(task, subject, setting) for name, task in _TASKS.items()})


def _subject(setting: Setting) -> Any:
    import torch

    from lab.performance.queries import make_blocks

    blocks = make_blocks(setting.seed, setting.steps)
    if setting.peer is not None:
        from lab.performance.peer import Subject as Peer

        return Peer(blocks, Path(setting.peer))
    from lab.performance.ours import Subject as Ours

    return Ours(blocks, getattr(torch, setting.dtype))


def _maps(subject: Any, setting: Setting, tokens: int, save: str | None = None) -> float:
    """Seconds of one answer, which is written to a file where asked."""
    import numpy as np

    from lab.performance.queries import make_vectors

    vectors = make_vectors(setting.seed, tokens)
    begin = time.perf_counter()
    maps = subject.maps(vectors)
    seconds = time.perf_counter() - begin
    if save is not None:
        np.save(save, maps.numpy())
    return seconds


def _floor(subject: Any, setting: Setting, reads: int = 1) -> float:
    """Seconds to read the stored bytes once, or more often, by `torch.sum` of float32."""
    import torch

    begin = time.perf_counter()
    for _ in range(reads):
        for query in subject.stored():
            query.view(torch.float32).sum()
    return time.perf_counter() - begin


def _fit(subject: Any, setting: Setting, **options: Any) -> None:
    """Prepare iterations of a token's fit to a disc, a tenth of the image; `options` are of this library's fit."""
    import torch

    from lab.performance.queries import SHAPES

    size = 8 * max(side for side, _ in SHAPES)
    rows = (torch.arange(size) - size / 2).square()
    subject.fit(rows[:, None] + rows < size**2 / 30, **options)


def _iteration(subject: Any, setting: Setting) -> float:
    """Seconds of one iteration."""
    begin = time.perf_counter()
    subject.iteration()
    return time.perf_counter() - begin


def _size(subject: Any, setting: Setting) -> int:
    return sum(query.nbytes for query in subject.stored())


def _peak(subject: Any, setting: Setting, tokens: int) -> int | None:
    """Bytes by which one answer raises the resident memory at its highest; None where the system can't tell.

    Linux keeps the high-water mark of a process and lets it be set back.
    """
    mark = Path("/proc/self/clear_refs")
    if not mark.exists():
        return None
    _maps(subject, setting, 2)  # code and tables that are loaded once are nobody's buffers
    mark.write_text("5")
    before = _status("VmRSS")
    _maps(subject, setting, tokens)
    return _status("VmHWM") - before


def _status(entry: str) -> int:
    found = re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))


_TASKS: Mapping[str, Callable[..., Any]] = {
    "maps": _maps,
    "floor": _floor,
    "size": _size,
    "peak": _peak,
    "fit": _fit,
    "iteration": _iteration,
}

if __name__ == "__main__":
    _serve(Setting(**json.loads(sys.argv[1])))
