"""``modeval findings``: what a sweep says of the paper's findings."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import deliver, stdout

if TYPE_CHECKING:
    from modeval.report.paper.deciding import PaperFinding

STYLES = {"holds": "green", "does not hold": "red", "cannot be told": "dim", "reported": ""}

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
    from rich.table import Table

    table = Table("", "The paper says", "Measured", "Here", box=None, pad_edge=False)
    for finding in findings:
        number = "" if finding.value is None else f"{finding.value:.3f}"
        if finding.low is not None and finding.high is not None:
            number += f" [{finding.low:.3f}, {finding.high:.3f}]"
        style = STYLES[finding.verdict] or "none"
        word = finding.verdict if finding.role == "finding" else finding.role
        table.add_row(
            finding.name,
            finding.statement,
            f"{finding.measured}{_limits(finding)}",
            f"[{style}]{word}[/]\n{number}\n[dim]{finding.why}[/]".replace("\n\n", "\n"),
        )
    stdout().print(table)


def _limits(finding: "PaperFinding") -> str:
    """Say where the number must lie for the statement to be true, where that is not yet said."""
    if finding.role != "finding" or finding.ceiling is not None or finding.measured.endswith(": 0"):
        return ""
    return f"; true above {finding.boundary:g}"


findings_command.__doc__ = with_examples(findings_command, EXAMPLES)
