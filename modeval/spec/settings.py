"""What is known of a setting beside its name, type and default: written once, at the field.

The command line makes its flags from these fields and from the docstrings of their classes, so a
new field is a new flag, a new key of the spec file and a new line of help at once.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import Any, ClassVar, Protocol

from modeval.errors import SpecError
from modeval.spec.checks import hints_of


class Settings(Protocol):
    """Any specification: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


def setting(
    default: Any,
    *,
    unit: str = "",
    read_by: Mapping[str, tuple[str, ...]] | None = None,
    flag: bool = True,
    aliases: tuple[str, ...] = (),
    common: bool = False,
) -> Any:
    """Return a field of a specification.

    Args:
        default: its value where nothing else is said.
        unit: what it counts or measures, for help.
        read_by: settings and their values with which this one is read, as ``{"task": ("sets",)}``;
            with other values anything but the default is refused. Nothing: always read.
        flag: whether it is a flag of the command line.
        aliases: other names of the flag.
        common: whether most users need it.
    """
    metadata = {
        "unit": unit,
        "read_by": dict(read_by or {}),
        "flag": flag,
        "aliases": aliases,
        "common": common,
    }
    return field(default=default, metadata=metadata)


def default_of(attribute: Field[Any]) -> Any:
    """Return the default of a field, or ``MISSING``."""
    if attribute.default_factory is not dataclasses.MISSING:
        return attribute.default_factory()
    return attribute.default


@functools.cache
def descriptions(kind: type) -> dict[str, str]:
    """Return what the docstring of a specification says of each field, on one line each.

    >>> from modeval.spec import TrainSpec
    >>> descriptions(TrainSpec)["steps"]
    'optimiser steps.'
    """
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.fullmatch(r" {4}(\w+): (.*)", line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name and line.startswith(" " * 8):
            found[name] += " " + line.strip()
        elif line.strip() and not line.startswith(" "):
            break  # another section
    return found


# --- settings that nothing reads -----------------------------------------------------------------


def refuse_unread(spec: Settings, **context: str) -> None:
    """Refuse a setting that was changed though nothing reads it: it would only rename the run.

    Args:
        spec: the specification.
        **context: settings of other sections that decide what is read.

    Raises:
        SpecError: names the setting, what reads it, and what to type instead.
    """
    for attribute in fields(typing.cast("Any", spec)):
        value = getattr(spec, attribute.name)
        if value == default_of(attribute):
            continue
        for name, readers in _read_by(attribute).items():
            chosen = context.get(name, getattr(spec, name, None))
            if chosen is not None and chosen not in readers:
                raise SpecError(
                    f"{attribute.name} = {_shown(value)}: {name} {chosen} does not read it, "
                    f"{_listed(readers)} {'does' if len(readers) == 1 else 'do'}. Drop "
                    f"{flag_of(attribute.name)}, or use {flag_of(name)} {_listed(readers, 'or')}."
                )


def without_unread(kind: type, values: Mapping[str, Any], **context: Any) -> dict[str, Any]:
    """Return plain values without those that nothing reads, for files of before they were refused.

    >>> from modeval.spec import DataSpec
    >>> without_unread(DataSpec, {"task": "binary", "order": 3, "rules": 2})
    {'task': 'binary', 'rules': 2}
    """
    hints = hints_of(kind)
    tables = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    for name, table in tables.items():
        context |= _chosen(typing.cast("type", table), values.get(name, {}))
    context |= _chosen(kind, values)
    kept: dict[str, Any] = {}
    conditions = {attribute.name: _read_by(attribute) for attribute in fields(kind)}
    for name, value in values.items():
        if any(context.get(key) not in (None, *of) for key, of in conditions.get(name, {}).items()):
            continue
        nested = name in tables and isinstance(value, Mapping)
        kept[name] = without_unread(hints[name], value, **context) if nested else value
    return kept


def flag_of(name: str) -> str:
    """Return the flag of a setting.

    >>> flag_of("learning_rate")
    '--learning-rate'
    """
    return f"--{name.replace('_', '-')}"


def _read_by(attribute: Field[Any]) -> Mapping[str, tuple[str, ...]]:
    read_by: Mapping[str, tuple[str, ...]] = attribute.metadata.get("read_by", {})
    return read_by


def _chosen(kind: type, values: Any) -> dict[str, Any]:
    """Return the texts that values and defaults say."""
    if not isinstance(values, Mapping):
        return {}
    found = {
        attribute.name: values.get(attribute.name, default_of(attribute))
        for attribute in fields(kind)
    }
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _shown(value: Any) -> str:
    value = getattr(value, "kind", value)
    return f'"{value}"' if isinstance(value, str) else str(value)


def _listed(names: tuple[str, ...], word: str = "and") -> str:
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last
