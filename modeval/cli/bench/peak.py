"""What this machine can do at most: the measure that shares of the peak are of."""

import ctypes
import functools
import time
from pathlib import Path

import torch

from modeval.native import KernelError, compiled

SIDE = 8_192  # of the matrices that a GPU multiplies


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        source = Path(__file__).with_name("peak.cpp").read_text(encoding="utf-8")
        library = compiled("peak", source)
    except KernelError:
        return None
    library.modeval_peak.argtypes = [ctypes.c_int64, ctypes.c_double]
    library.modeval_peak.restype = ctypes.c_double
    return library


def peak(device: torch.device, threads: int, seconds: float) -> float | None:
    """Return operations per second in single precision: fused multiply-adds count two.

    On a processor it is a loop of multiply-adds in registers, on as many threads as given, which no
    real program beats; a product of large matrices by PyTorch reaches a part of it only. Its
    seconds are those of processor time, so that other work on the machine does not count. On a GPU
    it is that product, without TensorFloat-32.

    Returns:
        None where there is no compiler to measure by.
    """
    if device.type == "cuda":
        return _product(device, seconds)
    library = _library()
    return None if library is None else float(library.modeval_peak(threads, seconds))


def _product(device: torch.device, seconds: float) -> float:
    """Return the rate of one large product."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        left = torch.randn(SIDE, SIDE, device=device)
        torch.cuda.synchronize(device)
        started, done = time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < seconds or not done:
            left @ left
            torch.cuda.synchronize(device)
            done += 1
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return done * 2.0 * SIDE**3 / passed
