"""Compute in float32 after a run, even if the caller has set another type or autocast for the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32() -> Iterator[None]:
    """Switch autocast off and set the default type to float32, inside a `with` block or a decorated function.

    The maps of a trace are the same inside `torch.autocast(...)` and after `torch.set_default_dtype(...)`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)
