"""Memory of long runs: glibc's allocator can keep what is freed, instead of giving it back and taking it again."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST, _LARGE = 2**31 - 1, 32 * 2**20
"""Bytes that are never free at once; and the largest tensor that glibc takes from kept memory."""


def keep_freed_memory() -> bool:
    """Make this process keep memory that is freed, and return whether it does; only glibc can.

    A denoiser frees and takes megabytes in each layer. If they go back to the system in between, every page is cleared
    and mapped anew. Whether that happens is chance (measured by hand: the same runs of mini took 33 or 42 seconds). The
    process keeps the memory of its largest step until it ends, so this is for commands that generate, not for a
    library's calls.

    Source:
        mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    return bool(libc.mallopt(_TRIM_THRESHOLD, _MOST)) and bool(libc.mallopt(_MMAP_THRESHOLD, _LARGE))
