"""What was learned and lost while rules came one after another: the loss on each rule by phase."""

from collections.abc import Sequence

from modeval.errors import ScorecardError
from modeval.report import routing_views
from modeval.report.paper.charts import Chart, Line, Point
from modeval.report.paper.removal import in_order, titles
from modeval.report.paper.style import Style
from modeval.report.scorecard_views import ModelView, mean_course
from modeval.score.scorecard import PhaseLosses


def charts(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return a chart for each model that was trained in several phases, a line for each rule.

    Raises:
        ScorecardError: there is none.
    """
    del style
    of = titles(entries)
    made = [
        _chart(view, of[view.anchor], course)
        for view in in_order(entries)
        if (course := mean_course(view)) is not None
    ]
    if not made:
        raise ScorecardError(
            "No model of these scorecards was trained in several phases. Train one: modeval train "
            "--regime sequential --out runs/sequential"
        )
    return made


def _chart(view: ModelView, title: str, course: PhaseLosses) -> Chart:
    names = routing_views.rule_names(view.record, len(course.matrix[0]))
    return Chart(
        title=title,
        x="phases done",
        y="loss",
        lines=tuple(
            Line(
                name=name,
                points=tuple(
                    Point(x=phase, value=value)
                    for phase, row in enumerate(course.matrix)
                    if (value := row[rule]) is not None
                ),
            )
            for rule, name in enumerate(names)
        ),
    )
