"""Models ranked by each score: seeds as dots, interval, chance; a colour for each model."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modeval.report import scorecard_views
from modeval.report.paper.style import (
    CHANCE_LINES,
    COLOURS,
    Style,
    chosen,
    legend,
    name_panel,
    panels,
    told_apart,
)
from modeval.report.scorecard_views import ModelView, TaskGroup
from modeval.report.tables import Table, scores_table
from modeval.score.scorecard import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USUAL = (
    "in_distribution_loss",
    "alignment_score",
    "inverse_mutual_information",
    "collapse_worst",
)
PANEL = 1.7
"""Inches that a panel needs beside the names of its models."""
LETTER = 0.055
"""Inches of a letter of a name."""


def draw(entries: Sequence[ModelView], style: Style) -> "Figure":
    """Draw a panel for each score and task, tasks side by side where the width allows."""
    metrics = chosen(entries, style, USUAL)
    groups = scorecard_views.groups(entries)
    names = told_apart(groups)
    order = list(dict.fromkeys(view.name for group in groups for view in group.entries))
    across = min(len(groups), max(1, int(style.width / (PANEL + LETTER * max(map(len, order))))))
    rows = [
        (metric, list(zip(groups, names, strict=True))[start : start + across])
        for metric in metrics
        for start in range(0, len(groups), across)
    ]
    most = max(len(group.entries) for group in groups)
    figure, made = panels(len(rows), across, style, 0.62 + 0.17 * most)
    handles: dict[str, Any] = {}
    for line, (metric, several) in zip(made, rows, strict=True):
        for panel in line[len(several) :]:
            panel.set_axis_off()
        for panel, (group, name) in zip(line, several, strict=False):
            _rank(panel, group, metric, order, handles)
            name_panel(panel, metric, entries, style.width / across)
            if len(groups) > 1:
                panel.set_title(f"{panel.get_title(loc='left')}\n{name}", loc="left")
    legend(figure, handles, style)
    return figure


def tables(entries: Sequence[ModelView], style: Style) -> list[Table]:
    """Return the scores of each task with their intervals and levels of chance."""
    metrics = chosen(entries, style, USUAL)
    return [
        scores_table(group.entries, group.title, metrics)
        for group in scorecard_views.groups(entries)
    ]


def _rank(
    panel: "Axes", group: TaskGroup, metric: str, order: Sequence[str], handles: dict[str, Any]
) -> None:
    """Draw the models of a group, the best on top."""
    found = [(view, scorecard_views.overall(view, metric)) for view in group.entries]
    scored = [(view, score) for view, score in found if score and score.value is not None]
    if not scored:
        panel.set_axis_off()
        return
    sign = -1 if scored[0][1].better == "higher" else 1
    scored.sort(key=lambda pair: (sign * (pair[1].value or 0.0), pair[0].name))
    _chance_marks(panel, [score for _, score in scored], handles)
    for index, (view, score) in enumerate(scored):
        _row(panel, view, score, index, COLOURS[order.index(view.name) % len(COLOURS)], handles)
    panel.set_yticks(range(len(scored)), [view.name for view, _ in scored])
    panel.set_ylim(len(scored) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    _few_ticks(panel)


def _few_ticks(panel: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    panel.xaxis.set_major_locator(MaxNLocator(4))


def _row(  # noqa: PLR0917 - where and what is drawn
    panel: "Axes", view: ModelView, score: Score, index: int, colour: str, handles: dict[str, Any]
) -> None:
    values = [value for _, value in scorecard_views.dots(view, score.metric)]
    what = "layer" if view.layered else "seed"
    if len(values) > 1:
        where = [index] * len(values)
        panel.plot(values, where, "o", color=colour, alpha=0.6, ms=3, mew=0)
        handles[f"one {what}"] = panel.plot([], [], "o", color="#777777", alpha=0.6, ms=3, mew=0)[0]
    if score.low is not None and score.high is not None:
        line = panel.hlines(index, score.low, score.high, color="k", lw=1.1)
        over = f" over {score.seeds} seeds" if score.seeds > 1 else ""
        handles[f"95 % interval{over}"] = line
    mean = panel.plot([score.value or math.nan], [index], "|", color="k", ms=7, mew=1.4)
    handles["mean"] = mean[0]


def _chance_marks(panel: "Axes", scores: Sequence[Score], handles: dict[str, Any]) -> None:
    for name, field, dashes in CHANCE_LINES:
        for index, score in enumerate(scores):
            level = getattr(score, field)
            if level is not None:
                handles[name] = panel.vlines(
                    level, index - 0.35, index + 0.35, color="#444444", lw=1, linestyles=dashes
                )
    for index, score in enumerate(scores):
        if score.null_low is not None and score.null_high is not None:
            handles["permuted labels (middle 95 %)"] = panel.fill_betweenx(
                [index - 0.3, index + 0.3], score.null_low, score.null_high, color="#CCCCCC", lw=0
            )
