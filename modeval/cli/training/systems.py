"""``modeval systems``: systems of the literature, and the choices that make each of them."""

import json
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from modeval.cli import complete
from modeval.errors import SpecError
from modeval.spec.settings import flag_of
from modeval.spec.system import System
from modeval.spec.systems import SYSTEMS, system_of

WIDEST = 100
"""Columns beyond which lines get hard to read."""


def systems_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Explain one system.", autocompletion=complete.systems
        ),
    ] = None,
    *,
    invalid: Annotated[
        bool, typer.Option("--invalid", help="List choices that never go together, and why.")
    ] = False,
    as_json: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write all of it as JSON; - prints it."),
    ] = None,
) -> None:
    """List the systems that can be trained by name, or explain one."""
    from modeval.cli.manual.help import show

    if invalid:
        _list_invalid(name, as_json)
        return
    chosen = SYSTEMS if name is None else (system_of(name),)
    if as_json is not None:
        entries = [describe(system) for system in chosen]
        _write(json.dumps(entries if name is None else entries[0], indent=2), as_json)
    elif name is None:
        typer.echo(list_systems())
        typer.echo("Explain one with: modeval systems NAME")
    else:
        show(explain(chosen[0]))


def _list_invalid(name: str | None, as_json: str | None) -> None:
    """Say which choices of two axes never go together."""
    from modeval.spec.pairs import grouped, impossible

    if name is not None:
        raise SpecError(
            f"--invalid with {name}: it is about choices, whatever the system. Drop one."
        )
    pairs = impossible()
    if as_json is not None:
        entries = [
            {"choices": dict((pair.first, pair.second)), "reason": pair.reason} for pair in pairs
        ]
        _write(json.dumps(entries, indent=2), as_json)
        return
    for group in grouped(pairs):
        axis, choice = group.choice
        typer.echo(f"{axis} {choice}: not with {group.axis} {', '.join(group.others)}")
        typer.echo(textwrap.indent(textwrap.fill(group.reason, width=94), "    "))
    typer.echo(f"\n{len(pairs)} pairs of choices of two axes never go together; all others do.")


def describe(system: System) -> dict[str, Any]:
    """Return all that the table knows of a system, as plain values."""
    names = ("name", "title", "what", "formula", "source", "expect")
    texts = {key: getattr(system, key) for key in names}
    return {
        **texts,
        "choices": dict(system.choices),
        "phase": dict(system.phase),
        "regime": system.regime,
        "tasks": list(system.tasks),
        "command": command_of(system),
    }


def list_systems() -> str:
    """Return a line or two for each system: its name, what it is, its choices."""
    room = min(shutil.get_terminal_size().columns, WIDEST)
    width = max(len(system.name) for system in SYSTEMS) + 2
    beside = room >= 2 * width  # on narrow terminals names stand above what they are
    indent = " " * (width if beside else 2)
    lines = []
    for system in SYSTEMS:
        wrapped = [
            line
            for text in (system.what, choices_of(system))
            for line in textwrap.wrap(
                text, room, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
            )
        ]
        if beside:
            wrapped[0] = f"{system.name:<{width}}{wrapped[0].lstrip()}"
        lines += wrapped if beside else [system.name, *wrapped]
    return "\n".join([*lines, ""])


def explain(system: System) -> str:
    """Return a page of Markdown on one system."""
    tasks = "" if len(system.tasks) == 3 else f"Tasks: {', '.join(system.tasks)}.\n\n"  # noqa: PLR2004
    return (
        f"# {system.title}\n\n{system.what}\n\n```text\n{system.formula}\n```\n\n"
        f"Choices: {choices_of(system)}.\n\n{tasks}{system.expect}\n\n"
        f"Source: {system.source}.\n\nTrain and score it:\n\n```console\n"
        f"$ {command_of(system)}\n$ modeval score runs/{system.name}\n```\n"
    )


def choices_of(system: System) -> str:
    """Return the choices as flags would say them."""
    parts = [f"{axis} {_said(choice)}" for axis, choice in system.choices.items()]
    parts += [
        f"remedy {remedy['kind']} x {remedy['coefficient']:g}"
        for remedy in system.phase.get("remedies", ())
    ]
    parts += [
        f"rate of {rate['parameters']} x {rate['factor']:g}"
        for rate in system.phase.get("rates", ())
    ]
    parts += [f"regime {system.regime}"] if system.regime != "joint" else []
    return ", ".join(parts)


def command_of(system: System) -> str:
    """Return the command that trains a system, on the first task that it is defined for."""
    flags = "".join(f" {flag_of(name)} {value}" for name, value in system.data.items())
    command = f"modeval train --out runs/{system.name} --model {system.name}"
    return f"{command} --task {system.tasks[0]}{flags}"


def _said(choice: Any) -> str:
    if not isinstance(choice, Mapping):
        return str(choice)
    settings = [f"{key} {value}" for key, value in choice.items() if key != "kind"]
    return " ".join([choice["kind"], *settings])


def _write(text: str, file: str) -> None:
    if file == "-":
        typer.echo(text)
        return
    from modeval.score.stored.files import write_text

    write_text(Path(file), text + "\n")
