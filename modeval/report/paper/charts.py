"""What a figure shows, as data: charts of lines or bars, from which every format is made.

A figure of a sweep is a list of :class:`Chart`. Matplotlib draws it (:func:`draw`), and
:func:`tables` writes the same numbers as tables for CSV, LaTeX, Markdown and JSON, so that a
picture and its table cannot differ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from modeval.report.paper.style import (
    Style,
    columns,
    grid,
    in_letters,
    legend,
    line_style,
    plain_ticks,
    wrapped,
)
from modeval.report.tables import Cell, Table, value, words
from modeval.report.words import number, span
from modeval.titles import MODEL_TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCES: dict[str, Any] = {
    "uniform routing": (0, (4, 2)),
    "hashed routing": (0, (1, 1.5)),
    "an even share": (0, (4, 2)),
    "limit": (0, (3, 1, 1, 1)),
}
"""Lines that are no model's, and their dashes."""
LABEL = 0.2
"""Inches that the name of a vertical axis takes from the title."""
FEW_SEEDS = 8
"""Seeds up to which each has a line of its own."""
FEW_POINTS = 12
"""Points of a line up to which each is marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One number of a figure.

    Attributes:
        x: where it stands; of a bar its place.
        value: the number.
        low: lower end of its interval, where it has one.
        high: upper end.
        said: what it is made of, as ``12 of 25``.
    """

    x: float
    value: float
    low: float | None = None
    high: float | None = None
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The numbers of one model, or of a reference.

    Attributes:
        name: of the model; one of :data:`REFERENCES` is drawn in black, without marks.
        points: in order.
        of: what the points are means of (``6 seeds``), for the key; empty when it varies.
        seeds: lines of its single seeds, values at the same places; drawn thin.
    """

    name: str
    points: tuple[Point, ...]
    of: str = ""
    seeds: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One part of a figure.

    Attributes:
        title: what it shows.
        x: name of the horizontal axis.
        y: name of the vertical axis; empty where the title says it.
        form: lines against numbers, or a bar for each line.
        lines: the models.
        scale: of the axes: ``rules`` doubles to the right, ``loss`` is logarithmic
            upwards, ``both`` are both.
        band: what the ends of its points are, for the key; empty where lines say it (``of``).
    """

    title: str
    x: str
    lines: tuple[Line, ...]
    y: str = ""
    form: Literal["lines", "bars"] = "lines"
    scale: Literal["plain", "rules", "loss", "both"] = "plain"
    band: str = ""


def by_paper(names: Sequence[str]) -> list[str]:
    """Return names once each: the paper's models in its order, then others by letters.

    >>> by_paper(["Other", "GT-Modular", "Modular", "Other"])
    ['Modular', 'GT-Modular', 'Other']
    """
    titles = list(MODEL_TITLES.values())
    return sorted(set(names), key=lambda name: (_place(titles, name), name))


def _place(titles: Sequence[str], name: str) -> int:
    base = name.split(" · ", maxsplit=1)[0]
    return titles.index(base) if base in titles else len(titles)


# --- as tables -----------------------------------------------------------------------------------


def tables(charts: Sequence[Chart]) -> list[Table]:
    """Return the numbers of each chart as a table: a row for each place, or for each bar."""
    found = []
    for chart in charts:
        found.append(_bars_table(chart) if chart.form == "bars" else _lines_table(chart))
        if any(len(line.seeds) > 1 for line in chart.lines):
            found.append(_seeds_table(chart))
    return found


def _lines_table(chart: Chart) -> Table:
    places = sorted({point.x for line in chart.lines for point in line.points})
    names = [line.name for line in chart.lines]
    found = {(line.name, point.x): point for line in chart.lines for point in line.points}
    rows = [
        (value(place, f"{place:g}"), *(_cell(found.get((name, place))) for name in names))
        for place in places
    ]
    return Table(_caption(chart), (chart.x, *names), tuple(rows))


def _seeds_table(chart: Chart) -> Table:
    columns = [
        (f"{line.name}, seed {number}", {p.x: v for p, v in zip(line.points, seed, strict=True)})
        for line in chart.lines
        for number, seed in enumerate(line.seeds, 1)
    ]
    places = sorted({point.x for line in chart.lines for point in line.points})
    rows = [
        (value(place, f"{place:g}"), *(_finite(found.get(place)) for _, found in columns))
        for place in places
    ]
    names = (chart.x, *(name for name, _ in columns))
    return Table(f"{_caption(chart)}, seed by seed", names, tuple(rows))


