"""Where the routing entropy goes, as stacked bars."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modeval.errors import ScorecardError
from modeval.report import routing_views, scorecard_views
from modeval.report.paper.style import Style, legend, panels, told_apart
from modeval.report.routing_views import BUDGET, UNDIVIDED
from modeval.report.scorecard_views import ModelView, TaskGroup
from modeval.report.tables import Cell, Table, filled, value, words
from modeval.report.words import MODULES, Vocabulary, vocabulary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TERM_COLOURS = {
    "imbalance": "#E69F00",
    "rule_specialization": "#0072B2",
    "input_distraction": "#CC79A7",
    "softness": "#D9D9D9",
    UNDIVIDED: "#D9D9D9",
}
TERM_TITLES = {
    "imbalance": "imbalance",
    "rule_specialization": "rule specialization",
    "input_distraction": "input distraction",
    "softness": "softness",
    UNDIVIDED: "distraction and softness",
}
FEW_BARS = 12
"""Bars up to which each has a name."""


def budget(entries: Sequence[ModelView], style: Style) -> "Figure":
    """Draw a bar for each model or layer."""
    stacks = _every_stack(entries)
    layered = {view.name for view in entries if view.layered}
    longest = max(len(rows) for _, rows in stacks)
    bar = 0.17 if longest <= FEW_BARS else 0.075
    figure, grid = panels(len(stacks), 1, style, 0.5 + bar * longest)
    handles: dict[str, Any] = {}
    spoken = {vocabulary(view.record) for view in entries}
    known = spoken.pop() if len(spoken) == 1 else MODULES
    for panel, (title, rows) in zip(grid.flat, stacks, strict=True):
        _stack(panel, rows, handles, known)
        if title in layered:
            panel.set_ylabel("layer")
        if len(stacks) > 1:
            panel.set_title(title, loc="left")
    grid[-1, 0].set_xlabel("share of the routing entropy, log M")
    legend(figure, handles, style)
    return figure


def tables(entries: Sequence[ModelView], _style: Style) -> list[Table]:
    """Return the shares of the routing entropy, a table for each panel."""
    return [
        filled(
            title,
            ("Model", *TERM_TITLES.values(), "log M"),
            [
                (
                    words(row.label),
                    *(_part(row, term) for term in TERM_TITLES),
                    value(row.total),
                )
                for row in rows
            ],
        )
        for title, rows in _every_stack(entries)
    ]


def _part(row: routing_views.Budget, term: str) -> Cell:
    return value(row.terms[term] / row.total if term in row.terms else None)


def _every_stack(entries: Sequence[ModelView]) -> list[tuple[str, list[routing_views.Budget]]]:
    groups = scorecard_views.groups(entries)
    stacks = [
        stack
        for group, title in zip(groups, told_apart(groups), strict=True)
        for stack in _stacks(group, title)
    ]
    if not stacks:
        raise ScorecardError(
            "The scorecards hold nothing that an entropy budget could be made of: it needs two "
            "modules or more."
        )
    return stacks


def _stacks(group: TaskGroup, title: str) -> Iterator[tuple[str, list[routing_views.Budget]]]:
    """Yield title and rows of each panel: models with one layer together, others on their own."""
    single = [
        row for view in group.entries if not view.layered for row in routing_views.budgets(view)
    ]
    if single:
        yield title, single
    for view in group.entries:
        rows = routing_views.budgets(view) if view.layered else []
        if rows:
            yield view.name, rows


def _stack(
    panel: "Axes",
    rows: Sequence[routing_views.Budget],
    handles: dict[str, Any],
    known: Vocabulary,
) -> None:
    start = np.zeros(len(rows))
    for term in (*BUDGET, UNDIVIDED):
        if not any(term in row.terms for row in rows):
            continue
        parts = np.array([row.terms.get(term, 0.0) / row.total for row in rows])
        handles[known.spoken(TERM_TITLES[term])] = panel.barh(
            range(len(rows)),
            parts,
            left=start,
            height=0.8,
            color=TERM_COLOURS[term],
            edgecolor="white",
            linewidth=0.3,
        )
        start = start + parts
    every = 1 if len(rows) <= FEW_BARS else math.ceil(len(rows) / 30) * 2
    panel.set_yticks(range(0, len(rows), every), [row.label for row in rows[::every]])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlim(0, 1)
    panel.tick_params(axis="y", length=0)
