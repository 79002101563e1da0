"""``modeval metrics``: what each number means."""

import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from modeval.metrics import Metric

EXAMPLE = (
    (0.95, 0.0, 0.0, 0.05),
    (0.0, 0.0, 0.0, 1.0),
    (0.35, 0.1, 0.0, 0.55),
    (0.0, 1.0, 0.0, 0.0),
)
"""Routing of four rules over four modules, one of them dead."""


def metrics_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Explain one metric.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the metrics, or explain one with a worked example."""
    from modeval.metrics import METRICS

    chosen = list(METRICS.values()) if name is None else [find_metric(name)]
    if as_json:
        entries = [describe(metric) for metric in chosen]
        typer.echo(json.dumps(entries if name is None else entries[0], indent=2))
    elif name is None:
        typer.echo(list_metrics(chosen))
        typer.echo("Explain one with: modeval metrics NAME")
    else:
        typer.echo(explain(chosen[0]))


def find_metric(name: str) -> "Metric":
    """Return a metric by name; suggest a near one when there is none."""
    import difflib

    from modeval.errors import SpecError
    from modeval.metrics import METRICS

    key = name.replace("-", "_").lower()
    if key not in METRICS:
        near = difflib.get_close_matches(key, METRICS, n=1)
        advice = f"Did you mean {near[0]}?" if near else "List them with: modeval metrics"
        raise SpecError(f"{name}: there is no such metric. {advice}")
    return METRICS[key]


def describe(metric: "Metric") -> dict[str, Any]:
    """Return all that the table knows of a metric, as plain values."""
    names = (
        "name title question formula formula_id version better range ideal chance needs tells "
        "source"
    )
    texts = {"range": metric.bounds.text, "ideal": metric.ideal.text, "chance": metric.chance.text}
    return {key: texts.get(key) or getattr(metric, key) for key in names.split()}


def list_metrics(metrics: "list[Metric]") -> str:
    """List metrics, four lines each: how to read them, question, formula, origin."""
    lines = []
    for metric in metrics:
        direction = "" if metric.better == "neither" else f"{metric.better} is better, "
        lines += [
            f"{metric.name}: {direction}{metric.bounds}, ideal {metric.ideal}",
            *_indented(metric.question),
            *_indented(metric.formula),
            *_indented(f"chance: {metric.chance}"),
            *_indented(f"{metric.formula_id}, version {metric.version}; {metric.source}"),
            "",
        ]
    return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, width=96, initial_indent="    ", subsequent_indent="      ")


def explain(metric: "Metric") -> str:
    """Explain a metric: its docstring, how to read it, and an example that is computed now."""
    lines = [
        f"{metric.title} ({metric.name})",
        "",
        metric.docstring,
        "",
        f"better: {metric.better}    ideal: {metric.ideal}    range: {metric.bounds}",
        f"chance: {metric.chance}",
        f"formula: {metric.formula_id}, version {metric.version}",
        f"source: {metric.source}",
    ]
    return "\n".join(lines + _worked_example(metric))


def _worked_example(metric: "Metric") -> list[str]:
    """Score an example, and the three routings that everybody knows, where there is a number."""
    import torch

    if metric.needs not in ("joint", "counts", "table") or metric.shape:
        return []
    example = torch.tensor(EXAMPLE, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    collapsed = torch.zeros(4, 4, dtype=torch.float64)
    collapsed[:, 0] = 1
    cases = {
        "this routing": example,
        "one module a rule": eye,
        "uniform": torch.full((4, 4), 0.25, dtype=torch.float64),
        "one module takes all": collapsed,
    }
    rows = [" ".join(f"{share:5.2f}" for share in row) for row in EXAMPLE]
    lines = ["", "Example: 4 rules (rows) routed over 4 modules (columns).", ""]
    lines += [f"    {row}" for row in rows] + [""]
    values = {title: _value(metric, routing) for title, routing in cases.items()}
    return lines + [f"    {title:22}{value:10.6f}" for title, value in values.items()]


def _value(metric: "Metric", routing: Any) -> float:
    """Return the value for routing A given as four rows."""
    import torch

    from modeval.counting.count import count

    if metric.needs == "table":
        return float(metric.function((routing * 100).round()))
    if metric.needs == "joint":
        return float(metric.function(routing / len(routing)))
    return float(metric.function(count(torch.arange(len(routing)), routing, rules=4)))
