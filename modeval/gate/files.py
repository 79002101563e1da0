"""Policies on disk: a TOML file of their own, or a table of ``pyproject.toml``."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from modeval.errors import SpecError
from modeval.gate.policy import Policy, from_table


def read_policy(path: Path) -> Policy:
    """Read a policy: a TOML file of its own, or ``[tool.modeval.gate]`` of ``pyproject.toml``.

    A baseline that it names is looked for from the folder of the file.

    Raises:
        SpecError: the file is missing, is no TOML, or says something unknown or impossible.
    """
    table = policy_table(path)
    if table is None:
        raise SpecError(
            f"{path} has no table [tool.modeval.gate]. Add one, as max.collapse_worst = 0.2 below "
            "that heading, or name another file: --policy gate.toml"
        )
    policy = from_table(table, str(path))
    if policy.baseline is None:
        return policy
    return replace(policy, baseline=str(path.parent / policy.baseline))


def policy_table(path: Path) -> dict[str, Any] | None:
    """Return the table of a policy; nothing for a ``pyproject.toml`` without one.

    Raises:
        SpecError: the file is missing, cannot be read, or is no TOML.
    """
    try:
        whole = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"No policy at {path}. Write one, as max.collapse_worst = 0.2 in gate.toml, or give "
            "flags instead: --max collapse_worst=0.2"
        ) from None
    except OSError as error:
        raise SpecError(f"Cannot read the policy {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}.") from None
    if path.name != "pyproject.toml":
        return whole
    table = whole.get("tool", {}).get("modeval", {}).get("gate")
    return table if isinstance(table, dict) else None
