"""Consoles, progress bars and files, made when needed so that ``--help`` loads nothing heavy."""

import os
import sys
import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

STDOUT = Path("-")
"""Written in place of a file: standard output."""


def let_threads_sleep() -> None:
    """Have PyTorch's threads sleep while they wait; to be called before PyTorch is loaded.

    Threads that spin make work in many short pieces several times slower on a busy machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def stdout() -> "Console":
    """Return a console on standard output."""
    from modeval.cli.console import PlainConsole

    return PlainConsole()


def stderr() -> "Console":
    """Return a console on standard error: progress, notes and errors.

    While a progress bar is drawn it is that of the bar, which moves out of the way of what is
    printed.
    """
    from modeval.cli.console import PlainConsole

    return _busy[-1] if _busy else PlainConsole(stderr=True)


_busy: "list[Console]" = []
"""Consoles of the progress bars that a terminal shows."""


def is_busy() -> bool:
    """Tell whether a terminal shows a progress bar."""
    return bool(_busy)


def progress_bar(*, quiet: bool = False) -> "Progress":
    """Return a progress bar on standard error, with a free text beside the time left."""
    from modeval.cli.bar import bar_on

    return bar_on(stderr(), _busy, quiet=quiet)


# --- files ---------------------------------------------------------------------------------------


def check_target(path: Path, *, flag: str, example: str) -> None:
    """Refuse a place that cannot be written, before anything is computed for it.

    Folders that are missing are made when the file is written.

    Args:
        path: the file; ``-`` for standard output.
        flag: where its name was given, for messages.
        example: a name that could have been given.

    Raises:
        ScorecardError: a folder stands there, or the place is closed.
    """
    from modeval.errors import ScorecardError
    from modeval.score.stored.files import check_writable

    if path == STDOUT:
        return
    if not path.name or str(path) == ".":
        raise ScorecardError(
            f"{path} is a folder, and {flag} needs the name of a file: {flag} {example}"
        )
    there = next((each for each in path.parents if each.exists()), None)
    if there is None or there == path.parent:
        check_writable(path, flag=flag, example=example)
    elif not there.is_dir() or not os.access(there, os.W_OK):
        raise ScorecardError(
            f"{path}: {there} is no folder that can be written. Name another file: {flag} {example}"
        )


def deliver(path: Path, content: str | bytes, *, flag: str) -> bool:
    """Write a file whole or not at all, or to standard output where it is named ``-``.

    Returns:
        Whether it is a file, so that its name is worth printing.

    Raises:
        ScorecardError: it cannot be written.
    """
    from modeval.atomic import new_folders
    from modeval.score.stored.files import write_bytes

    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    if path == STDOUT:
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(raw)
            sys.stdout.flush()
        except BrokenPipeError:
            from modeval.cli.console import leave_pipe

            leave_pipe(sys.stdout)
        return False
    try:
        with new_folders(path.parent):
            write_bytes(path, raw, flag=flag)
    except OSError as error:
        from modeval.errors import ScorecardError

        raise ScorecardError(
            f"{flag} {path}: its folder cannot be made ({error.strerror}). Name another place."
        ) from None
    return True


def tell_written(path: Path) -> None:
    """Say on standard error that a file was written."""
    stderr().print(f"Wrote {path}", style="green", markup=False, highlight=False, soft_wrap=True)


def choose_device(name: str) -> "typing.Any":
    """Return a torch device by name; see :func:`modeval.pipeline.machine.choose_device`."""
    from modeval.pipeline.machine import choose_device as chosen

    return chosen(name)
