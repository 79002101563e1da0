"""Consoles that act on no terminal by what they are given to print, and fit any encoding.

Names from outside are to be printed through :mod:`modeval.text`. This is the net below: whatever a
console draws, no character of it acts on the terminal, and no line of it is a command of GitHub.
"""

import codecs
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from modeval.text import no_commands, visible

WORDS = "→-> ←<- ↑^ ↓v ±+- ·. •* ≤<= ≥>= ≠!= ≈~ πpi …..."
STAND_INS = {pair[0]: pair[1:] for pair in WORDS.split()}
STAND_INS |= dict.fromkeys("█▉▊▋▓▇▆", "#") | dict.fromkeys("▌▍▅▄▒", "=")
STAND_INS |= dict.fromkeys("▎▏▃▂━─╸╺\u2013\u2014", "-") | dict.fromkeys("░▁", ".")
STAND_INS |= {"\u00d7": "x", "│": "|", "✓": "ok", "✗": "no", "\u03c3": "sigma"}
"""What stands for a character where the encoding of a stream does not have it."""


class PlainConsole(Console):
    """A console whose text never acts: see the module."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield what is drawn, each piece of text made harmless."""
        for segment in super().render(renderable, options):
            text = no_commands(visible(segment.text, lines=True))
            if segment.control or text == segment.text:
                yield segment
            else:
                yield Segment(text, segment.style)

    def on_broken_pipe(self) -> None:
        """Go on when nobody reads any more, so that the command ends with its own exit code."""
        self.quiet = True
        leave_pipe(sys.stderr if self.stderr else sys.stdout)


class PatientStream:
    """A standard stream that goes on when nobody reads it any more, whoever writes to it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, to nowhere once the pipe is closed."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            leave_pipe(self._stream)
            return len(text)

    def flush(self) -> None:
        """Write what is kept back."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            leave_pipe(self._stream)


def leave_pipe(stream: IO[str]) -> None:
    """Send what is still written to a closed pipe nowhere, as when ``| head`` has read enough."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # a stream without a file has no pipe either
        return
    finally:
        os.close(nowhere)


def fit_streams() -> None:
    """Have standard output and error print what their encoding does not have, in other words.

    A file or a pipe of Windows, and a terminal without UTF-8, has few characters. Nothing that was
    computed may be lost because a bar or an arrow cannot be drawn.
    """
    codecs.register_error("modeval", _stand_in)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the start
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        change: Any = getattr(stream, "reconfigure", None)
        if change is not None:
            change(errors="modeval")
    sys.stdout = cast("TextIO", PatientStream(sys.stdout))
    sys.stderr = cast("TextIO", PatientStream(sys.stderr))


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    words = "".join(STAND_INS.get(letter, "?") for letter in wrong)
    return words.encode("ascii", "replace").decode("ascii"), error.end
