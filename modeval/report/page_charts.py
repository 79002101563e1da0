"""The pictures of the HTML report: each takes numbers and returns inline SVG.

Pictures are 340 units wide where they can be, so that they fit a phone as they are and stand side
by side on a wide screen; the ones that cannot (a matrix with 256 columns) scroll in their own box.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeval.report import svg
from modeval.report.routing_views import BUDGET, UNDIVIDED, Budget, Floats, Map
from modeval.report.scorecard_views import Entry as Model
from modeval.report.scorecard_views import dots, overall
from modeval.report.words import beside_chance, interval, metric_title, number
from modeval.score.scorecard import Score

WIDTH = 340.0
MANY_LAYERS = 24
RULE_LETTERS = 20
MANY_CELLS = 400
SMALL_CELL, LARGE_CELL = 3.0, 28.0
OUTLINED_CELL = 6.0
"""Cells that an outline does not cover."""
NUMBERED_CELL = 18.0
"""Cells with room for three digits."""
TERM_TITLES = {
    "imbalance": "Imbalance",
    "rule_specialization": "Rule specialization",
    "input_distraction": "Input distraction",
    "softness": "Softness",
    UNDIVIDED: "Input distraction and softness",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """From numbers to places on a picture.

    Attributes:
        low: number at ``start``.
        high: number at ``end``.
        start: place.
        end: place.
        ticks: numbers that are written at the axis.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def scale(values: Sequence[float], start: float, end: float, *, bins: int = 4) -> Scale:
    """Return a scale with round ticks that holds all values."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - for reports only

    low, high = min(values), max(values)
    if high - low < 1e-9:  # noqa: PLR2004 - equal but for rounding: give the axis some room
        low, high = low - 0.5 * abs(low) - 0.05, high + 0.5 * abs(high) + 0.05
        low = max(low, 0.0) if min(values) >= 0 else low
    ticks = MaxNLocator(nbins=bins, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return Scale(float(ticks[0]), float(ticks[-1]), start, end, tuple(float(t) for t in ticks))


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many digits as the ticks need.

    >>> [tick_text(tick, (-0.05, 0.0, 0.05)) for tick in (-0.05, 0.0, 0.05)]
    ['-0.05', '0.00', '0.05']
    >>> [tick_text(tick, (0, 6e-5, 12e-5)) for tick in (0, 6e-5, 12e-5)]
    ['0', '6e-5', '1.2e-4']
    """
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0)
    digits = max(0, math.ceil(-math.log10(step) - 1e-9)) if step > 0 else 0
    digits += round(step * 10**digits, 6) % 1 > 0
    if digits > 4 and abs(value) < 0.01:  # noqa: PLR2004 - zeros that nobody counts
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if value else "0"
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: there is no negative zero


# --- seeds as dots -------------------------------------------------------------------------------


def strip_chart(models: Sequence[Model], metric: str, name: str) -> str:
    """Draw a row for each model: seeds (or layers) as dots, mean, interval, and chance levels."""
    scored = [(model, overall(model, metric)) for model in models]
    rows = [(model, score) for model, score in scored if score and score.value is not None]
    row_height, top, bottom = 50.0, 0.0, 20.0
    height = top + row_height * len(rows) + bottom
    words = "; ".join(f"{model.name} {interval(score)}" for model, score in rows)
    chart = svg.picture(WIDTH, height, metric_title(metric), f"{words}.", name)
    values = [v for _, score in rows for v in _levels(score)]
    values += [value for model, _ in rows for _, value in dots(model, metric)]
    axis = scale(values, 8, WIDTH - 8, bins=5)
    base = top + row_height * len(rows)
    longest = max(len(tick_text(tick, axis.ticks)) for tick in axis.ticks)
    every = math.ceil((len(axis.ticks) - 1) * (svg.CHARACTER * longest + 4) / (WIDTH - 16))
    for tick in axis.ticks[::every]:
        anchor = {axis.ticks[0]: "start", axis.ticks[-1]: "end"}.get(tick, "middle")
        x = axis(tick) + {"start": -6, "end": 6, "middle": 0}[anchor]
        text = tick_text(tick, axis.ticks)
        svg.label(chart, x, base + 12, text, style="tick", anchor=anchor)
    for place, (model, score) in enumerate(rows):
        _strip_row(chart, axis, model, score, top + row_height * place)
    return svg.text_of(chart)


