"""Losses by phase of training and rule, for terminals."""

from rich.console import RenderableType
from rich.text import Text

from modeval.report.paper.course import mean_course
from modeval.report.routing_views import rule_names
from modeval.report.scorecard_views import ModelView
from modeval.report.terminal.grid import Column, Grid
from modeval.report.words import number
from modeval.score.scorecard import PhaseLosses

MOST_RULES = 16
"""Rules up to which a table has a column for each."""


def course_table(view: ModelView) -> list[RenderableType]:
    """Return the loss on each rule after each phase; nothing for a model of one phase."""
    course = mean_course(view)
    if course is None or len(course.matrix[0]) > MOST_RULES:
        return []
    names = rule_names(view.record, len(course.matrix[0]))
    phases = tuple(Text(f"{name}{_drawn(course, row)}") for row, name in enumerate(course.phases))
    columns = [Column(f"{view.name}: loss", phases, right=False)]
    for rule, name in enumerate(names):
        cells = tuple(_cell(course, row, rule) for row in range(len(course.phases)))
        columns.append(Column(name, cells))
    return [
        Text(""),
        Grid(tuple(columns)),
        Text("in bold: rules that the phase draws", style="dim"),
    ]


def _drawn(course: PhaseLosses, row: int) -> str:
    if row == 0 or len(course.drawn[row - 1]) in (0, len(course.matrix[0])):
        return ""
    return f" (rule {', '.join(map(str, course.drawn[row - 1]))})"


def _cell(course: PhaseLosses, row: int, rule: int) -> Text:
    value = course.matrix[row][rule]
    text = "failed" if value is None else number(value)
    return Text(text, style="bold" if row and rule in course.drawn[row - 1] else "")
