"""How the C library hands out memory in a process that trains."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # from malloc.h of glibc


def keep_freed_memory() -> None:
    """Large blocks that are freed stay with this process and with its later children, instead of going back each time.

    Every step allocates and frees the same hundreds of MB; by default glibc returns such blocks at once, and the
    kernel zeroes them page by page when they are asked for again. Does nothing where there is no glibc.
    `scripts/benchmark.py cpu` measures what it saves. Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, -1)