def _levels(score: Score) -> list[float]:
    levels = (
        score.value,
        score.low,
        score.high,
        score.chance,
        score.chance_hash,
        score.null_low,
        score.null_high,
    )
    return [level for level in levels if level is not None]


def _strip_row(chart: svg.Element, axis: Scale, model: Model, score: Score, top: float) -> None:
    value_text = interval(score)
    room = WIDTH - 16 - svg.CHARACTER * len(value_text) - 10
    middle = top + 33
    for tick in axis.ticks:
        _upright(chart, "grid", axis(tick), middle)
    own = svg.label(chart, 8, top + 17, svg.shorten(model.name, svg.fits(room)))
    svg.add(own, "title", f"{model.name}: {value_text}; {beside_chance(score)}".rstrip("; "))
    svg.label(chart, WIDTH - 8, top + 17, value_text, style="label number", anchor="end")
    if score.null_low is not None and score.null_high is not None:
        left, right = axis(score.null_low), axis(score.null_high)
        svg.add(
            chart,
            "rect",
            style="null",
            x=left,
            y=middle - 10,
            width=max(right - left, 1.5),
            height=20,
        )
    if score.chance is not None:
        _upright(chart, "chance", axis(score.chance), middle)
    if score.chance_hash is not None:
        _upright(chart, "chance hashed", axis(score.chance_hash), middle)
    for who, value in dots(model, score.metric):
        tip = f"{who}: {number(value)}"
        svg.add(chart, "circle", style="seed", cx=axis(value), cy=middle, r=3.5, tip=tip)
    if score.low is not None and score.high is not None:
        left, right = axis(score.low), axis(score.high)
        svg.add(chart, "line", style="interval", x1=left, x2=right, y1=middle, y2=middle)
    x = axis(score.value or 0.0)
    svg.add(chart, "line", style="mean", x1=x, x2=x, y1=middle - 7, y2=middle + 7)


def _upright(chart: svg.Element, style: str, x: float, middle: float) -> None:
    svg.add(chart, "line", style=style, x1=x, x2=x, y1=middle - 10, y2=middle + 10)


# --- layers --------------------------------------------------------------------------------------


def layer_chart(scores: Sequence[Score], labels: Sequence[str], metric: str, name: str) -> str:
    """Draw a metric over the layers, with its interval, chance and the band of permuted labels."""
    width, height, left, right, top, bottom = WIDTH, 196.0, 44.0, 8.0, 10.0, 36.0
    known = [score for score in scores if score.value is not None]
    values = [score.value or 0.0 for score in known]
    lowest, highest = (known[values.index(end)] for end in (min(values), max(values)))
    said = (
        f"{len(known)} layers, from {number(lowest.value)} in layer "
        f"{labels[lowest.layer or 0]} to {number(highest.value)} in layer "
        f"{labels[highest.layer or 0]}; {_chance_words(known)}."
    )
    chart = svg.picture(width, height, f"{metric_title(metric)} by layer", said, name)
    axis = scale([v for score in known for v in _shown_levels(score)], height - bottom, top)
    step = (width - left - right) / max(len(labels), 1)
    xs = [left + step * ((score.layer or 0) + 0.5) for score in known]
    for tick in axis.ticks:
        y = axis(tick)
        svg.add(chart, "line", style="grid", x1=left, x2=width - right, y1=y, y2=y)
        text = tick_text(tick, axis.ticks)
        svg.label(chart, left - 6, y + 4, text, style="tick", anchor="end")
    _layer_ticks(chart, labels, left, step, height - bottom)
    _areas(chart, known, xs, axis, step)
    svg.add(chart, "polyline", style="line", points=svg.points(xs, [axis(v) for v in values]))
    radius = 2.0 if len(labels) > MANY_LAYERS else 3.0
    for x, score in zip(xs, known, strict=True):
        tip = f"{labels[score.layer or 0]}: {interval(score)}; {beside_chance(score)}".rstrip("; ")
        svg.add(chart, "circle", style="dot", cx=x, cy=axis(score.value or 0), r=radius, tip=tip)
    return svg.text_of(chart)


def _shown_levels(score: Score) -> list[float]:
    """Return what a layer chart shows; hashed routing is left out, it would flatten the rest."""
    levels = (score.value, score.low, score.high, score.chance, score.null_low, score.null_high)
    return [level for level in levels if level is not None]


