"""Figures for papers: vector graphics at the width of a column, the same bytes each time.

Each kind takes models of scorecards (or training curves) and returns a Matplotlib figure, which a
notebook shows. Colours are those of Okabe and Ito, which differ without colour vision too; markers
and dashes differ with them. Nothing is written into a figure that a caption says better.

The module of a kind is loaded when one is drawn: one is wanted at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modeval.errors import ScorecardError, SpecError
from modeval.report.paper import charts, curves
from modeval.report.paper.curves import Curves
from modeval.report.paper.style import COLOURS, FORMATS, WIDTHS, Style, face, in_letters, save
from modeval.report.scorecard_views import ModelView
from modeval.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modeval.report.verdicts.history import Run

__all__ = [
    "COLOURS",
    "CURVES",
    "FORMATS",
    "KINDS",
    "TREND",
    "WIDTHS",
    "Curves",
    "Kind",
    "Style",
    "curve_numbers",
    "draw",
    "draw_curves",
    "draw_trend",
    "numbers",
    "save",
    "trend_numbers",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of figure.

    Attributes:
        summary: one line for the help.
        home: module of :mod:`modeval.report.paper` that makes it.
        name: of the function there: it returns a figure, or charts.
        tables: of the function that returns its numbers; none where ``name`` returns charts, from
            which both figure and numbers are made.
    """

    summary: str
    home: str
    name: str
    tables: str | None = None

    def draw(self, entries: Sequence[ModelView], style: Style) -> "Figure":
        """Return the figure."""
        made = self._call(self.name, entries, style)
        figure: Figure = made if self.tables is not None else charts.draw(made, style)
        return figure

    def numbers(self, entries: Sequence[ModelView], style: Style) -> list[Table]:
        """Return the numbers that it shows."""
        if self.tables is None:
            return charts.tables(self._call(self.name, entries, style))
        found: list[Table] = self._call(self.tables, entries, style)
        return found

    def _call(self, name: str, entries: Sequence[ModelView], style: Style) -> Any:
        home = import_module(f"modeval.report.paper.{self.home}")
        return getattr(home, name)(entries, style)


def draw(kind: str, entries: Sequence[ModelView], style: Style) -> "Figure":
    """Return a figure of models.

    Raises:
        SpecError: there is no such kind.
        ScorecardError: the scorecards do not hold what it shows.
        DependencyError: Matplotlib is not installed.
    """
    _check(kind)
    with face():
        return _titled(KINDS[kind].draw([_written(view) for view in entries], style), style)


def numbers(kind: str, entries: Sequence[ModelView], style: Style) -> list[Table]:
    """Return what a figure of models shows as tables, for CSV, LaTeX, Markdown or JSON.

    Raises:
        SpecError: there is no such kind.
        ScorecardError: the scorecards do not hold what it shows.
    """
    _check(kind)
    return KINDS[kind].numbers(entries, style)


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise SpecError(
            f"There is no figure {kind!r}: expected one of {', '.join(sorted([*KINDS, 'curves']))}."
        )


def draw_curves(found: Sequence[Curves], style: Style) -> "Figure":
    """Return training curves: seeds as thin lines, their mean as a thick one.

    Raises:
        ScorecardError: no run has a validation to show.
        DependencyError: Matplotlib is not installed.
    """
    shown = _drawable(found)
    with face():
        return _titled(curves.draw(shown, style), style)


def curve_numbers(found: Sequence[Curves]) -> list[Table]:
    """Return what a figure of training curves shows as tables: means, then seed by seed.

    Raises:
        ScorecardError: no run has a validation to show.
    """
    return charts.tables(curves.charts(_drawable(found)))


def draw_trend(runs: "Sequence[Run]", style: Style) -> "Figure":
    """Return how values moved over runs of the gate, with what was asked of them.

    Raises:
        ScorecardError: the history holds nothing to draw.
        DependencyError: Matplotlib is not installed.
    """
    from modeval.report.paper import trend  # noqa: PLC0415 - as the other kinds

    with face():
        figure = charts.draw(trend.charts(runs, style), style)
        trend.name_runs(figure, runs)
        return _titled(figure, style)


def trend_numbers(runs: "Sequence[Run]", style: Style) -> list[Table]:
    """Return the same as tables.

    Raises:
        ScorecardError: the history holds nothing to draw.
    """
    from modeval.report.paper import trend  # noqa: PLC0415 - as the other kinds

    return charts.tables(trend.charts(runs, style))


def _drawable(found: Sequence[Curves]) -> list[Curves]:
    """Return the curves that have points; refuse them when none is a curve."""
    shown = [each for each in found if each.steps.size]
    if not shown:
        raise ScorecardError(
            "None of the runs has been validated yet, so there is no curve. Train on, or use "
            "shorter --validate-every."
        )
    if all(each.steps.size == 1 for each in shown):
        raise ScorecardError(
            "Each run has been validated once, at its end, and a point is no curve. Train with a "
            f"shorter --validate-every, as {max(int(shown[0].steps[0]) // 20, 1)}."
        )
    return shown


def _titled(figure: "Figure", style: Style) -> "Figure":
    if style.title:
        figure.set_figheight(figure.get_figheight() + 0.25)
        figure.suptitle(style.title.replace("$", r"\$"))
    return figure


def _written(view: ModelView) -> ModelView:
    """Return a model with names as they can be written into a figure."""
    record = view.record
    return replace(
        view,
        name=in_letters(view.name),
        record=replace(
            record,
            rules=tuple(map(in_letters, record.rules)),
            layers=tuple(name.replace("$", r"\$") for name in record.layers),
        ),
    )


KINDS = {
    "ranking": Kind(
        "models ranked by each score, seeds as dots, interval, chance", "ranking", "draw", "tables"
    ),
    "winners": Kind(
        "how often each model has the lowest loss, with Wilson's intervals", "winners", "charts"
    ),
    "losses": Kind(
        "loss in and out of distribution against the number of rules", "rules", "losses"
    ),
    "collapse": Kind(
        "collapse against the number of rules, a line for each model", "rules", "collapse"
    ),
    "specialisation": Kind(
        "alignment, information and adaptation against the number of rules",
        "rules",
        "specialisation",
    ),
    "adaptation": Kind(
        "how well routing follows other shares of rules, against their number",
        "rules",
        "adaptation",
    ),
    "end-to-end": Kind(
        "what training gains over uniform routing, against the number of rules",
        "rules",
        "end_to_end",
    ),
    "heatmap": Kind("which rule goes to which module", "heatmaps", "draw", "tables"),
    "removal": Kind(
        "loss while modules are removed, the least used first or at random", "removal", "charts"
    ),
    "course": Kind("loss on each rule after each phase of training", "course", "charts"),
    "layers": Kind(
        "scores by layer, with the band of permuted labels", "layers", "layers", "tables"
    ),
    "budget": Kind("where the routing entropy goes, as stacked bars", "budget", "budget", "tables"),
}
"""Figures of scorecards; curves, of run folders, are :func:`draw_curves`."""
CURVES = "validation loss, or a score of routing, against steps, seeds as thin lines"
"""The line of the help for curves."""
TREND = "values over runs of the gate, from its --history"
"""The line of the help for trends."""
