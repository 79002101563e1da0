"""Losses by phase of training and rule, for terminals."""

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from modeval.report.routing_views import rule_names
from modeval.report.scorecard_views import ModelView, mean_course
from modeval.report.terminal.grid import Column, Grid, Prose
from modeval.report.words import number
from modeval.score.comparison.courses import CourseChange
from modeval.score.scorecard import PhaseLosses

if TYPE_CHECKING:
    from modeval.score.comparison.compare import Lineage

MOST_RULES = 16
"""Rules up to which a table has a column for each."""


def course_table(view: ModelView) -> list[RenderableType]:
    """Return the loss on each rule after each phase; nothing for a model of one phase."""
    course = mean_course(view)
    if course is None or len(course.matrix[0]) > MOST_RULES:
        return []
    names = rule_names(view.record, len(course.matrix[0]))
    phases = _phases(course, len(names))
    columns = [Column(f"{view.name}: loss", phases, right=False)]
    for rule, name in enumerate(names):
        cells = tuple(_cell(course, row, rule) for row in range(len(course.phases)))
        columns.append(Column(name, cells))
    return [
        Text(""),
        Grid(tuple(columns)),
        Text("in bold: rules that the phase draws", style="dim"),
    ]


def course_grid(lineage: "Lineage", course: CourseChange) -> list[RenderableType]:
    """Return what another training changed in the loss on each rule after each phase."""
    if len(course.change[0]) > MOST_RULES:
        return []
    names = rule_names(lineage.columns[0].model, len(course.change[0]))
    first, later = lineage.columns[0].label, lineage.columns[course.column].label
    columns = [Column("loss by phase", _phases(course, len(names)), right=False)]
    for rule, name in enumerate(names):
        cells = tuple(_changed(course, row, rule) for row in range(len(course.phases)))
        columns.append(Column(name, cells))
    return [
        Grid(tuple(columns)),
        Prose(f"{later} less {first}, means over seeds; in bold: rules that the phase draws"),
        Text(""),
    ]


def _changed(course: CourseChange, row: int, rule: int) -> Text:
    value = course.change[row][rule]
    text = "-" if value is None else number(value) if value <= 0 else f"+{number(value)}"
    return Text(text, style="bold" if row and rule in course.drawn[row - 1] else "")


def _phases(course: PhaseLosses | CourseChange, rules: int) -> tuple[Text, ...]:
    return tuple(
        Text(f"{name}{_drawn(course, rules, row)}") for row, name in enumerate(course.phases)
    )


def _drawn(course: PhaseLosses | CourseChange, rules: int, row: int) -> str:
    if row == 0 or len(course.drawn[row - 1]) in (0, rules):
        return ""
    return f" (rule {', '.join(map(str, course.drawn[row - 1]))})"


def _cell(course: PhaseLosses, row: int, rule: int) -> Text:
    value = course.matrix[row][rule]
    text = "failed" if value is None else number(value)
    return Text(text, style="bold" if row and rule in course.drawn[row - 1] else "")
