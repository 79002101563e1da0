"""Specifications as TOML files."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeval.errors import SpecError
from modeval.spec.plain import to_dict
from modeval.spec.settings import Settings


def load_toml(path: Path) -> dict[str, Any]:
    """Read a spec file; say where it is wrong when it is."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"No spec file at {path}. Write one, or give flags instead.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}.") from None
    except RecursionError:
        raise SpecError(f"{path} is not valid TOML: it is nested too deeply.") from None


def to_toml(spec: Settings) -> str:
    """Return the spec as TOML, from which ``from_dict`` makes the same spec again."""
    return "\n".join(_table(to_dict(spec), "")) + "\n"


def _table(values: Mapping[str, Any], name: str) -> list[str]:
    """Return the lines of a table: its own values, then the tables below it."""
    lines = [f"{key} = {_literal(value)}" for key, value in _plain_values(values)]
    if name:
        lines = ["", f"[{name}]", *lines]
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += _table(value, f"{name}.{key}" if name else key)
    return lines


def _plain_values(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what is no table; TOML has no word for what is not given, so that is left out."""
    return [
        (key, value)
        for key, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    ]


def _literal(value: Any) -> str:
    """Return a value as TOML: JSON's literals are TOML's but for two kinds of characters."""
    if isinstance(value, Mapping):
        given = (f"{key} = {_literal(part)}" for key, part in value.items() if part is not None)
        return f"{{ {', '.join(given)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
