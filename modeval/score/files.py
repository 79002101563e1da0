"""Scorecards on disk: JSON, written whole or not at all."""

import errno
import json
import os
import tempfile
from pathlib import Path

from modeval.errors import ScorecardError
from modeval.score.scorecard import Scorecard, from_dict_form, to_dict_form

SCHEMA = Path(__file__).with_name("scorecard.schema.json")
"""JSON Schema of the file."""


def write_scorecard(path: Path, card: Scorecard) -> None:
    """Write a scorecard: readers see the old file or the new one, never a part.

    Raises:
        ScorecardError: the file cannot be written.
    """
    form = to_dict_form(card)
    write_text(path, json.dumps(form, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str, *, flag: str = "--json") -> None:
    """Write a text file: readers see the old file or the new one, never a part.

    Args:
        path: the file.
        text: what it is to hold.
        flag: where its name was given, for messages.

    Raises:
        ScorecardError: the file cannot be written.
    """
    write_bytes(path, text.encode(), flag=flag)


def write_bytes(path: Path, content: bytes, *, flag: str) -> None:
    """Write a file, likewise.

    Raises:
        ScorecardError: the file cannot be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error, flag) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def append_text(path: Path, text: str, *, flag: str) -> None:
    """Add to the end of a text file, as a build's summary wants it.

    Raises:
        ScorecardError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise _unwritable(path, error, flag) from None


def check_writable(path: Path, *, flag: str = "--json", example: str = "scorecard.json") -> None:
    """Refuse a place that cannot be written, before anything is computed for it.

    Raises:
        ScorecardError: a folder stands there, or its own folder is missing or closed.
    """
    if path.is_dir():
        raise ScorecardError(f"{path} is a folder. Name a file: {flag} {path / example}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error, flag) from None


def _unwritable(path: Path, error: OSError, flag: str) -> ScorecardError:
    full = error.errno == errno.ENOSPC
    reason = "the disk is full" if full else (error.strerror or str(error)).lower()
    return ScorecardError(
        f"Cannot write {path}: {reason}. Nothing was left there; free some space or name another "
        f"file with {flag}."
    )


def read_scorecard(path: Path) -> Scorecard:
    """Read a scorecard.

    Raises:
        ScorecardError: it is missing, damaged, or of a version that this modeval cannot read.
    """
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScorecardError(
            f"No scorecard at {path}. Make one with: modeval score RUN --json {path}"
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ScorecardError(
            f"{path} cannot be read as JSON: {reason}. Score again with --json {path}"
        ) from None
    return from_dict_form(form, where=str(path))
