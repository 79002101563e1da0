"""Scorecards on disk: JSON, written whole or not at all."""

import json
from pathlib import Path

from modeval import atomic
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
    write_bytes(path, text.encode("utf-8", "backslashreplace"), flag=flag)


def write_bytes(path: Path, content: bytes, *, flag: str) -> None:
    """Write a file, likewise.

    Raises:
        ScorecardError: the file cannot be written.
    """
    atomic.write_bytes(path, content, _unwritten(flag))


def append_text(path: Path, text: str, *, flag: str) -> None:
    """Add to the end of a text file, as a build's summary wants it.

    Raises:
        ScorecardError: the file cannot be written.
    """
    content = text.encode("utf-8", "backslashreplace")
    atomic.append(path, content, _unwritten(flag))


def check_writable(path: Path, *, flag: str = "--json", example: str = "scorecard.json") -> None:
    """Refuse a place that cannot be written, before anything is computed for it.

    Raises:
        ScorecardError: a folder stands there, or its own folder is missing or closed.
    """
    if path.is_dir():
        raise ScorecardError(f"{path} is a folder. Name a file: {flag} {path / example}")
    atomic.check_writable(path, _unwritten(flag))


def _unwritten(flag: str) -> atomic.Fault:
    advice = f"Nothing was left there; free some space or name another file with {flag}."
    return atomic.Fault(ScorecardError, advice)


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
