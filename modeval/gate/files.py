"""Policies on disk: a TOML file of their own, or a table of ``pyproject.toml``."""

import re
import stat
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from modeval.errors import SpecError
from modeval.gate.policy import Policy, Requirement, from_table


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
    # a pipe is read once, so its lines are not known
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    requirements = tuple(replace(each, line=line_of(each, text)) for each in policy.requirements)
    policy = replace(policy, requirements=requirements)
    if policy.baseline is None:
        return policy
    return replace(policy, baseline=str(path.parent / policy.baseline))


def line_of(requirement: Requirement, text: str) -> int:
    r"""Return the line of a policy's text that asks for something, from 1; 0 where none is found.

    The line whose key, after the heading that it stands under, ends with the comparison and the
    metric; else the first that has the comparison before it and names the metric.

    >>> line_of(Requirement(metric="v", comparison="max", limit=1.0), "[max]\nu = 1\nv = 1")
    3
    """
    heading, named, below = "", 0, False
    whole = f"{requirement.comparison}.{requirement.name}"
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("#")[0].strip()
        if code.startswith("["):
            heading = code.strip("[] ")
        key = ".".join(part for part in (heading, code.split("=")[0]) if part)
        key = re.sub(r"[\s'\"]", "", key)
        if key == whole or key.endswith(f".{whole}"):
            return number
        below = below or requirement.comparison in key
        if below and not named and re.search(rf"\b{re.escape(requirement.metric)}\b", code):
            named = number
    return named


def policy_table(path: Path) -> dict[str, Any] | None:
    """Return the table of a policy; nothing for a ``pyproject.toml`` without one.

    Raises:
        SpecError: the file is missing, cannot be read, or is no TOML.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise SpecError(
                f"Cannot read the policy {path}: it is no file. Name one: --policy gate.toml"
            )
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
    except RecursionError:
        raise SpecError(f"{path} is not valid TOML: it is nested too deeply.") from None
    if path.name != "pyproject.toml":
        return whole
    table: Any = whole
    for name in ("tool", "modeval", "gate"):  # in a file of others' anything may stand there
        table = table.get(name) if isinstance(table, dict) else None
    return table if isinstance(table, dict) else None
