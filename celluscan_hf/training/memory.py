"""Memory allocation of the C library in a training process."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # from malloc.h of glibc


def keep_freed_memory() -> None:
    """Keep large freed blocks in this process and its forks instead of returning them to the kernel.

    Every step allocates and frees the same hundreds of MB. By default glibc returns such blocks at once, and the
    kernel zeroes them page by page when they are allocated again. Does nothing without
    glibc. `celluscan benchmark cpu` measures the gain. Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, -1)
