"""Figures for papers: vector graphics at the width of a column, the same bytes each time.

Each kind takes models of scorecards (or training curves) and returns a Matplotlib figure, which a
notebook shows. Colours are those of Okabe and Ito, which differ without colour vision too; markers
and dashes differ with them. Nothing is written into a figure that a caption says better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modeval.errors import ScorecardError, SpecError
from modeval.report.paper import budget, curves, heatmaps, layers, ranking, rules
from modeval.report.paper.curves import Curves
from modeval.report.paper.style import COLOURS, FORMATS, WIDTHS, Style, face, save
from modeval.report.scorecard_views import ModelView
from modeval.report.svg import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "CURVES",
    "FORMATS",
    "KINDS",
    "WIDTHS",
    "Curves",
    "Kind",
    "Style",
    "draw",
    "draw_curves",
    "save",
]

NAME = 28
"""Letters of a name; the middle of longer ones is left out."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of figure.

    Attributes:
        summary: one line for the help.
        draw: makes it.
    """

    summary: str
    draw: Callable[[Sequence[ModelView], Style], "Figure"]


def draw(kind: str, entries: Sequence[ModelView], style: Style) -> "Figure":
    """Return a figure of models.

    Raises:
        SpecError: there is no such kind.
        ScorecardError: the scorecards do not hold what it shows.
        DependencyError: Matplotlib is not installed.
    """
    if kind not in KINDS:
        raise SpecError(
            f"There is no figure {kind!r}: expected one of {', '.join(sorted([*KINDS, 'curves']))}."
        )
    with face():
        return _titled(KINDS[kind].draw([_written(view) for view in entries], style), style)


def draw_curves(found: Sequence[Curves], style: Style) -> "Figure":
    """Return training curves: seeds as thin lines, their mean as a thick one.

    Raises:
        ScorecardError: no run has a validation to show.
        DependencyError: Matplotlib is not installed.
    """
    shown = [
        replace(each, name=_letters(each.name), task=_letters(each.task))
        for each in found
        if each.steps.size
    ]
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
    with face():
        return _titled(curves.draw(shown, style), style)


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
        name=_letters(view.name),
        record=replace(
            record,
            rules=tuple(map(_letters, record.rules)),
            layers=tuple(name.replace("$", r"\$") for name in record.layers),
        ),
    )


def _letters(name: str) -> str:
    """Return a name short enough, and without the signs that Matplotlib takes for formulas."""
    return shorten(name, NAME).replace("$", r"\$")


KINDS = {
    "ranking": Kind("models ranked by each score, seeds as dots, interval, chance", ranking.draw),
    "collapse": Kind("collapse against the number of rules, a line for each model", rules.collapse),
    "specialisation": Kind(
        "alignment, information and adaptation against the number of rules", rules.specialisation
    ),
    "heatmap": Kind("which rule goes to which module", heatmaps.draw),
    "layers": Kind("scores by layer, with the band of permuted labels", layers.layers),
    "budget": Kind("where the routing entropy goes, as stacked bars", budget.budget),
}
"""Figures of scorecards; curves, of run folders, are :func:`draw_curves`."""
CURVES = "validation loss against steps, seeds as thin lines"
"""The line of the help for curves."""
