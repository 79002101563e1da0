"""Specifications as TOML files."""

import json
import tomllib
from pathlib import Path
from typing import Any

from modeval.errors import SpecError
from modeval.spec.plain import Settings, to_dict


def load_toml(path: Path) -> dict[str, Any]:
    """Read a spec file; say where it is wrong when it is."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"No spec file at {path}. Write one, or give flags instead.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}.") from None


def to_toml(spec: Settings) -> str:
    """Return the spec as TOML, from which ``from_dict`` makes the same spec again."""
    values = to_dict(spec)
    lines = [
        f"{name} = {_literal(value)}"
        for name, value in values.items()
        if not isinstance(value, dict)
    ]
    for section, entries in values.items():
        if isinstance(entries, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{name} = {_literal(value)}" for name, value in entries.items()]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """Return a value as TOML: JSON's literals are TOML's but for two kinds of characters."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