def _chance_words(scores: Sequence[Score]) -> str:
    lows = [score.null_low for score in scores if score.null_low is not None]
    highs = [score.null_high for score in scores if score.null_high is not None]
    if lows and highs:
        return f"permuted labels give {number(min(lows))} to {number(max(highs))}"
    levels = [score.chance for score in scores if score.chance is not None]
    return f"uniform routing gives {number(levels[0])}" if levels else "no chance level is known"


def _layer_ticks(
    chart: svg.Element, labels: Sequence[str], left: float, step: float, base: float
) -> None:
    """Write as many names of layers as fit side by side."""
    longest = min(max(map(len, labels)), 10)
    every = max(1, math.ceil((svg.CHARACTER * longest + 8) / step))
    for place in range(0, len(labels), every):
        words = svg.shorten(labels[place], 10)
        svg.label(chart, left + step * (place + 0.5), base + 16, words, "tick", "middle")
    middle = left + step * len(labels) / 2
    svg.label(chart, middle, base + 32, "layer", style="tick", anchor="middle")


def _areas(
    chart: svg.Element, scores: Sequence[Score], xs: Sequence[float], axis: Scale, step: float
) -> None:
    """Draw bands behind the curve: permuted labels, interval, and the line of uniform routing."""
    for style, low, high in (("null", "null_low", "null_high"), ("band", "low", "high")):
        kept = [
            (x, getattr(score, low), getattr(score, high))
            for x, score in zip(xs, scores, strict=True)
            if getattr(score, low) is not None and getattr(score, high) is not None
        ]
        if len(kept) < 2:  # noqa: PLR2004 - one layer is no band
            continue
        there = [x for x, _, _ in kept]
        edges = [axis(high) for _, _, high in kept] + [axis(low) for _, low, _ in kept[::-1]]
        svg.add(chart, "polygon", style=style, points=svg.points(there + there[::-1], edges))
    chances = [(x, s.chance) for x, s in zip(xs, scores, strict=True) if s.chance is not None]
    if chances:
        there = [chances[0][0] - step / 2, *(x for x, _ in chances), chances[-1][0] + step / 2]
        levels = [chances[0][1], *(level for _, level in chances), chances[-1][1]]
        ys = [axis(level) for level in levels]
        svg.add(chart, "polyline", style="chance", points=svg.points(there, ys))


# --- matrices ------------------------------------------------------------------------------------


def colours() -> NDArray[np.uint8]:
    """Return the 256 colours of viridis, which also reads well without colour vision."""
    from matplotlib import colormaps  # noqa: PLC0415 - for reports only

    return (np.asarray(colormaps["viridis"](np.arange(256)))[:, :3] * 255).round().astype(np.uint8)


def paint(matrix: Floats, most: float) -> NDArray[np.uint8]:
    """Return the colours of shares from 0 to ``most``, on the scale of square roots."""
    level = np.sqrt(np.clip(matrix / most, 0.0, 1.0))
    return colours()[(level * 255).round().astype(np.int64)]


def heat_map(found: Map, rules: Sequence[str], most: float, title: str, name: str) -> str:
    """Draw a row for each rule and a column for each module, matched pairs outlined."""
    count, modules = found.matrix.shape
    cell = min(LARGE_CELL, max(SMALL_CELL, math.floor(640 / modules)))
    tall = min(LARGE_CELL, max(cell, 14.0))
    longest = max(min(max(map(len, rules)), RULE_LETTERS), len("module"))
    left, top = svg.CHARACTER * longest + 12, 4.0
    width, height = (
        left + cell * modules + 4,
        top + tall * count + (6 if found.averaged > 1 else 20),
    )
    paired = [found.matrix[r, c] for r, c in enumerate(found.matched) if c >= 0]
    said = (
        f"{count} rules by {modules} modules. The share of a rule that its matched module gets is "
        f"{number(float(np.mean(paired)) if paired else 0.0)} on average; uniform routing gives "
        f"{number(1 / modules)}."
    )
    chart = svg.picture(width, height, title, said, name)
    box = (left, top, cell, tall)
    _cells(chart, found.matrix, most, box)
    for row, rule in enumerate(rules):
        y = top + tall * (row + 0.5) + 4
        own = svg.label(chart, left - 6, y, svg.shorten(rule, RULE_LETTERS), anchor="end")
        if len(rule) > RULE_LETTERS:
            svg.add(own, "title", rule)
    if cell >= OUTLINED_CELL:
        for row, column in enumerate(found.matched):
            if column >= 0:
                _outline(chart, left + cell * column, top + tall * row, cell, tall)
    _column_names(chart, found, box)
    return svg.text_of(chart)


