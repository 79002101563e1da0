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
    from modeval.report.paper.seed_table import Setting
    from modeval.report.paper.speed import Curve
    from modeval.score.scorecard import Scorecard

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
    from modeval.report.paper.findings import paper_findings

    card, curves = _read(path)
    findings = paper_findings(card, curves)
    if as_json is None:
        _print(findings)
        return
    text = json.dumps([asdict(finding) for finding in findings], indent=1)
    deliver(Path(as_json), text + "\n", flag="--json")


def _read(path: Path) -> "tuple[Scorecard, dict[tuple[Setting, str], Curve]]":
    from modeval.score.stored.files import read_scorecard

    if not path.is_dir():
        return read_scorecard(path), {}
    from modeval.report.paper.seed_table import name_of, setting_of
    from modeval.report.paper.speed import Curve
    from modeval.spec import to_dict
    from modeval.sweep.collect import collect
    from modeval.sweep.plan import read_sweep
    from modeval.train.records import is_run, read_log

    sweep = read_sweep(path)
    curves = {}
    for cohort in sweep.cohorts:
        folder = sweep.run_folder(cohort)
        log = read_log(folder) if is_run(folder) else []
        if log:
            data, model = to_dict(cohort.spec.data), to_dict(cohort.spec.model)
            curves[setting_of(data, model), name_of(model)] = Curve(
                steps=tuple(item["step"] for item in log),
                losses=tuple(tuple(item["validation_loss"]) for item in log),
                seeds=cohort.spec.train.seeds,
            )
    return collect(sweep).card, curves


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
