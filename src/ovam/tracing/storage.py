"""Where a capture keeps what it sees: in which type, in memory or in a file, and how much at most."""

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
_ALIGNED = 64  # bytes: every tensor in a file begins at a multiple, as in memory
Slot = TypeVar("Slot", bound=Hashable)


@dataclass(frozen=True)
class Storage:
    """Room for traces.

    Attributes:
        dtype: Type that queries, image keys and values are stored in.
        device: Where they are stored.
        limit: Most bytes of them.
        disk: Folder in whose files they are stored instead of memory.
    """

    dtype: torch.dtype
    device: torch.device
    limit: int
    disk: Path | None = None

    def __str__(self) -> str:
        return str(self.device) if self.disk is None else f"disk {self.disk}"

    def reserve(self, layout: Mapping[Slot, Stored]) -> dict[Slot, Stored]:
        """Room for tensors of these shapes and types, unfilled.

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
    """Where and how what a capture keeps is stored."""
    place, folder = torch.device(options.device), None if options.disk is None else Path(options.disk)
    return Storage(options.dtype or torch.float16, place, _limit(place, folder, options.limit_gib), folder)


def _limit(device: torch.device, folder: Path | None, limit_gib: float | None) -> int:
    """Bytes that may be kept."""
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
    """Takes tensors out of a file that is gone when the last of them is, also where the process is killed.

    It has no name where the system can do without (Linux). Its blocks are reserved first where the system can: writing
    to a mapped file on a disk that has become full would end the process.
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