def _finite(found: float | None) -> Cell:
    return value(found if found is not None and math.isfinite(found) else None)


def _bars_table(chart: Chart) -> Table:
    rows = [
        (words(line.name), _cell(line.points[0]), words(line.points[0].said))
        for line in chart.lines
        if line.name not in REFERENCES
    ]
    return Table(_caption(chart), (chart.x, chart.y, "Won"), tuple(rows))


def _caption(chart: Chart) -> str:
    said = chart.title.replace("\N{NO-BREAK SPACE}", " ").replace("\n", ", ")
    return f"{said}: {chart.y}" if chart.y and chart.form == "lines" else said


def _cell(point: Point | None) -> Cell:
    if point is None:
        return Cell("")
    ends = None if point.low is None or point.high is None else (point.low, point.high)
    text = number(point.value) + (f" {span(*ends)}" if ends else "")
    return Cell(text, float(point.value), ends)


# --- as a figure ---------------------------------------------------------------------------------


def draw(charts: Sequence[Chart], style: Style, **options: Any) -> "Figure":
    """Draw charts, as many side by side as the width allows, with one key for all.

    Args:
        charts: what to draw.
        style: its width.
        options: of Matplotlib's subplots, as ``sharey``.
    """
    charts = [_written(chart) for chart in charts]
    bars = any(chart.form == "bars" for chart in charts)
    figure, places, spare = grid(len(charts), style, 1.6 if bars else 1.75, **options)
    names = by_paper([line.name for chart in charts for line in chart.lines])
    models = [name for name in names if name not in REFERENCES]
    width = style.width / min(len(charts), columns(style))
    lines: dict[str, Any] = {}
    bands: dict[str, Any] = {}
    one_scale = len({chart.y for chart in charts}) == 1
    for place, (axes, chart) in enumerate(zip(places, charts, strict=True)):
        keys = (lines, bands)
        (_draw_bars if chart.form == "bars" else _draw_lines)(axes, chart, models, keys)
        axes.set_title(wrapped(chart.title, width - (LABEL if chart.y else 0.0)), loc="left")
        if one_scale and place % columns(style):
            axes.set_ylabel("")  # its row names the axis at its start
    order = [name for name in names if name in lines]
    legend(figure, {name: lines[name] for name in order} | bands, style, spare)
    return figure


def _written(chart: Chart) -> Chart:
    """Return a chart with names as they can be written into a figure."""
    lines = tuple(replace(line, name=in_letters(line.name)) for line in chart.lines)
    return replace(chart, title=chart.title.replace("$", r"\$"), lines=lines)


Keys = tuple[dict[str, Any], dict[str, Any]]
"""What the key shows: lines by name, and bands by what they are."""


