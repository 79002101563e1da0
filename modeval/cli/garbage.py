"""When Python looks for garbage: not while a command loads what it needs, nor when it ends."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOADING = 5.0
"""Seconds in which what a command needs is loaded, and most commands end."""


@contextmanager
def no_search_while_loading(seconds: float = LOADING) -> Iterator[None]:
    """Keep Python from looking for cycles among modules and classes, which all stay.

    Each full search goes through all that PyTorch or Matplotlib made, a tenth of a second each time
    and a quarter of a second in a short command. A command that takes longer has cycles looked for
    as usual, without going through what was there by then. Python searches again, several times,
    while it ends (0.4 seconds after PyTorch was loaded), for what the system takes back anyway.

    Args:
        seconds: until they are looked for again.
    """
    searched = gc.isenabled()
    gc.disable()
    later = threading.Timer(seconds, _search_what_follows)
    later.daemon = True
    if searched:
        later.start()
    try:
        yield
    finally:
        later.cancel()
        gc.freeze()
        if searched:
            gc.enable()


def _search_what_follows() -> None:
    gc.freeze()
    gc.enable()
