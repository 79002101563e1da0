"""Conditions that a specification must meet, each refused with advice."""

import difflib
import functools
import typing
from collections.abc import Iterable
from typing import Any, Literal

from modeval.errors import SpecError
from modeval.text import brief


def check(condition: bool, message: str) -> None:  # noqa: FBT001 - the condition is what it is about
    """Raise ``message`` unless ``condition`` holds."""
    if not condition:
        raise SpecError(message)


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass."""
    return typing.get_type_hints(kind)


def check_choices(spec: Any) -> None:
    """Refuse a value that is not among those of its ``Literal``, and name the nearest."""
    for name, hint in hints_of(spec.__class__).items():
        if typing.get_origin(hint) is Literal:
            value, choices = getattr(spec, name), typing.get_args(hint)
            if value not in choices:
                raise SpecError(
                    f"{name} = {brief(value)}: expected one of {', '.join(choices)}."
                    f"{suggestion(str(value), choices)}"
                )


def suggestion(text: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest of what is known; nothing when none is near.

    >>> suggestion("binari", ["binary", "sets"])
    ' Did you mean "binary"?'
    """
    near = difflib.get_close_matches(text, list(known), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


def check_positive(spec: Any, *names: str) -> None:
    """Refuse a value that is not a finite number above 0."""
    for name in names:
        value = getattr(spec, name)
        check(
            value > 0 and value == value and value != float("inf"),  # noqa: PLR0124
            f"{name} = {value}: expected a number above 0.",
        )
