"""Conditions that a specification must meet, each refused with advice."""

import difflib
import typing
from typing import Any, Literal

from modeval.errors import SpecError


def check(condition: bool, message: str) -> None:  # noqa: FBT001 - the condition is what it is about
    """Raise ``message`` unless ``condition`` holds."""
    if not condition:
        raise SpecError(message)


def check_choices(spec: Any) -> None:
    """Refuse a value that is not among those of its ``Literal``, and name the nearest."""
    for name, hint in typing.get_type_hints(type(spec)).items():
        if typing.get_origin(hint) is Literal:
            value, choices = getattr(spec, name), typing.get_args(hint)
            if value not in choices:
                near = difflib.get_close_matches(str(value), choices, n=1)
                advice = f' Did you mean "{near[0]}"?' if near else ""
                known = ", ".join(choices)
                raise SpecError(f"{name} = {value!r}: expected one of {known}.{advice}")


def check_positive(spec: Any, *names: str) -> None:
    """Refuse a value that is not a finite number above 0."""
    for name in names:
        value = getattr(spec, name)
        check(
            value > 0 and value == value and value != float("inf"),  # noqa: PLR0124
            f"{name} = {value}: expected a number above 0.",
        )
