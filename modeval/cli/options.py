"""What commands share: help with examples, and flags as values of a specification."""

from collections.abc import Callable, Mapping
from inspect import cleandoc
from pathlib import Path
from typing import Any

from modeval.errors import SpecError


def with_examples(command: Callable[..., None], examples: str) -> str:
    """Return the help of a command: its docstring, a line for each paragraph, then examples."""
    paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(text.split()) for text in paragraphs) + f"\n{examples}"


def read_file(path: Path | None) -> dict[str, Any]:
    """Read a spec file, if there is one; that of a run folder may be of an earlier version."""
    if path is None:
        return {}
    from modeval.spec import RunSpec, load_toml, without_unread

    values = load_toml(path)
    return without_unread(RunSpec, values) if (path.parent / "run.json").is_file() else values


def merge(file: Mapping[str, Any], flags: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Lay the flags that were given over the values of a spec file.

    A flag that chooses another kind drops what the file says of the former kind.

    >>> merge({"model": {"gating": {"kind": "gumbel", "temperature": 2.0}}},
    ...       {"model": {"gating": {"kind": "soft"}}})
    {'model': {'gating': {'kind': 'soft'}}}
    """
    merged: dict[str, Any] = dict(file)
    for section, given in flags.items():
        below = merged.get(section, {})
        if not isinstance(below, Mapping):
            raise SpecError(f"{section} must be a table of settings, not {below!r}.")
        merged[section] = _over(below, given)
    return merged


def _over(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    laid = dict(below)
    for name, value in given.items():
        former = below.get(name)
        if isinstance(former, str) and isinstance(value, Mapping):
            former = {"kind": former}
        if isinstance(former, Mapping) and isinstance(value, Mapping):
            same = value.get("kind", former.get("kind")) == former.get("kind")
            laid[name] = {**former, **value} if same else dict(value)
        else:
            laid[name] = value
    return laid


def numbers(flag: str, text: str | None) -> tuple[int, ...] | None:
    """Read ``0,4,8-11``.

    >>> numbers("--layers", "0,4,8-11")
    (0, 4, 8, 9, 10, 11)
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SpecError(f"{flag} {text}: expected numbers from 0, as 0,4,8-11.")
        found += range(int(first), int(last if dash else first) + 1)
    if not found:
        raise SpecError(f"{flag} {text}: expected numbers from 0, as 0,4,8-11.")
    return tuple(dict.fromkeys(found))


def read_shard(text: str | None) -> tuple[int, int]:
    """Return number and count of a shard, written I/N; the whole when absent.

    >>> read_shard("2/8"), read_shard(None)
    ((2, 8), (1, 1))
    """
    if text is None:
        return 1, 1
    number, slash, of = text.partition("/")
    if not slash or not number.isdecimal() or not of.isdecimal() or not 1 <= int(number) <= int(of):
        raise SpecError(f"--shard {text}: expected I/N with 1 <= I <= N, as 1/4.")
    return int(number), int(of)