def _outline(chart: svg.Element, x: float, y: float, width: float, height: float) -> None:
    for style, inset in (("pair under", 0.75), ("pair", 0.75)):
        svg.add(
            chart,
            "rect",
            style=style,
            x=x + inset,
            y=y + inset,
            width=width - 2 * inset,
            height=height - 2 * inset,
        )


def _cells(
    chart: svg.Element, matrix: Floats, most: float, box: tuple[float, float, float, float]
) -> None:
    """Draw cells one by one with their numbers where they are few, else as one image."""
    left, top, cell, tall = box
    rows, columns = matrix.shape
    painted = paint(matrix, most)
    if rows * columns > MANY_CELLS:
        svg.add(
            chart,
            "image",
            style="pixels",
            x=left,
            y=top,
            width=cell * columns,
            height=tall * rows,
            preserveAspectRatio="none",
            href=svg.png(painted),
        )
        return
    for row, column in itertools.product(range(rows), range(columns)):
        x, y = left + cell * column, top + tall * row
        red, green, blue = (int(part) for part in painted[row, column])
        fill = f"#{red:02x}{green:02x}{blue:02x}"
        share = float(matrix[row, column])
        tip = f"{share:.3f}"
        own = svg.add(chart, "rect", style="cell", x=x, y=y, fill=fill, tip=tip)
        own.set("width", svg.place(cell))
        own.set("height", svg.place(tall))
        if cell >= 24 and tall >= 18:  # noqa: PLR2004 - room for three characters
            style = "in-dark" if _luminance(red, green, blue) < 0.179 else "in-light"  # noqa: PLR2004
            text = f"{share:.2f}".replace("0.", ".", 1) if share < 0.995 else "1"  # noqa: PLR2004
            svg.label(chart, x + cell / 2, y + tall / 2 + 4, text, style=style, anchor="middle")


