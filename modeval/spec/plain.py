"""Specifications as plain values and back, and short names for them."""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar

from modeval.errors import SpecError
from modeval.spec.checks import check, hints_of, suggestion
from modeval.spec.settings import Settings, default_of, flag_of
from modeval.text import brief

Spec = TypeVar("Spec", bound=Settings)


def to_dict(spec: Settings) -> dict[str, Any]:
    """Return the spec as nested dictionaries of plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(typing.cast("Any", spec))))
    return plain


def from_dict(kind: type[Spec], values: Mapping[str, Any], *, where: str = "") -> Spec:
    """Build a spec from plain values; unknown names and wrong types are refused by name."""
    hints = hints_of(kind)
    known = {field.name for field in fields(kind)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}."
            raise SpecError(f"{where}{name}: there is no such setting. {advice}")
        arguments[name] = _coerce(hints[name], value, f"{where}{name}")
    for field in fields(kind):
        told = field.name in arguments or default_of(field) is not dataclasses.MISSING
        check(told, f"{where}{field.name} is missing: it has no usual value. Give it.")
    return kind(**arguments)


def choices_of(hint: Any) -> dict[str, type]:
    """Return the classes of a union of specifications by their kind; nothing for another type.

    A choice with settings of its own is a frozen dataclass with a field ``kind`` whose type is a
    ``Literal`` of one name: ``[model.gating] kind = "top-k"`` in a file, ``--gating top-k`` as a
    flag. The usual choice stands first in the union.
    """
    members = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    return {
        kind: member
        for member in members
        if dataclasses.is_dataclass(member) and isinstance(member, type)
        for kind in typing.get_args(hints_of(member).get("kind"))
    }


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Turn a plain value into the annotated type; a dataclass checks its own choices."""
    if choices_of(hint):
        return _coerce_choice(choices_of(hint), value, where)
    if dataclasses.is_dataclass(hint):
        check(
            isinstance(value, Mapping), f"{where} must be a table of settings, not {brief(value)}."
        )
        return from_dict(typing.cast("Any", hint), value, where=f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _coerce_list(arguments, value, where)
    if origin in _UNIONS:  # a type, or None for what other settings decide
        absent = value is None and type(None) in arguments
        return None if absent else _coerce(arguments[0], value, where)
    return value if origin is Literal else _coerce_plain(hint, value, where)


def _coerce_list(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    check(isinstance(value, (list, tuple)), f"{where} must be a list, not {brief(value)}.")
    element = arguments[0]
    if len(arguments) == 2 and arguments[1] is not Ellipsis:  # noqa: PLR2004
        check(len(value) == len(arguments), f"{where} takes {len(arguments)} numbers.")
    return tuple(_coerce(element, item, where) for item in value)


def _coerce_plain(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(
        isinstance(value, hint) and not (hint is int and isinstance(value, bool)),
        f"{where} = {brief(value)}: expected {hint.__name__}.",
    )
    return value


def _coerce_choice(choices: Mapping[str, type], value: Any, where: str) -> Any:
    """Build the member of a union that ``kind`` names; a name alone means its defaults."""
    table = {"kind": value} if isinstance(value, str) else value
    check(isinstance(table, Mapping), f"{where} must be a name or a table, not {brief(value)}.")
    kind = str(table["kind"]) if "kind" in table else _kind_of(choices, table, where)
    if kind not in choices:
        raise SpecError(
            f"{where}.kind = {brief(kind)}: expected one of {', '.join(choices)}."
            f"{suggestion(kind, choices)}"
        )
    return from_dict(typing.cast("Any", choices[kind]), table, where=f"{where}.")


def _kind_of(choices: Mapping[str, type], table: Mapping[str, Any], where: str) -> str:
    """Return the kind that settings without one mean: the usual one, which stands first."""
    readers = [
        kind
        for kind, member in choices.items()
        if table.keys() <= {field.name for field in fields(typing.cast("Any", member))}
    ]
    usual = next(iter(choices))
    if readers and usual not in readers:
        raise SpecError(
            f"{where}: {', '.join(table)} belongs to {', '.join(readers)}, and {usual} is the "
            f'usual kind. Say which: kind = "{readers[0]}" in a file, '
            f"{flag_of(where.rpartition('.')[2])} {readers[0]} as a flag."
        )
    return usual


_UNIONS = (types.UnionType, typing.Union)


# --- names ---------------------------------------------------------------------------------------


def digest(values: Mapping[str, Any]) -> str:
    """Return a short stable hash of plain values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sparse(spec: Settings, default: Settings | None = None) -> dict[str, Any]:
    """Return what differs from the defaults, as plain values: what a digest covers.

    A setting that is added later, with a default that means what was done before, is therefore no
    part of the digest of any earlier spec.

    Args:
        spec: the specification.
        default: what it is compared with; its class with its own defaults if not given. A table of
            another kind than the default's is compared with the defaults of its own kind.

    >>> from modeval.spec import DataSpec
    >>> sparse(DataSpec(rules=8))
    {'rules': 8}
    """
    found: dict[str, Any] = {}
    for field in fields(typing.cast("Any", spec)):
        value = getattr(spec, field.name)
        usual = default_of(field) if default is None else getattr(default, field.name)
        if value == usual:
            continue
        same_kind = dataclasses.is_dataclass(value) and type(value) is type(usual)
        found[field.name] = sparse(value, usual) if same_kind else _sparse_value(value)
    return found


def _sparse_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_sparse_value(part) for part in value]
    if not dataclasses.is_dataclass(value):
        return value
    kind = {"kind": value.kind} if hasattr(value, "kind") else {}
    return kind | sparse(typing.cast("Settings", value))


def differences(
    kind: type[Settings], mine: Mapping[str, Any], its: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the settings that two specs, as plain values, do not share, each with both values.

    What one of them does not say is the default: files of different versions can be compared.
    """
    usual = to_dict(kind())
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys((*usual, *mine, *its)):
        both = tuple(_filled(values.get(name, usual.get(name))) for values in (mine, its))
        if both[0] != both[1]:
            found[name] = (both[0], both[1])
    return found


def _filled(value: Any) -> Any:
    """Return a value that does not tell tuples from lists."""
    return json.loads(json.dumps(value))
