"""Which rule goes to which module: maps in numbers of percent where there is room.

Where modules were switched off, what rules need of them stands beside what is sent to them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modeval.errors import ScorecardError
from modeval.report import causes, routing_views, scorecard_views
from modeval.report.paper.style import Style, figure_class, told_apart
from modeval.report.routing_views import Map
from modeval.report.scorecard_views import ModelView
from modeval.report.tables import Table, value, words
from modeval.report.words import number, vocabulary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 16
"""Rows from which not each has its name."""
BAR = 0.75
"""Inches of the scale of colours with its words."""
NARROW = 0.09
"""Inches of a column of a map, at least."""
LETTER = 0.055
"""Inches of a letter."""
CELL = 0.2
"""Inches of a cell from which it holds a number."""
TALL = 0.19
"""Inches of a row of a map, at most."""
NUMBERED = 0.13
"""Inches of a column from which each has the number of its module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Titled:
    """A map with its words.

    Attributes:
        title: the model or layer.
        found: the map.
        rules: names of its rows.
        module: what its columns are called.
    """

    title: str
    found: Map
    rules: tuple[str, ...]
    module: str


def draw(entries: Sequence[ModelView], style: Style) -> "Figure":
    """Draw the maps of models or of telling layers, those of one task in a row."""
    rows = _rows(entries, style)
    every = [each for _, row in rows for each in row]
    across = _across(every, style.width)
    rows = [
        (title, row[start : start + across])
        for title, row in rows
        for start in range(0, len(row), across)
    ]
    return _drawn(rows, every, style)


def tables(entries: Sequence[ModelView], style: Style) -> list[Table]:
    """Return the shares of each map: rules down, modules across as they are drawn."""
    return [
        Table(
            f"{title}: {each.title}",
            ("Rule", *(f"{each.module} {number}" for number in each.found.modules)),
            tuple(
                (words(rule), *(value(float(share)) for share in shares))
                for rule, shares in zip(each.rules, each.found.matrix, strict=True)
            ),
            sortable=False,
        )
        for title, row in _rows(entries, style)
        for each in row
    ]


def _rows(entries: Sequence[ModelView], style: Style) -> list[tuple[str, list[Titled]]]:
    groups = scorecard_views.groups(entries)
    deep = sum(view.layered for view in entries)
    rows = [
        (title, [each for view in group.entries for each in _maps_of(view, style, deep)])
        for group, title in zip(groups, told_apart(groups), strict=True)
    ]
    rows = [(title, found) for title, found in rows if found]
    if not rows:
        asked = "" if style.layer is None else f" of layer {style.layer}"
        raise ScorecardError(
            f"The scorecards hold no activation matrix{asked}: a single module has none, and a "
            "trace needs labels. Use modeval plot ranking."
        )
    return rows


def _across(every: Sequence[Titled], width: float) -> int:
    """Return how many maps fit side by side, with their titles and the names of their rows."""
    names = LETTER * max(len(rule) for each in every for rule in each.rules)
    title = LETTER * max(len(each.title) for each in every) if len(every) > 1 else 0.0
    widest = max(each.found.matrix.shape[1] for each in every)
    need = names + max(title, NARROW * widest, 0.5) + 0.1
    return max(1, int((width - BAR) / need))


def _drawn(
    rows: Sequence[tuple[str, Sequence[Titled]]], every: Sequence[Titled], style: Style
) -> "Figure":
    from matplotlib.colors import PowerNorm  # noqa: PLC0415 - an extra

    across = max(len(row) for _, row in rows)
    names = LETTER * max(len(rule) for each in every for rule in each.rules)
    room = (style.width - BAR - names * across) / across
    side = min(TALL, max(0.06, room / max(each.found.matrix.shape[1] for each in every)))
    tall = [max(side, 0.11) * max(len(each.rules) for each in row) for _, row in rows]
    figure = figure_class()(
        figsize=(style.width, sum(tall) + 0.55 * len(rows) + 0.25), layout="constrained"
    )
    grid = figure.subplots(len(rows), across, squeeze=False, height_ratios=tall)
    most, larger = routing_views.brightest(each.found.matrix for each in every)
    norm = PowerNorm(0.5, vmin=0.0, vmax=most)
    tasks = {title for title, _ in rows}
    image: Any = None
    for panels, (task, row) in zip(grid, rows, strict=True):
        for spare in panels[len(row) :]:
            spare.set_axis_off()
        for panel, each in zip(panels, row, strict=False):
            image = _map(panel, each, norm, room)
            panel.set_title(each.title if len(every) > 1 else "", loc="left")
        if len(tasks) > 1:
            panels[0].set_ylabel(task)
    _bar(figure, image, list(grid.flat), every, larger=larger)
    return figure


