"""What commands share: help with examples, and flags as values of a specification."""

from collections.abc import Callable, Mapping
from inspect import cleandoc
from typing import Any

from modeval.errors import SpecError


def with_examples(command: Callable[..., None], examples: str) -> str:
    """Return the help of a command: its docstring, then examples."""
    return f"{cleandoc(command.__doc__ or '')}\n{examples}"


def merge(file: Mapping[str, Any], flags: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Lay the flags that were given over the values of a spec file."""
    merged: dict[str, Any] = dict(file)
    for section, values in flags.items():
        given = {name: value for name, value in values.items() if value is not None}
        below = merged.get(section, {})
        if not isinstance(below, Mapping):
            raise SpecError(f"{section} must be a table of settings, not {below!r}.")
        merged[section] = {**below, **given}
    return merged


def data_values(*, rule_probabilities: str | None, **values: Any) -> dict[str, Any]:
    """Return the values of the data section that flags gave."""
    return {**values, "rule_probabilities": shares(rule_probabilities)}


def shares(text: str | None) -> list[float] | None:
    """Read ``0.5,0.3,0.2``."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(
            f"--rule-probabilities {text!r}: expected numbers, as 0.5,0.3,0.2."
        ) from None


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