def _luminance(red: int, green: int, blue: int) -> float:
    """Return the relative luminance of WCAG; below .179 white reads better than black."""
    parts = [value / 255 for value in (red, green, blue)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4  # noqa: PLR2004 - sRGB
        for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _column_names(chart: svg.Element, found: Map, box: tuple[float, float, float, float]) -> None:
    """Write the numbers of the modules under their columns, where there is room."""
    left, top, cell, tall = box
    rows, columns = found.matrix.shape
    base = top + tall * rows
    if found.averaged > 1:
        return
    if cell < NUMBERED_CELL:
        words = f"{columns} modules"
        svg.label(chart, left + cell * columns / 2, base + 14, words, "tick", "middle")
        return
    svg.label(chart, left - 6, base + 14, "module", "tick", "end")
    for column, module in enumerate(found.modules):
        x = left + cell * (column + 0.5)
        svg.label(chart, x, base + 14, str(module), style="tick", anchor="middle")


def colour_key(
    most: float,
    modules: int | None,
    name: str,
    what: str = "share of a rule",
    *,
    clipped: bool = False,
) -> str:
    """Draw the scale of colours.

    Args:
        most: share of the last colour.
        modules: number of modules, to mark the level of uniform routing; nothing to mark none.
        name: unique in the page.
        what: what colours tell.
        clipped: whether there are larger shares, in the last colour as well.
    """
    width, height, side = WIDTH, 44.0, 8.0
    level = 1 / modules if modules else None
    said = f"From 0 to {number(most)}, by square roots." + (
        f" Uniform routing is {number(level)}." if level else ""
    )
    chart = svg.picture(width, height, f"Colours: {what}", said, name)
    span = width - 2 * side
    ramp = paint((np.linspace(0.0, 1.0, 128) ** 2)[None, :] * most, most)
    svg.add(
        chart,
        "image",
        style="pixels",
        x=side,
        y=4,
        width=span,
        height=12,
        preserveAspectRatio="none",
        href=svg.png(ramp),
    )
    svg.label(chart, side, 34, "0", "tick")
    last = f"{most:.3g} or more" if clipped else f"{most:.3g}"
    svg.label(chart, width - side, 34, last, "tick", "end")
    if level is None:
        svg.label(chart, width / 2, 34, what, "tick", "middle")
        return svg.text_of(chart)
    x = side + span * math.sqrt(min(level / most, 1.0))
    svg.add(chart, "line", style="mark", x1=x, x2=x, y1=1, y2=20)
    words = f"{what}, uniform {level:.2g}"
    half = svg.CHARACTER * len(words) / 2
    room = svg.CHARACTER * len(last) + 6
    centre = min(max(x, side + half + 14), width - side - half - room)
    svg.label(chart, centre, 34, words, "tick", "middle")
    return svg.text_of(chart)


def together_map(matrix: Floats, modules: Sequence[int], most: float, title: str, name: str) -> str:
    """Draw which modules are chosen together, a row and a column for each."""
    count = len(modules)
    cell = min(LARGE_CELL, max(8.0, math.floor(300 / count)))
    left, top = 34.0, 4.0
    size = cell * count
    first, second = divmod(int(matrix.argmax()), count)
    said = (
        f"{count} modules. Most often together: of the choices of module {modules[first]}, a share "
        f"of {number(float(matrix.max()))} chose module {modules[second]} too."
    )
    chart = svg.picture(max(left + size + 4, 120), top + size + 34, title, said, name)
    _cells(chart, matrix, most, (left, top, cell, cell))
    every = max(1, math.ceil(20 / cell))
    for place in range(0, count, every):
        middle = cell * (place + 0.5)
        svg.label(chart, left - 5, top + middle + 4, str(modules[place]), "tick", "end")
        svg.label(chart, left + middle, top + size + 14, str(modules[place]), "tick", "middle")
    svg.label(chart, left + size / 2, top + size + 29, "module", style="tick", anchor="middle")
    return svg.text_of(chart)


# --- load ----------------------------------------------------------------------------------------


def load_chart(shares: Floats, title: str, name: str) -> str:
    """Draw the share of each module in units of uniform load, the busiest first.

    Modules of different seeds have nothing to do with each other, so each seed is sorted first;
    bars are means over seeds, dots the seeds.
    """
    seeds, modules = shares.shape
    ranked = -np.sort(-shares * modules, axis=1)
    mean = ranked.mean(0)
    idle = int((ranked < 0.1).sum(1).max())  # noqa: PLR2004 - the bound of dead_fraction
    said = (
        f"{modules} modules, the busiest with {mean[0]:.2f} and the least used with "
        f"{mean[-1]:.2f} times the uniform share; {idle} below a tenth of it"
        + (f" in the worst of {seeds} seeds." if seeds > 1 else ".")
    )
    width, height, left, right, top, bottom = WIDTH, 170.0, 40.0, 8.0, 8.0, 34.0
    chart = svg.picture(width, height, title, said, name)
    axis = scale([0.0, 1.0, float(ranked.max())], height - bottom, top)
    for tick in axis.ticks:
        y = axis(tick)
        svg.add(chart, "line", style="grid", x1=left, x2=width - right, y1=y, y2=y)
        svg.label(chart, left - 6, y + 4, tick_text(tick, axis.ticks), "tick", "end")
    step = (width - left - right) / modules
    gap = 1.0 if step > 4 else 0.0  # noqa: PLR2004 - narrower bars need their width
    for place, value in enumerate(mean.tolist() if gap else ()):
        y = axis(value)
        svg.add(
            chart,
            "rect",
            style="bar",
            x=left + step * place + gap / 2,
            y=y,
            width=step - gap,
            height=max(axis.start - y, 0.0),
        )
    if not gap:  # one area is smaller than hundreds of bars
        xs = [left + step * place for place in range(modules + 1)]
        ys = [axis(value) for value in mean.tolist()]
        outline = svg.points(
            [left, *np.repeat(xs, 2)[1:-1].tolist(), xs[-1]],
            [axis.start, *np.repeat(ys, 2).tolist(), axis.start],
        )
        svg.add(chart, "polygon", style="bar", points=outline)
    if seeds > 1 and seeds * modules <= MANY_CELLS:
        for row in ranked.tolist():
            for place, value in enumerate(row):
                x = left + step * (place + 0.5)
                svg.add(chart, "circle", style="seed", cx=x, cy=axis(value), r=2.5)
    uniform = axis(1.0)
    svg.add(chart, "line", style="halo", x1=left, x2=width - right, y1=uniform, y2=uniform)
    svg.add(chart, "line", style="chance", x1=left, x2=width - right, y1=uniform, y2=uniform)
    words = f"{modules} modules, the busiest first"
    svg.label(chart, (left + width - right) / 2, height - 14, words, "tick", "middle")
    return svg.text_of(chart)


def load_map(shares: Sequence[Floats], labels: Sequence[str], name: str) -> str:
    """Draw a row for each layer: its modules from the busiest to the least used."""
    most_modules = max(len(each) for each in shares)
    cell = min(LARGE_CELL, max(SMALL_CELL, math.floor(480 / most_modules)))
    tall = 10.0 if len(labels) > MANY_LAYERS else 14.0
    left, top = svg.CHARACTER * min(max(map(len, labels)), 10) + 12, 4.0
    loads = np.zeros((len(shares), most_modules))
    for row, each in enumerate(shares):
        ranked = -np.sort(-each) * len(each)
        places = (np.arange(most_modules) * len(each)) // most_modules
        loads[row] = ranked[places]
    most = float(loads.max())
    said = (
        f"{len(shares)} layers. The busiest module of a layer has {loads[:, 0].min():.2f} to "
        f"{most:.2f} times the uniform share, the least used {loads[:, -1].min():.2f} to "
        f"{loads[:, -1].max():.2f}."
    )
    width, height = left + cell * most_modules + 4, top + tall * len(shares) + 34
    chart = svg.picture(max(width, 200), height, "Load of all layers", said, name)
    svg.add(
        chart,
        "image",
        style="pixels",
        x=left,
        y=top,
        width=cell * most_modules,
        height=tall * len(shares),
        preserveAspectRatio="none",
        href=svg.png(paint(loads, most)),
    )
    every = max(1, math.ceil(12 / tall))
    for row in range(0, len(labels), every):
        words = svg.shorten(labels[row], 10)
        svg.label(chart, left - 6, top + tall * (row + 0.5) + 4, words, "tick", "end")
    words = f"0 to {most:.2f} times uniform, dark to light"
    svg.label(chart, left, top + tall * len(shares) + 16, words, "tick")
    return svg.text_of(chart)


# --- entropy budget ------------------------------------------------------------------------------


def budget_chart(rows: Sequence[Budget], title: str, name: str) -> str:
    """Draw the entropy budget of each row as shares of log M, stacked in the order of the sum."""
    longest = min(max(len(row.label) for row in rows), 18)
    dense = len(rows) > MANY_LAYERS
    tall, gap = (9.0, 3.0) if dense else (18.0, 8.0)
    left, right, top = svg.CHARACTER * longest + 14, 10.0, 4.0
    height = top + (tall + gap) * len(rows) + 24
    said = "; ".join(_budget_words(row) for row in (rows if len(rows) <= 8 else rows[:1]))  # noqa: PLR2004
    chart = svg.picture(WIDTH, height, title, f"Shares of log M. {said}.", name)
    span = WIDTH - left - right
    for place, row in enumerate(rows):
        y = top + (tall + gap) * place
        if not dense or place % 2 == 0:
            words = svg.shorten(row.label, 18)
            svg.label(chart, left - 6, y + tall / 2 + 4, words, anchor="end")
        _budget_bar(chart, row, (left, y, span, tall))
    base = top + (tall + gap) * len(rows)
    for share in (0, 0.25, 0.5, 0.75, 1):
        text = f"{share:.0%}".replace("%", " %")
        svg.label(
            chart, left + span * share, base + 14, text, "tick", "end" if share == 1 else "middle"
        )
    return svg.text_of(chart)


def _budget_words(row: Budget) -> str:
    parts = ", ".join(
        f"{TERM_TITLES[term].lower()} {value / row.total:.0%}" for term, value in row.terms.items()
    )
    return f"{row.label}: {parts}"


def _budget_bar(chart: svg.Element, row: Budget, box: tuple[float, float, float, float]) -> None:
    left, y, span, tall = box
    x = left
    for term in (*BUDGET, UNDIVIDED):
        value = row.terms.get(term, 0.0)
        width = span * value / row.total
        if width > 0.2:  # noqa: PLR2004 - less is not seen
            tip = f"{row.label}: {TERM_TITLES[term].lower()} {number(value)} nats, "
            tip += f"{value / row.total:.1%} of log M"
            style = f"term {term.replace('_', '-')}"
            svg.add(chart, "rect", style=style, x=x, y=y, width=width, height=tall, tip=tip)
        x += width
