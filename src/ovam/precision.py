"""What is computed after a run is computed in float32, whatever the caller has set for a model's own sake."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32() -> Iterator[None]:
    """Leave autocast and another default type aside, here as a context or as a decorator of a function.

    The maps of a trace are the same inside `torch.autocast(...)` and after `torch.set_default_dtype(...)`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)
