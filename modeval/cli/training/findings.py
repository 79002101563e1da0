"""``modeval findings``: what a sweep says of the paper's findings."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import deliver, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from modeval.report.paper.deciding import PaperFinding

STYLES = {"holds": "green", "does not hold": "red", "cannot be told": "dim", "reported": ""}
TABLE = 72
"""Columns of a terminal below which findings stand as paragraphs."""

EXAMPLES = """
[bold]Examples[/]

  Of a sweep, with the speed of training:
  [cyan]modeval findings runs/grid[/]

  Of a scorecard:
  [cyan]modeval findings paper.json[/]
"""


def findings_command(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder of a sweep, or a scorecard.")
    ],
    *,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write them; - prints them.")
    ] = None,
) -> None:
    """Check the findings of "Is a Modular Architecture Enough?" on trained models.

    Each is one number with its interval over tasks: it holds, it does not, or it cannot be told.
    """
    from modeval.pipeline.finding import read_trained

    findings = read_trained(path).findings()
    if as_json is None:
        _print(findings)
        return
    text = json.dumps([asdict(finding) for finding in findings], indent=1)
    deliver(Path(as_json), text + "\n", flag="--json")


def _print(findings: "list[PaperFinding]") -> None:
    console = stdout()
    if console.width < TABLE:
        _print_below(console, findings)
        return
    from rich.table import Table

    table = Table("", box=None, pad_edge=False)
    for heading in ("The paper says", "Measured", "Here"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = STYLES[finding.verdict] or "none"
        number = _number(finding)
        table.add_row(
            finding.name,
            finding.statement,
            f"{finding.measured}{_limits(finding)}",
            f"[{style}]{_word(finding)}[/]\n{number}\n[dim]{finding.why}[/]".replace("\n\n", "\n"),
        )
    console.print(table)


def _print_below(console: "Console", findings: "list[PaperFinding]") -> None:
    """Print each finding as paragraphs: columns side by side would be too narrow for words."""
    from modeval.report.terminal.grid import Prose

    for finding in findings:
        name, word = f"{finding.name} ", f"   {_word(finding)}"
        here = ", ".join(filter(None, (_number(finding), finding.why)))
        style = STYLES[finding.verdict] or "none"
        console.print(Prose(f"{name}{finding.statement}", head=len(name), indent="   "))
        said = f"{word}: {here}" if here else word
        console.print(Prose(said, head=len(word), style=style, indent="   "))
        measured = f"   {finding.measured}{_limits(finding)}"
        console.print(Prose(measured, indent="   ", dim=True))


def _word(finding: "PaperFinding") -> str:
    return finding.verdict if finding.role == "finding" else finding.role


def _number(finding: "PaperFinding") -> str:
    number = "" if finding.value is None else f"{finding.value:.3f}"
    if finding.low is not None and finding.high is not None:
        number += f" [{finding.low:.3f}, {finding.high:.3f}]"
    return number


def _limits(finding: "PaperFinding") -> str:
    """Say where the number must lie for the statement to be true, where that is not yet said."""
    if finding.role != "finding" or finding.ceiling is not None or finding.measured.endswith(": 0"):
        return ""
    return f"; true above {finding.boundary:g}"


findings_command.__doc__ = with_examples(findings_command, EXAMPLES)
