"""The pictures of the HTML report: each takes numbers and returns inline SVG.

Pictures are 340 units wide where they can be, so that they fit a phone as they are and stand side
by side on a wide screen; the ones that cannot (a matrix with 256 columns) scroll in their own box.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modeval.report import svg
from modeval.report.routing_views import BUDGET, UNDIVIDED, Budget, Floats
from modeval.report.scorecard_views import ModelView as Model
from modeval.report.scorecard_views import dots, overall
from modeval.report.words import (
    beside_chance,
    chance_name,
    interval,
    metric_title,
    number,
    title_for,
)
from modeval.score.scorecard import Score

WIDTH = 340.0
MANY_LAYERS = 24
MANY_CELLS = 400
"""Seeds by modules up to which each has a dot."""
SERIES = 6
"""Lines that differ in their colours."""
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
    low, high = min(values), max(values)
    if high - low < 1e-9:  # noqa: PLR2004 - equal but for rounding: give the axis some room
        low, high = low - 0.5 * abs(low) - 0.05, high + 0.5 * abs(high) + 0.05
        low = max(low, 0.0) if min(values) >= 0 else low
    ticks = round_ticks(low, high, bins)
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def round_ticks(low: float, high: float, bins: int) -> tuple[float, ...]:
    """Return round numbers from at or below ``low`` to at or above ``high``.

    >>> round_ticks(0.03, 0.41, 4), round_ticks(0.0, 1.0, 4)
    ((0.0, 0.2, 0.4, 0.6), (0.0, 0.25, 0.5, 0.75, 1.0))
    """
    digit = 10.0 ** math.floor(math.log10((high - low) / bins))
    for step in (digit * size for size in (1, 2, 2.5, 5, 10, 20)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= bins:
            break
    return tuple(round(index * step, 12) for index in range(first, max(last, first + 1) + 1))


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
    chart = svg.picture(WIDTH, height, title_for(models[0].record, metric), f"{words}.", name)
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
    for index, (model, score) in enumerate(rows):
        _strip_row(chart, axis, model, score, top + row_height * index)
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
    named = chance_name(scores[0].metric) if scores else ""
    return f"{named} gives {number(levels[0])}" if levels else "no chance level is known"


def _layer_ticks(
    chart: svg.Element, labels: Sequence[str], left: float, step: float, base: float
) -> None:
    """Write as many names of layers as fit side by side."""
    longest = min(max(map(len, labels)), 10)
    every = max(1, math.ceil((svg.CHARACTER * longest + 8) / step))
    for index in range(0, len(labels), every):
        words = svg.shorten(labels[index], 10)
        svg.label(chart, left + step * (index + 0.5), base + 16, words, "tick", "middle")
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


# --- load ----------------------------------------------------------------------------------------


def load_chart(shares: Floats, title: str, name: str, module: str = "module") -> str:
    """Draw the share of each module in units of uniform load.

    Of one seed each module stands in the order of its number; modules of different seeds have
    nothing to do with each other, so each seed is sorted first: bars are means, dots the seeds.
    """
    seeds, modules = shares.shape
    loads = shares * modules if seeds == 1 else -np.sort(-shares * modules, axis=1)
    mean = loads.mean(0)
    idle = int((loads < 0.1).sum(1).max())  # noqa: PLR2004 - the bound of dead_fraction
    said = (
        f"{modules} {module}s, the busiest with {mean.max():.2f} and the least used with "
        f"{mean.min():.2f} times the uniform share; {idle} below a tenth of it"
        + (f" in the worst of {seeds} seeds." if seeds > 1 else ".")
    )
    width, height, left, right, top, bottom = WIDTH, 170.0, 40.0, 8.0, 8.0, 34.0
    chart = svg.picture(width, height, title, said, name)
    axis = scale([0.0, 1.0, float(loads.max())], height - bottom, top)
    for tick in axis.ticks:
        y = axis(tick)
        svg.add(chart, "line", style="grid", x1=left, x2=width - right, y1=y, y2=y)
        svg.label(chart, left - 6, y + 4, tick_text(tick, axis.ticks), "tick", "end")
    step = (width - left - right) / modules
    _bars(chart, mean, axis, left, step)
    if seeds > 1 and seeds * modules <= MANY_CELLS:
        for row in loads.tolist():
            for index, value in enumerate(row):
                x = left + step * (index + 0.5)
                svg.add(chart, "circle", style="seed", cx=x, cy=axis(value), r=2.5)
    uniform = axis(1.0)
    svg.add(chart, "line", style="chance", x1=left, x2=width - right, y1=uniform, y2=uniform)
    words = f"{modules} {module}s, the busiest first" if seeds > 1 else f"{module} number"
    if seeds == 1:
        _bar_numbers(chart, modules, left, step, height - bottom)
    svg.label(chart, (left + width - right) / 2, height - 4, words, "tick", "middle")
    return svg.text_of(chart)


def _bars(chart: svg.Element, values: Floats, axis: Scale, left: float, step: float) -> None:
    gap = 1.0 if step > 4 else 0.0  # noqa: PLR2004 - narrower bars need their width
    if gap:
        for index, value in enumerate(values.tolist()):
            y = axis(value)
            x, height = left + step * index + gap / 2, max(axis.start - y, 0.0)
            svg.add(chart, "rect", style="bar", x=x, y=y, width=step - gap, height=height)
        return
    xs = [left + step * index for index in range(len(values) + 1)]
    ys = [axis(value) for value in values.tolist()]
    outline = svg.points(  # one area is smaller than hundreds of bars
        [left, *np.repeat(xs, 2)[1:-1].tolist(), xs[-1]],
        [axis.start, *np.repeat(ys, 2).tolist(), axis.start],
    )
    svg.add(chart, "polygon", style="bar", points=outline)


def _bar_numbers(chart: svg.Element, modules: int, left: float, step: float, base: float) -> None:
    """Write as many numbers of modules as fit side by side."""
    every = max(1, math.ceil((svg.CHARACTER * len(str(modules)) + 4) / step))
    for index in range(0, modules, every):
        svg.label(chart, left + step * (index + 0.5), base + 13, str(index), "tick", "middle")


# --- against the number of rules -----------------------------------------------------------------


def rules_chart(
    lines: dict[str, list[tuple[int, Score]]], metric: str, order: Sequence[str], name: str
) -> str:
    """Draw a score of each model against the number of rules, names at the ends of the lines.

    Args:
        lines: scores by number of rules, of each model.
        metric: what is drawn.
        order: names of all models, so that each has its colour in all pictures.
        name: unique in the page.
    """
    width, height, left, right, top, bottom = WIDTH, 210.0, 44.0, 92.0, 10.0, 36.0
    counts = sorted({count for line in lines.values() for count, _ in line})
    said = "; ".join(
        f"{model} " + ", ".join(f"{number(score.value)} at {count}" for count, score in line)
        for model, line in lines.items()
    )
    chart = svg.picture(width, height, f"{metric_title(metric)} by number of rules", said, name)
    values = [v for line in lines.values() for _, score in line for v in _shown_levels(score)]
    axis = scale(values, height - bottom, top)
    for tick in axis.ticks:
        y = axis(tick)
        svg.add(chart, "line", style="grid", x1=left, x2=width - right, y1=y, y2=y)
        svg.label(chart, left - 6, y + 4, tick_text(tick, axis.ticks), style="tick", anchor="end")
    span = (width - left - right) / max(len(counts) - 1, 1)
    places = {count: left + span * index for index, count in enumerate(counts)}
    for count, x in places.items():
        svg.label(chart, x, height - bottom + 16, str(count), "tick", "middle")
    middle = (left + width - right) / 2
    svg.label(chart, middle, height - bottom + 32, "rules", style="tick", anchor="middle")
    for model, line in lines.items():
        spots = [(places[count], score) for count, score in line]
        _rule_line(chart, axis, spots, order.index(model))
    _line_names(chart, axis, {order.index(model): line for model, line in lines.items()}, order)
    return svg.text_of(chart)


def _rule_line(
    chart: svg.Element, axis: Scale, line: Sequence[tuple[float, Score]], index: int
) -> None:
    look = f"series-{index % SERIES}"
    xs = [x for x, _ in line]
    ys = [axis(score.value or 0.0) for _, score in line]
    svg.add(chart, "polyline", style=f"course {look}", points=svg.points(xs, ys))
    for x, (_, score) in zip(xs, line, strict=True):
        if score.low is not None and score.high is not None:
            low, high = axis(score.low), axis(score.high)
            svg.add(chart, "line", style=f"reach {look}", x1=x, x2=x, y1=low, y2=high)
        y = axis(score.value or 0.0)
        tip = f"{interval(score)}; {beside_chance(score)}".rstrip("; ")
        svg.add(chart, "circle", style=f"point {look}", cx=x, cy=y, r=3, tip=tip)


def _line_names(
    chart: svg.Element,
    axis: Scale,
    lines: dict[int, list[tuple[int, Score]]],
    order: Sequence[str],
) -> None:
    """Write each name beside the end of its line, apart from the others."""
    ends = sorted((axis(line[-1][1].value or 0.0), index) for index, line in lines.items())
    lowest = -math.inf
    for y, index in ends:
        lowest = max(y + 4, lowest + 14)
        words = svg.shorten(order[index], 13)
        svg.label(chart, WIDTH - 84, lowest, words, style=f"label series-{index % SERIES}")


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
    for index, row in enumerate(rows):
        y = top + (tall + gap) * index
        if not dense or index % 2 == 0:
            words = svg.shorten(row.label, 18)
            svg.label(chart, left - 6, y + tall / 2 + 4, words, anchor="end")
        _budget_bar(chart, row, (left, y, span, tall))
    base = top + (tall + gap) * len(rows)
    ends = {0.0: "start", 1.0: "end"}
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = f"{share:.0%}".replace("%", " %")
        svg.label(chart, left + span * share, base + 14, text, "tick", ends.get(share, "middle"))
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
