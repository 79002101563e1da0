"""Losses by phase of training and rule in the page: lines, and the same as numbers."""

from collections.abc import Sequence

from modeval.report import svg, tables
from modeval.report.page.charts import SERIES, WIDTH, scale, tick_text
from modeval.report.page.panels import Figure, Numbers, Panel
from modeval.report.routing_views import rule_names
from modeval.report.scorecard_views import ModelView, TaskGroup, mean_course
from modeval.report.words import number
from modeval.score.scorecard import PhaseLosses

Spot = tuple[float, float, float]
"""Place across, place down, and the loss that is told there."""


def courses(group: TaskGroup, numbers: Numbers) -> list[Panel]:
    """Return how the losses of each rule went, of models that were trained in several phases."""
    found = [(view, course) for view in group.entries if (course := mean_course(view)) is not None]
    figures = tuple(
        Figure(
            title=view.name,
            picture=course_chart(course, _names(view, course), view.name, numbers()),
            remark="mean over seeds" if len(view.record.members) > 1 else "",
            table=tables.course_table(view, course),
        )
        for view, course in found
    )
    return [Panel(title=group.title, figures=figures)] if figures else []


def _names(view: ModelView, course: PhaseLosses) -> list[str]:
    return rule_names(view.record, len(course.matrix[0]))


def course_chart(course: PhaseLosses, rules: Sequence[str], title: str, name: str) -> str:
    """Draw the loss on each rule after each phase.

    Args:
        course: of a model.
        rules: their names.
        title: of the model.
        name: unique in the page.
    """
    height, left, right, top, bottom = 210.0, 44.0, 92.0, 10.0, 36.0
    known = [value for row in course.matrix for value in row if value is not None]
    said = "; ".join(
        f"{rule} " + ", ".join(_told(row[place]) for row in course.matrix)
        for place, rule in enumerate(rules)
    )
    words = f"At the start and after each of {len(course.drawn)} phases: {said}."
    chart = svg.picture(WIDTH, height, f"Loss by phase: {title}", words, name)
    axis = scale([0.0, *known], height - bottom, top)
    for tick in axis.ticks:
        y = axis(tick)
        svg.add(chart, "line", style="grid", x1=left, x2=WIDTH - right, y1=y, y2=y)
        svg.label(chart, left - 6, y + 4, tick_text(tick, axis.ticks), style="tick", anchor="end")
    step = (WIDTH - left - right) / (len(course.phases) - 1)
    every = 1 + len(course.phases) // 12
    for phase in range(0, len(course.phases), every):
        text = str(phase) if phase else "start"
        svg.label(chart, left + step * phase, height - bottom + 16, text, "tick", "middle")
    middle = (left + WIDTH - right) / 2
    svg.label(chart, middle, height - bottom + 32, "phases done", style="tick", anchor="middle")
    ends = []
    for place, rule in enumerate(rules):
        line = [
            (left + step * phase, axis(value), value)
            for phase, row in enumerate(course.matrix)
            if (value := row[place]) is not None
        ]
        _line(chart, line, place, rule)
        ends += [(line[-1][1], place)] if line else []
    _line_ends(chart, ends, rules)
    return svg.text_of(chart)


def _told(value: float | None) -> str:
    return "failed" if value is None else number(value)


def _line(chart: svg.Element, line: Sequence[Spot], place: int, rule: str) -> None:
    look = f"series-{place % SERIES}"
    xs, ys = [x for x, _, _ in line], [y for _, y, _ in line]
    svg.add(chart, "polyline", style=f"course {look}", points=svg.points(xs, ys))
    for x, y, value in line:
        tip = f"{rule}: {number(value)}"
        svg.add(chart, "circle", style=f"point {look}", cx=x, cy=y, r=3, tip=tip)


def _line_ends(chart: svg.Element, ends: Sequence[tuple[float, int]], rules: Sequence[str]) -> None:
    """Write each name beside the end of its line, apart from the others, while there is room."""
    lowest = 0.0
    for y, place in sorted(ends):
        lowest = max(y + 4, lowest + 14)
        if lowest > 206:  # noqa: PLR2004 - the edge of the picture
            return
        words = svg.shorten(rules[place], 13)
        svg.label(chart, WIDTH - 84, lowest, words, style=f"label series-{place % SERIES}")
