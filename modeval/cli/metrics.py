"""``modeval metrics``: what each number means."""

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from modeval.cli.manual.docstrings import to_markdown
from modeval.cli.manual.worked import CASES, EXAMPLE, VALUES

if TYPE_CHECKING:
    from modeval.metrics import Metric


class _Margins(TypedDict):
    initial_indent: str
    subsequent_indent: str


_INDENT: _Margins = {"initial_indent": "  ", "subsequent_indent": "      "}
_DEEPER: _Margins = {"initial_indent": "      ", "subsequent_indent": "      "}

GROUPS = {
    "specialisation": "Does each rule have a module of its own?",
    "information": "How much does routing tell of the rule?",
    "load": "How is the work shared out?",
    "budget": "Where does the entropy of routing go?",
    "selections": "What is chosen, and together with what?",
    "tokens": "What do single tokens tell?",
    "causal": "What do modules do, where they are switched off?",
    "loss": "Does the model solve its task?",
}
"""What metrics tell, as questions, in the order in which they are listed."""


def _complete(incomplete: str) -> list[str]:
    from modeval.metrics.table import METRICS

    return [name for name in METRICS if name.startswith(incomplete)]


def metrics_command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Explain one metric.", autocompletion=_complete),
    ] = None,
    *,
    as_json: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write all of it as JSON; - prints it."),
    ] = None,
) -> None:
    """List the metrics, or explain one with a worked example."""
    from modeval.cli.manual.help import show
    from modeval.metrics.table import METRICS

    chosen = list(METRICS.values()) if name is None else [find_metric(name)]
    if as_json is not None:
        entries = [describe(metric) for metric in chosen]
        _write(json.dumps(entries if name is None else entries[0], indent=2), as_json)
    elif name is None:
        typer.echo(list_metrics(chosen))
        typer.echo("Explain one with: modeval metrics NAME")
    else:
        show(explain(chosen[0]))


def _write(text: str, file: str) -> None:
    from modeval.cli.output import deliver

    deliver(Path(file), text + "\n", flag="--json")


def find_metric(name: str) -> "Metric":
    """Return a metric by name; suggest a near one when there is none."""
    from modeval.errors import SpecError
    from modeval.metrics.table import metric_of, near_metric

    key = name.replace("-", "_").lower()
    found = metric_of(key)
    if found is None:
        near = near_metric(key)
        advice = f"Did you mean {near}?" if near else "List them with: modeval metrics"
        raise SpecError(f"{name}: there is no such metric. {advice}")
    return found


def describe(metric: "Metric") -> dict[str, Any]:
    """Return all that the table knows of a metric, as plain values."""
    names = (
        "name title question formula formula_id version better range ideal chance needs tells "
        "source"
    )
    texts = {"range": metric.bounds.text, "ideal": metric.ideal.text, "chance": metric.chance.text}
    return {key: texts.get(key) or getattr(metric, key) for key in names.split()}


def list_metrics(metrics: "list[Metric]") -> str:
    """List metrics by what they tell: name and question, then how to read the number."""
    lines = []
    for group, heading in GROUPS.items():
        members = [metric for metric in metrics if metric.tells == group]
        if not members:
            continue
        lines += [heading, ""]
        for metric in members:
            direction = "" if metric.better == "neither" else f"{metric.better} is better; "
            lines += [
                *textwrap.wrap(f"{metric.name}: {metric.question}", 96, **_INDENT),
                *textwrap.wrap(
                    f"{direction}{metric.bounds}, ideal {metric.ideal}, chance {metric.chance}",
                    *(96,),
                    **_DEEPER,
                ),
            ]
        lines.append("")
    return "\n".join(lines)


def explain(metric: "Metric") -> str:
    """Explain a metric, as Markdown: what is asked, how to read it, and an example."""
    lines = [
        f"# {metric.title} (`{metric.name}`)",
        "",
        to_markdown(metric.docstring, examples=False),
        "",
        f"- better: {metric.better}",
        f"- range: {metric.bounds}",
        f"- ideal: {metric.ideal}",
        f"- chance: {metric.chance}",
        f"- formula: {metric.formula_id}, version {metric.version}",
        f"- source: {metric.source}",
    ]
    return "\n".join(lines + _worked_example(metric))


def _worked_example(metric: "Metric") -> list[str]:
    """Show the scores of an example, and of the three routings that everybody knows."""
    values = VALUES.get(metric.name)
    if values is None:
        return []
    rows = [" ".join(f"{share:5.2f}" for share in row) for row in EXAMPLE]
    lines = ["", "Example: 4 rules (rows) routed over 4 modules (columns).", "", "```text"]
    lines += [*rows, ""]
    scored = (f"{case:22}{value:10.6f}" for case, value in zip(CASES, values, strict=True))
    return [*lines, *scored, "```"]