def _map(panel: "Axes", each: Titled, norm: Any, room: float) -> Any:
    matrix = each.found.matrix
    rules, modules = matrix.shape
    image = panel.imshow(matrix, norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")
    every = max(1, math.ceil(rules / WIDE)) if rules > WIDE else 1
    size = 5.0 if rules > 8 else 7.0  # noqa: PLR2004 - rows from which letters would touch
    panel.set_yticks(range(0, rules, every), each.rules[::every], fontsize=size)
    panel.tick_params(length=0, pad=1.5)
    panel.spines[:].set_visible(False)
    width = room / modules
    if each.found.averaged > 1:
        panel.set_xticks([])
        panel.set_xlabel(f"{each.module}s", fontsize=6)
    else:
        step = max(1, math.ceil(NUMBERED / width))
        numbers = [str(module) for module in each.found.modules[::step]]
        panel.set_xticks(range(0, modules, step), numbers, fontsize=5)
        panel.set_xlabel(each.module, fontsize=6)
    if width >= CELL:
        _numbers(panel, matrix, norm)
    return image


def _numbers(panel: "Axes", matrix: Any, norm: Any) -> None:
    """Write the percent of each cell, dark on bright and bright on dark."""
    for row, shares in enumerate(matrix):
        for column, share in enumerate(shares):
            bright = float(norm(share)) > 0.6  # noqa: PLR2004 - where black reads better
            colour = "black" if bright else "white"
            panel.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, size=5
            )


def _bar(
    figure: "Figure", image: Any, panels: list[Any], every: Sequence[Titled], *, larger: bool
) -> None:
    bar = figure.colorbar(
        image, ax=panels, extend="max" if larger else "neither", aspect=25, pad=0.015, fraction=0.05
    )
    most = image.norm.vmax
    bar.set_ticks([0.0, most / 4, most], labels=["0", f"{most / 4:.2g}", f"{most:.2g}"])
    sizes = {each.found.matrix.shape[1] for each in every}
    marked = ""
    if len(sizes) == 1:
        level = 1 / sizes.pop()
        bar.ax.axhline(level, color="w", lw=1.5)
        marked = f" (line: even, {number(level)})"
    words = f"share of a row{marked}"
    height = figure.get_figheight()
    bar.set_label(words if height > LETTER * len(words) + 0.4 else "share", fontsize=6)


def _maps_of(view: ModelView, style: Style, deep: int) -> list[Titled]:
    """Return the maps of a model that are to be drawn, one of so many with layers."""
    record = view.record
    if record.modules == 1:
        return []
    layers: list[tuple[str, int | None]] = [("", None)]
    if view.layered:
        if style.layer is not None and style.layer >= len(record.layers):
            raise ScorecardError(
                f"--layer {style.layer}: {view.name} has layers 0 to {len(record.layers) - 1}."
            )
        told, metric = scorecard_views.telling_layers(view)
        layers = [(f" ({word})" if metric else "", layer) for word, layer in told]
        if style.layer is not None:
            layers = [("", style.layer)]
    short, _ = scorecard_views.layer_names(record.layers)
    ahead = f"{view.name}, " if deep > 1 else ""
    made = []
    for word, layer in layers:
        matrices = routing_views.activations(view, layer)
        if matrices and len(matrices[0].matrix) > 1:  # one row is load
            shares = routing_views.mean_map(matrices)
            count = shares.matrix.shape[0]
            rules = record.rules if len(record.rules) == count else map(str, range(count))
            title = view.name if layer is None else f"{ahead}layer {short[layer]}{word}"
            use = Titled(
                title=title, found=shares, rules=tuple(rules), module=vocabulary(record).module
            )
            need = causes.needed_map(view, layer)
            made.append(use)
            if need is not None:
                made.append(replace(use, title=f"{title}, {causes.NEEDED}", found=need))
    return made
