"""What can go: the loss while modules are removed, the least used first and at random."""

from collections.abc import Sequence
from dataclasses import replace

from modeval.errors import ScorecardError
from modeval.report.causes import Falling, falling
from modeval.report.paper.charts import Chart, Line, Point
from modeval.report.paper.style import Style
from modeval.report.scorecard_views import ModelView

BY_USE, RANDOM = "least used first", "random orders"


def charts(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return a chart for each model whose modules were switched off.

    Raises:
        ScorecardError: there is none.
    """
    found = [(view, falling(view, style.layer)) for view in entries]
    made = [_chart(view, curves) for view, curves in found if curves is not None]
    if not made:
        where = "" if style.layer is None else f" of layer {style.layer}"
        raise ScorecardError(
            f"No modules{where} were switched off in these scorecards. Score again: modeval score "
            "RUN --interventions --json scorecard.json"
        )
    return [made[0], *(replace(chart, y="") for chart in made[1:])]


def _chart(view: ModelView, curves: Falling) -> Chart:
    by_use = zip(curves.share.tolist(), curves.by_use.tolist(), strict=True)
    columns = (curves.share, curves.random, curves.low, curves.high)
    random = zip(*(column.tolist() for column in columns), strict=True)
    return Chart(
        title=view.name,
        x="share removed",
        y="loss",
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
