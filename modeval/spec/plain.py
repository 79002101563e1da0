"""Specifications as plain values and back, and a short name for plain values."""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from modeval.errors import SpecError
from modeval.spec.checks import check


class Settings(Protocol):
    """Any specification: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Spec = TypeVar("Spec", bound=Settings)


def to_dict(spec: Settings) -> dict[str, Any]:
    """Return the spec as nested dictionaries of plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(typing.cast("Any", spec))))
    return plain


def from_dict(kind: type[Spec], values: Mapping[str, Any], *, where: str = "") -> Spec:
    """Build a spec from plain values; unknown names and wrong types are refused by name."""
    hints = typing.get_type_hints(kind)
    known = {entry.name for entry in fields(kind)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}."
            raise SpecError(f"{where}{name}: there is no such setting. {advice}")
        arguments[name] = _coerce(hints[name], value, f"{where}{name}")
    return kind(**arguments)


def digest(values: Mapping[str, Any]) -> str:
    """Return a short stable hash of plain values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Turn a plain value into the annotated type, or refuse it by name."""
    if dataclasses.is_dataclass(hint):
        check(isinstance(value, Mapping), f"{where} must be a table of settings, not {value!r}.")
        return from_dict(typing.cast("Any", hint), value, where=f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        check(isinstance(value, (list, tuple)), f"{where} must be a list, not {value!r}.")
        entry = arguments[0]
        if len(arguments) == 2 and arguments[1] is not Ellipsis:  # noqa: PLR2004
            check(len(value) == len(arguments), f"{where} takes {len(arguments)} numbers.")
        return tuple(_coerce(entry, item, where) for item in value)
    if origin in (Literal, types.UnionType):
        return value  # the dataclass checks its own choices
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(
        isinstance(value, hint) and not (hint is int and isinstance(value, bool)),
        f"{where} = {value!r}: expected {hint.__name__}.",
    )
    return value
