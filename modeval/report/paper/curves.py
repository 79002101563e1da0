"""How training went, by its validations: seeds as thin lines, their mean as a thick one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modeval.report.paper.charts import Chart, Line, Point
from modeval.report.paper.charts import draw as draw_charts
from modeval.report.paper.style import Style
from modeval.report.words import metric_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS = "validation_loss"
"""What is drawn unless something else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """How one number of a run moved from validation to validation.

    Attributes:
        name: of the model.
        task: models of the same task share a panel.
        steps: ``(T,)``.
        values: ``(S, T)`` for each seed; NaN where it was not finite.
        metric: what they are: the loss, or a score of routing.
    """

    name: str
    task: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    metric: str = LOSS


def charts(found: Sequence[Curves]) -> list[Chart]:
    """Return a chart for each number of each task, at the steps where it was measured."""
    return [
        Chart(
            title=task,
            x="steps",
            y="validation loss" if metric == LOSS else metric_title(metric),
            scale="loss" if metric == LOSS else "plain",
            lines=tuple(
                _line(each, name)
                for each, name in _named(
                    [each for each in found if (each.metric, each.task) == (metric, task)]
                )
            ),
        )
        for metric, task in dict.fromkeys((each.metric, each.task) for each in found)
    ]


def draw(found: Sequence[Curves], style: Style) -> "Figure":
    """Draw a panel for each number of each task."""
    made = charts(found)
    several_tasks = len({chart.title for chart in made}) > 1
    if len({chart.y for chart in made}) > 1:  # long names do not fit beside an axis
        named = [f"{chart.y}\n{chart.title}" if several_tasks else chart.y for chart in made]
        panels = zip(made, named, strict=True)
        return draw_charts([replace(chart, title=name, y="") for chart, name in panels], style)
    if not several_tasks:
        made = [replace(made[0], title="")]
    beside = [replace(chart, y="") for chart in made[1:]]
    return draw_charts([made[0], *beside], style, sharey=True)


def _named(found: Sequence[Curves]) -> list[tuple[Curves, str]]:
    """Return curves with names of their own: runs of one model and task are numbered."""
    names = [each.name for each in found]
    times: dict[str, int] = {}
    told = []
    for each in found:
        times[each.name] = times.get(each.name, 0) + 1
        number = f" · run {times[each.name]}" if names.count(each.name) > 1 else ""
        told.append((each, f"{each.name}{number}"))
    return told


def _line(curves: Curves, name: str) -> Line:
    """Return the mean over seeds that are finite, and the seeds, where there is a mean."""
    finite = np.isfinite(curves.values)
    counted = finite.sum(0)
    total = np.where(finite, curves.values, 0.0).sum(0)
    there = counted > 0
    means = (total[there] / counted[there]).tolist()
    steps = curves.steps[there].tolist()
    return Line(
        name=name,
        points=tuple(Point(x=x, value=mean) for x, mean in zip(steps, means, strict=True)),
        seeds=tuple(map(tuple, curves.values[:, there].tolist())) if len(curves.values) > 1 else (),
    )
