"""Storage of a capture: its type, its place in memory or in a file, and its limit."""

import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

from ovam.errors import CaptureTooLargeError
from ovam.trace.quantised import Quantised, Stored
from ovam.tracing.options import KeepOptions

_SHARE_OF_FREE = 0.8
_GIB = 2**30
_ALIGNED = 64  # bytes: every tensor in a file begins at a multiple of this, as in memory
Slot = TypeVar("Slot", bound=Hashable)


@dataclass(frozen=True)
class Storage:
    """Where and how traces are stored.

    Attributes:
        dtype: Storage type of queries, image keys and values.
        device: Device on which they are stored.
        limit: Maximum number of bytes.
        disk: Folder for storage in files instead of memory.
    """

    dtype: torch.dtype
    device: torch.device
    limit: int
    disk: Path | None = None

    def __str__(self) -> str:
        return str(self.device) if self.disk is None else f"disk {self.disk}"

    def reserve(self, layout: Mapping[Slot, Stored]) -> dict[Slot, Stored]:
        """Return tensors of these shapes and types, not initialised.

        Raises:
            CaptureTooLargeError: the disk is too full.
        """
        take = self._in_memory if self.disk is None else _in_file(self.disk, layout)
        return {
            slot: Quantised(take(part.values), take(part.scale)) if isinstance(part, Quantised) else take(part)
            for slot, part in layout.items()
        }

    def _in_memory(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, device=self.device)


def storage_of(options: KeepOptions) -> Storage:
    """Return the storage that the options describe."""
    place, folder = torch.device(options.device), None if options.disk is None else Path(options.disk)
    return Storage(options.dtype or torch.float16, place, _limit(place, folder, options.limit_gib), folder)


def _limit(device: torch.device, folder: Path | None, limit_gib: float | None) -> int:
    """Return the maximum number of bytes to keep."""
    if limit_gib is not None:
        return int(limit_gib * _GIB)
    if folder is not None:
        free = shutil.disk_usage(folder).free
    elif device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    return int(_SHARE_OF_FREE * free)


def _in_file(folder: Path, layout: Mapping[Slot, Stored]) -> Callable[[Tensor], Tensor]:
    """Return a function that makes tensors in a temporary file.

    The file disappears with its last tensor, even if the process is killed. It has no name if the system allows that
    (Linux). Its disk space is reserved first if the system can do that: writing to a mapped file on a full disk would
    end the process.
    """
    size = _ALIGNED + sum(part.nbytes + 2 * _ALIGNED for part in layout.values())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            room = torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(size,)))
    except OSError as error:
        raise CaptureTooLargeError(
            f"disk {folder} has no room for {size / _GIB:.3f} GiB ({error.strerror}): expected that much free; choose "
            "another folder, fewer blocks or steps, or dtype=torch.int8"
        ) from error
    begin = 0

    def take(like: Tensor) -> Tensor:
        nonlocal begin
        piece = room[begin : begin + like.nbytes].view(like.dtype).view(like.shape)
        begin += -(-like.nbytes // _ALIGNED) * _ALIGNED
        return piece

    return take
