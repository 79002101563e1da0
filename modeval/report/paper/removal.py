"""What can go: the loss while modules are removed, the least used first and at random."""

from collections.abc import Sequence

from modeval.errors import ScorecardError
from modeval.report.causes import Falling, falling
from modeval.report.paper.charts import Chart, Line, Point
from modeval.report.paper.style import Style, told_apart
from modeval.report.scorecard_views import ModelView, groups

BY_USE, RANDOM = "least used first", "random orders"


def charts(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return a chart for each model whose modules were switched off.

    Raises:
        ScorecardError: there is none.
    """
    found = [(view, falling(view, style.layer)) for view in in_order(entries)]
    of = titles(entries)
    made = [_chart(of[view.anchor], curves) for view, curves in found if curves is not None]
    if not made:
        where = "" if style.layer is None else f" of layer {style.layer}"
        raise ScorecardError(
            f"No modules{where} were switched off in these scorecards. Score again: modeval score "
            "RUN --interventions --json scorecard.json"
        )
    return made


def in_order(entries: Sequence[ModelView]) -> list[ModelView]:
    """Return models task by task, those of the paper in its order."""
    return [view for group in groups(entries) for view in group.entries]


def titles(entries: Sequence[ModelView]) -> dict[str, str]:
    """Return what to call each model, by its anchor: with its task where there are several."""
    found = groups(entries)
    if len(found) == 1:
        return {view.anchor: view.name for view in entries}
    return {
        view.anchor: f"{view.name}\n{task}"
        for group, task in zip(found, told_apart(found), strict=True)
        for view in group.entries
    }


def _chart(title: str, curves: Falling) -> Chart:
    by_use = zip(curves.share.tolist(), curves.by_use.tolist(), strict=True)
    columns = (curves.share, curves.random, curves.low, curves.high)
    random = zip(*(column.tolist() for column in columns), strict=True)
    return Chart(
        title=title,
        x="share removed",
        y="loss",
        band="middle 95\N{NO-BREAK SPACE}% of random orders",
        lines=(
            Line(name=BY_USE, points=tuple(Point(x=x, value=value) for x, value in by_use)),
            Line(
                name=RANDOM,
                points=tuple(
                    Point(x=x, value=value, low=min(low, value), high=max(high, value))
                    for x, value, low, high in random
                ),
            ),
        ),
    )
