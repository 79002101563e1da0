"""Memory of the C library: what is freed stays at hand for what asks for the same again."""

import contextlib
import ctypes
import functools

KEPT = 2**28
"""Bytes that the process keeps of what was freed."""


@functools.cache
def keep_memory() -> None:
    """Have the C library keep what is freed, where it is glibc, for the rest of the process.

    Steps of training and batches of an evaluation ask for the same memory again and again. Given
    back in between, it has to be mapped and filled with zeros each time: some seventh of a step of
    training, a third of an evaluation of three seeds.
    """
    trim_threshold, mmap_threshold, largest = -1, -3, 2**25  # of malloc.h; more is refused
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, KEPT)
        library.mallopt(mmap_threshold, largest)
