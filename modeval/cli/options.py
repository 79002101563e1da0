"""From flags to the values of a specification: what was not given leaves the spec file's value."""

from collections.abc import Mapping
from typing import Any

from modeval.errors import SpecError


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
