"""What a command is at, on standard error, where it takes more than a second or two.

Lines and no moving bar: nothing of them can mix with what the command prints, and the log of a
pipeline has them too. Where a terminal shows a bar, it says more, and this is still.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from modeval import pace
from modeval.cli.output import is_busy, stderr

FIRST, LONGEST = 2.0, 60.0
"""Seconds until the first line, and at most between two; each pause is twice the one before. Where
nothing is known, the first is left out: PyTorch takes some seconds to load."""
QUIET = {"-q", "--quiet"}


@dataclass(slots=True)
class _Told:
    """What was told last, and when that began."""

    what: str = "working"
    done: float = 0
    every: float | None = None
    since: float = 0.0

    def hear(self, what: str, done: float, every: float | None) -> None:
        if what != self.what:
            self.what, self.since = what, time.monotonic()
        self.done, self.every = done, every


@contextmanager
def heartbeat(arguments: Sequence[str], *, first: float = FIRST) -> Iterator[None]:
    """Say now and then what is done within, and how long it takes."""
    if QUIET & {*arguments}:
        yield
        return
    told, ended, started = _Told(), threading.Event(), time.monotonic()

    def beat() -> None:
        pause = first
        while not ended.wait(pause):
            now = time.monotonic()
            if is_busy() or not (told.since or now - started >= 2 * first):
                pause = first / 2  # nothing to say yet: it is said as soon as there is
                continue
            line = describe(told, now, started)
            stderr().print(line, highlight=False, markup=False, style="dim", soft_wrap=True)
            pause = min(2 * max(pause, first), LONGEST)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with pace.heard_by(told.hear):
            yield
    finally:
        ended.set()
        thread.join()


def describe(told: _Told, now: float, started: float) -> str:
    """Return a line.

    >>> describe(_Told("reading a.csv", 20, 50, since=4.0), now=6.0, started=1.0)
    'reading a.csv, 20 of 50, about 3 s left (5 s so far)'
    >>> describe(_Told("reading a.csv", 1234567), now=6.0, started=1.0)
    'reading a.csv, 1,234,567 (5 s so far)'
    >>> describe(_Told(), now=6.0, started=1.0)
    'working (5 s so far)'
    >>> describe(_Told("reading a.csv", 50, 50, since=4.0), now=9.0, started=1.0)
    'working, after reading a.csv (8 s so far)'
    """
    if told.every and told.done >= told.every:  # what follows does not say how far it is
        return f"working, after {told.what} ({now - started:.0f} s so far)"
    parts = [told.what]
    if told.done:
        parts.append(
            f"{math.floor(told.done):,}" + (f" of {told.every:,.0f}" if told.every else "")
        )
    if told.done and told.every:
        left = (now - told.since) * (told.every / told.done - 1)
        parts.append(f"about {max(left, 1):,.0f} s left")
    return f"{', '.join(parts)} ({now - started:.0f} s so far)"
