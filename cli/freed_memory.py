"""What tensors on a CPU free stays with the process, which asks for as much again at the next batch."""

import ctypes
import os
import sys

# the numbers of glibc's malloc.h, and what they are set to
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NEVER, MEBIBYTE = -1, 2**20


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for later allocations, instead of giving it back to the system.

    By default it maps each block of more than 32 MiB, such as a layer's activations at 224 pixels, and unmaps it when
    it is freed; the system clears every page of the next one. Kept blocks spare that. The process holds what it needed
    at most until it ends. Nothing is done where there is no glibc, or where the user has set one of glibc's own
    variables (``MALLOC_...``, ``GLIBC_TUNABLES``).

    Returns:
        Whether it was set.
    """
    if sys.platform != "linux" or any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a Python that loads no libraries; a C library without it, such as musl
        return False
    asked = ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, 64 * MEBIBYTE))
    return all(set_option(option, value) == 1 for option, value in asked)
