"""Keep freed memory for the next step instead of handing it back to the system."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK = 1 << 30
LARGEST_SURPLUS = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Make glibc's allocator reuse large blocks, for the whole process; elsewhere nothing happens.

    A training step allocates and frees the same megabytes of activations every time. By default glibc maps and unmaps
    each such block, so every step faults all its pages in again: a third of a standard step's time.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # a C library without mallopt, such as musl
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
    mallopt(M_TRIM_THRESHOLD, LARGEST_SURPLUS)
