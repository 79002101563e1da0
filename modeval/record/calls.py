"""Calls of a model are counted whole or not at all, and by one thread at a time."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from modeval.errors import TraceError


class Calls:
    """Which call of the model (or of its ``generate``) runs, and in which thread.

    Attributes:
        depth: how many calls run, one within the other.
        mixed: whether two threads ever ran the model at once.
    """

    def __init__(
        self,
        begin: Callable[[], None],
        end: Callable[[], None],
        undo: Callable[[], None],
    ) -> None:
        self.depth = 0
        self.mixed = False
        self._thread = 0
        self._lock = threading.Lock()
        self._begin, self._end, self._undo = begin, end, undo

    def begin(self) -> None:
        """Begin a call.

        Raises:
            TraceError: another thread runs the model.
        """
        with self._lock:
            self.refuse_threads()
            self._thread = threading.get_ident()
            self.depth += 1
        if self.depth == 1:
            self._begin()

    def end(self, *, failed: bool) -> None:
        """End a call; what it counted is taken back when the outermost one failed."""
        self.depth -= 1
        if self.depth == 0:
            if failed:
                self._undo()
            self._end()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Hold a call of ``generate`` for one."""
        self.begin()
        try:
            yield
        except BaseException:
            self.end(failed=True)
            raise
        self.end(failed=False)

    def refuse_threads(self) -> None:
        """Refuse to run while another thread does.

        Raises:
            TraceError: another one does; the recording is refused when it ends, too.
        """
        if self.depth and self._thread != threading.get_ident():
            self.mixed = True
            self.check()

    def check(self) -> None:
        """Refuse a recording in which two threads ran the model at once.

        Raises:
            TraceError: they did.
        """
        if self.mixed:
            raise TraceError(
                "Two threads ran the model at once, and their tokens cannot be told apart. Record "
                "one thread, or hold a lock around recording.label() and the call of the model."
            )