def _draw_lines(axes: "Axes", chart: Chart, models: Sequence[str], keys: Keys) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    handles, bands = keys
    logarithmic = chart.scale in ("loss", "both") and _all_positive(chart)
    floor = _limits(chart)[0] if logarithmic else -math.inf
    for line in chart.lines:
        if line.name in REFERENCES:
            xs, ys = _places(line)
            look = {"color": "k", "lw": 0.9, "linestyle": REFERENCES[line.name]}
            # above the models: a model may lie exactly on a level of chance
            handles[line.name] = axes.plot(xs, ys, zorder=3.5, **look)[0]
        else:
            _draw_line(axes, line, _look(line.name, models), keys, floor)
    if chart.scale in ("rules", "both"):
        places = sorted({point.x for line in chart.lines for point in line.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(*_limits(chart))
        plain_ticks(axes, "y")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(chart.x)
    if chart.y:
        axes.set_ylabel(chart.y)
    if chart.band and any(p.low is not None for line in chart.lines for p in line.points):
        bands[chart.band] = axes.fill_between([], [], color="#BBBBBB", lw=0)
    if any(line.of for line in chart.lines):
        several = {line.of for line in chart.lines if line.of}
        over = several.pop() if len(several) == 1 else "seeds"
        bands[f"95 % interval over {over}"] = axes.fill_between([], [], color="#BBBBBB", lw=0)


def _draw_line(axes: "Axes", line: Line, look: dict[str, Any], keys: Keys, floor: float) -> None:
    """Draw a model; a band that reaches below the axis ends at its floor: a logarithm has no 0."""
    xs, ys = _places(line)
    if len(line.seeds) > FEW_SEEDS:
        seeds = [sorted(filter(math.isfinite, at)) for at in zip(*line.seeds, strict=True)]
        low, high = ([_quantile(at, share) for at in seeds] for share in (0.25, 0.75))
        band = axes.fill_between(xs, low, high, color=look["color"], alpha=0.2, lw=0)
        keys[1]["middle half of the seeds (line: their mean)"] = band
    elif len(line.seeds) > 1:
        for seed in line.seeds:
            thin = axes.plot(xs, seed, color=look["color"], alpha=0.3, lw=0.6)
        keys[1]["one seed (thick: their mean)"] = thin[0]
    if len(xs) > FEW_POINTS:
        look = look | {"marker": None}
    keys[0][line.name] = axes.plot(xs, ys, zorder=3, **look)[0]
    banded = [(p.x, p.low, p.high) for p in line.points if p.low is not None]
    if banded:
        places, lows, highs = zip(*banded, strict=True)
        shown = [max(low, floor) for low in lows]
        axes.fill_between(places, shown, highs, color=look["color"], alpha=0.2, lw=0)


def _quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, between its neighbours.

    >>> _quantile([1.0, 2.0, 3.0], 0.25)
    1.5
    """
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def _places(line: Line) -> tuple[list[float], list[float]]:
    return [point.x for point in line.points], [point.value for point in line.points]


def _all_positive(chart: Chart) -> bool:
    """Tell whether a logarithm shows all of a chart; an end of an interval below 0 is cut off."""
    values = [point.value for line in chart.lines for point in line.points]
    values += [number for line in chart.lines for seed in line.seeds for number in seed]
    return all(number > 0 for number in values if math.isfinite(number))


def _limits(chart: Chart) -> tuple[float, float]:
    """Return the ends of a logarithmic axis: an interval that reaches to 0 leaves it below."""
    values = [point.value for line in chart.lines for point in line.points]
    values += [
        number
        for line in chart.lines
        for seed in (line.seeds if len(line.seeds) <= FEW_SEEDS else ())
        for number in seed
        if number > 0
    ]
    highs = [point.high for line in chart.lines for point in line.points if point.high is not None]
    lows = [point.low or 0.0 for line in chart.lines for point in line.points]
    return max(min(values) / 2, min(*lows, *values) / 1.2), max(*values, *highs, 0.0) * 1.2


def _look(name: str, models: Sequence[str]) -> dict[str, Any]:
    """Return the look of a model: the paper's have theirs in all figures, others what is left."""
    titles = list(MODEL_TITLES.values())
    others = [other for other in models if other not in titles]
    taken = len(titles) if len(others) < len(models) else 0
    place = titles.index(name) if name in titles else taken + others.index(name)
    return line_style(place)


def _draw_bars(axes: "Axes", chart: Chart, models: Sequence[str], keys: Keys) -> None:
    handles, bands = keys
    bars = [line for line in chart.lines if line.name not in REFERENCES]
    for place, line in enumerate(bars):
        [point] = line.points
        look = _look(line.name, models)
        handles[line.name] = axes.bar(place, point.value, 0.75, color=look["color"], alpha=0.85)
        if point.low is not None and point.high is not None:
            bands["95 % interval (Wilson)"] = axes.vlines(
                place, point.low, point.high, color="k", lw=1.1
            )
        top = point.value if point.high is None else max(point.high, point.value)
        axes.annotate(
            point.said.replace(" of ", "/"),  # short enough to stand side by side
            (place, top),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
        )
    for line in chart.lines:
        if line.name in REFERENCES:
            level = line.points[0].value
            dashes = REFERENCES[line.name]
            handles[line.name] = axes.axhline(level, color="k", lw=0.9, linestyle=dashes)
    axes.set_xlim(-0.6, len(bars) - 0.4)
    axes.set_ylim(0, 1.12)
    axes.set_xticks([])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "½", "", "1"])
    if chart.y:
        axes.set_ylabel(chart.y)
