"""Scorecards on disk: JSON, written whole or not at all."""

import contextlib
import gc
import json
import stat
from collections.abc import Iterator
from dataclasses import fields, replace
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from typing import Any

from modeval import atomic
from modeval.errors import ScorecardError
from modeval.pace import tell
from modeval.score.scorecard import OF_MODELS, Score, Scorecard, to_dict_form
from modeval.score.stored.checks import check_scorecard
from modeval.score.stored.reading import from_dict_form
from modeval.text import for_json

LARGEST = 1 << 29
"""Bytes of a scorecard at most: some two million scores."""
EXAMPLE = "scorecard.json"
CLOSE = 0.85
"""Share of letters that names have in common, from which one may be meant for the other."""

SCHEMA = Path(__file__).with_name("scorecard.schema.json")
"""JSON Schema of the file."""


def write_scorecard(path: Path, card: Scorecard) -> None:
    """Write a scorecard: readers see the old file or the new one, never a part.

    Raises:
        ScorecardError: the file cannot be written.
    """
    write_text(path, scorecard_text(card))


def scorecard_text(card: Scorecard) -> str:
    """Return a scorecard as it stands in a file."""
    without: dict[str, Any] = dict.fromkeys(OF_MODELS, ())
    form = to_dict_form(replace(card, **without))
    text = json.dumps(form, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    for part in OF_MODELS:
        item_text = _score_text if part == "scores" else _line_of
        if items := ",\n".join(map(item_text, getattr(card, part))):
            text = text.replace(f'\n "{part}": []', f'\n "{part}": [\n{items}\n ]', 1)
    return for_json(text)


def _fields_of(item: Any) -> dict[str, Any]:
    """Return what stands in an item of a list, without a look at its numbers, one by one."""
    form = {attribute.name: getattr(item, attribute.name) for attribute in fields(item)}
    if form.get("seed") is not None:
        form["seed"] = dict(zip(("task", "model"), form["seed"], strict=True))
    return form


LINE_ENCODER = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, check_circular=False, default=_fields_of
)


def _line_of(item: Any) -> str:
    """Write an item of a list other than that of scores on one line: most are matrices."""
    return f"  {LINE_ENCODER.encode(item)}"


SCORE_NAMES = tuple(attribute.name for attribute in fields(Score))
SCORE_VALUES = attrgetter(*SCORE_NAMES)
SCORE_ENCODER = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, separators=(",\n   ", ": "), check_circular=False
)


def _score_text(score: Score) -> str:
    """Write a score as ``json.dumps(..., indent=1)`` would, ten times as fast: there are many.

    A value of it never holds the text of its seed: quotes within one are escaped.
    """
    form = dict(zip(SCORE_NAMES, SCORE_VALUES(score), strict=True))
    seed, form["seed"] = score.seed, None
    text = SCORE_ENCODER.encode(form)
    if seed is not None:
        told = f'"seed": {{\n    "task": {seed[0]},\n    "model": {seed[1]}\n   }}'
        text = text.replace('"seed": null', told, 1)
    return f"  {{\n   {text[1:-1]}\n  }}"


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
    with atomic.reported(path, _unwritten(flag)), atomic.new_folders(path.parent):
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
    """Read a scorecard and check it as a whole.

    Raises:
        ScorecardError: it is missing, no regular file, damaged, edited so that its numbers do not
            go together, or of a version that this modeval cannot read.
    """
    text = _text(path)
    reading = f"reading {path.name}, {len(text) / 1e6:,.0f} MB"
    tell(reading, 0, 1)
    with without_collection():
        card = _parsed(text, path)
    tell(reading, 1, 1)
    return card


def _parsed(text: str, path: Path) -> Scorecard:
    try:
        form = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise ScorecardError(
            f"{path} is no scorecard: it is nested too deeply. Score again with --json {path}"
        ) from None
    except ValueError as error:
        raise ScorecardError(
            f"{path} cannot be read as JSON: {str(error).splitlines()[0]}. Score again with --json "
            f"{path}"
        ) from None
    card = from_dict_form(form, where=str(path))
    check_scorecard(card, where=str(path))
    return card


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python from looking for cycles among a million objects that are all kept anyway."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _near(path: Path) -> Path | None:
    """Return the JSON file beside a missing one whose name is most like its own."""
    beside = [each.name for each in path.parent.glob("*.json")]
    close = get_close_matches(path.name, beside, n=1, cutoff=CLOSE)
    return path.parent / close[0] if close else None


def _text(path: Path) -> str:
    """Return what a file or a pipe holds, up to a size that no scorecard has."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise ScorecardError(
                f"{path} is no file. Name a scorecard, as modeval score RUN --json {EXAMPLE} "
                "writes it."
            )
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ScorecardError(
                f"{path} holds more than {LARGEST >> 20} MiB, and no scorecard does. Name another "
                "file."
            )
        return content.decode("utf-8")
    except FileNotFoundError:
        near = _near(path)
        make = f"Make one with: modeval score RUN --json {path}"
        advice = f"Did you mean {near}?" if near else make
        raise ScorecardError(f"No scorecard at {path}. {advice}") from None
    except UnicodeDecodeError as error:
        raise ScorecardError(
            f"{path} cannot be read as JSON: {error}. Score again with --json {path}"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ScorecardError(f"{path} cannot be read: {reason}.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of which no name is there twice, as a reader could take either value."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return made


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of a scorecard")
