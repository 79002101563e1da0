"""How values moved from one run of the gate to the next: what ``modeval gate --history`` kept."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from modeval.errors import ScorecardError
from modeval.report.paper.charts import Chart, Line, Point
from modeval.report.paper.style import Style, in_letters
from modeval.report.verdicts.history import Kept, Run
from modeval.report.words import metric_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = "limit"
"""Name of the line of what was asked for."""
BETTER = {"max": "\N{NO-BREAK SPACE}↓", "min": "\N{NO-BREAK SPACE}↑"}
"""Which way is better, by what was asked for."""


def charts(runs: Sequence[Run], style: Style) -> list[Chart]:
    """Return a chart for each thing that was required, a line for each model.

    Raises:
        ScorecardError: nothing has a value, or nothing is about the metrics asked for.
    """
    wanted = [
        kept
        for run in runs
        for kept in run.values
        if kept.value is not None and (not style.metrics or kept.metric in style.metrics)
    ]
    if not wanted:
        held = sorted({kept.metric for run in runs for kept in run.values})
        raise ScorecardError(
            f"No run of the history has a value of {', '.join(style.metrics) or 'anything'}; it "
            f"is about {', '.join(held) or 'nothing'}. Name one of these with --metric."
        )
    places = dict.fromkeys(_place(kept) for kept in wanted)
    return [_chart(runs, place) for place in places]


def name_runs(figure: "Figure", runs: Sequence[Run]) -> None:
    """Write under the axes which runs stand there: their commits, else their days."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    names = [in_letters(run.commit[:7] or run.date[:10]) for run in runs]

    def name(number: float, _place: object = None) -> str:
        index = round(number) - 1
        return names[index] if 0 <= index < len(names) else ""

    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(name)


Place = tuple[str, str]
"""Metric, and where: what one chart is about."""


def _place(kept: Kept) -> Place:
    return kept.metric, kept.where


def _chart(runs: Sequence[Run], place: Place) -> Chart:
    models = dict.fromkeys(
        kept.model for run in runs for kept in run.values if _place(kept) == place
    )
    lines = [Line(name=model, points=tuple(_points(runs, place, model))) for model in models]
    limits = [
        Point(x=number, value=kept.limit)
        for number, run in enumerate(runs, 1)
        for kept in run.values
        if _place(kept) == place and kept.limit is not None and kept.comparison in ("max", "min")
    ]
    unique = {point.x: point for point in limits}
    if unique:
        lines.append(Line(name=LIMIT, points=tuple(unique.values())))
    sides = {
        kept.comparison for run in runs for kept in run.values if _place(kept) == place
    } & BETTER.keys()
    arrow = BETTER[sides.pop()] if len(sides) == 1 else ""
    title = metric_title(place[0]) + arrow + (f", {place[1]}" if place[1] else "")
    return Chart(
        title=title, x="runs of the gate", lines=tuple(lines), band="95\N{NO-BREAK SPACE}% interval"
    )


def _points(runs: Sequence[Run], place: Place, model: str) -> Iterator[Point]:
    """Yield the values of a model; where a run judged one thing twice, the first."""
    for number, run in enumerate(runs, 1):
        for kept in run.values:
            if _place(kept) == place and kept.model == model and kept.value is not None:
                said = " ".join(filter(None, (run.commit[:10], run.date, kept.outcome)))
                yield Point(x=number, value=kept.value, low=kept.low, high=kept.high, said=said)
                break
