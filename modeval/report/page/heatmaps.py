"""Pictures of matrices in the page: who does what, colours and their key, load of all layers."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modeval.report import svg
from modeval.report.routing_views import CLEARLY, Floats, Map
from modeval.report.words import number

WIDTH = 340.0
MANY_LAYERS = 24
RULE_LETTERS = 20
FEW_CELLS = 64
"""Cells up to which each is an element of its own, which says its share when pointed at."""
MANY_CELLS = 400
SMALL_CELL, LARGE_CELL = 3.0, 28.0
OUTLINED_CELL = 6.0
"""Cells that an outline does not cover."""
NUMBERED_CELL = 18.0
"""Cells with room for three digits."""
VIRIDIS = "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725"
"""Eleven colours of the palette viridis, which also reads well without colour vision."""


# --- matrices ------------------------------------------------------------------------------------


def colours() -> NDArray[np.uint8]:
    """Return 256 colours between those of the palette."""
    known = [[int(each[n : n + 2], 16) for n in (0, 2, 4)] for each in VIRIDIS.split()]
    places = np.linspace(0, len(known) - 1, 256)
    parts = [np.interp(places, range(len(known)), part) for part in zip(*known, strict=True)]
    return np.stack(parts, axis=-1).round().astype(np.uint8)


def paint(matrix: Floats, most: float) -> NDArray[np.uint8]:
    """Return the colours of shares from 0 to ``most``, on the scale of square roots."""
    level = np.sqrt(np.clip(matrix / most, 0.0, 1.0))
    return colours()[(level * 255).round().astype(np.int64)]


def heat_map(  # noqa: PLR0917 - what, how and its names
    shares: Map,
    rules: Sequence[str],
    most: float,
    title: str,
    name: str,
    module: str = "module",
    *,
    small: bool = False,
) -> str:
    """Draw a row for each rule and a column for each module, the module of most outlined.

    Args:
        shares: shares, and the numbers of the modules.
        rules: names of the rows.
        most: share of the brightest colour.
        title: of the picture.
        name: unique in the page.
        module: what a module is called.
        small: draw cells as one image without numbers, which takes few bytes.
    """
    count, modules = shares.matrix.shape
    cell = min(LARGE_CELL, max(SMALL_CELL, math.floor(640 / modules)))
    tall = min(LARGE_CELL, max(cell, 14.0))
    longest = max(min(max(map(len, rules)), RULE_LETTERS), len(module))
    left, top = svg.CHARACTER * longest + 12, 4.0
    width, height = (
        left + cell * modules + 4,
        top + tall * count + (6 if shares.averaged > 1 else 20),
    )
    largest = shares.matrix.argmax(1)
    said = (
        f"{count} rows by {modules} {module}s. The {module} that gets most of a row gets "
        f"{number(float(shares.matrix.max(1).mean()))} of it on average; uniform routing gives "
        f"{number(1 / modules)}."
    )
    chart = svg.picture(width, height, title, said, name)
    box = (left, top, cell, tall)
    _cells(chart, shares.matrix, most, box, pixels=small)
    for row, rule in enumerate(rules):
        y = top + tall * (row + 0.5) + 4
        own = svg.label(chart, left - 6, y, svg.shorten(rule, RULE_LETTERS), anchor="end")
        if len(rule) > RULE_LETTERS:
            svg.add(own, "title", rule)
    if cell >= OUTLINED_CELL:
        corners = [
            (left + cell * column, top + tall * row)
            for row, column in enumerate(largest.tolist())
            if shares.matrix[row, column] * modules >= CLEARLY
        ]
        _outline(chart, corners, cell, tall)
    _column_names(chart, shares, box, module)
    return svg.text_of(chart)


def _outline(
    chart: svg.Element, corners: Sequence[tuple[float, float]], width: float, height: float
) -> None:
    inset = 0.75
    across, down = (svg.coordinate(side - 2 * inset) for side in (width, height))
    drawn = "".join(
        f"M{svg.coordinate(x + inset)} {svg.coordinate(y + inset)}h{across}v{down}h-{across}z"
        for x, y in corners
    )
    for style in ("pair under", "pair") if drawn else ():
        svg.add(chart, "path", style=style, d=drawn)


def _cells(
    chart: svg.Element,
    matrix: Floats,
    most: float,
    box: tuple[float, float, float, float],
    *,
    pixels: bool = False,
) -> None:
    """Draw cells one by one with their numbers where they are few, else as one image.

    Between the two, numbers stand on the image: a page of many models stays small.
    """
    left, top, cell, tall = box
    rows, columns = matrix.shape
    painted = paint(matrix, most)
    if pixels or rows * columns > FEW_CELLS:
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
        if not pixels and rows * columns <= MANY_CELLS and _roomy(cell, tall):
            _numbers(chart, matrix, painted, box)
        return
    for row, column in itertools.product(range(rows), range(columns)):
        x, y = left + cell * column, top + tall * row
        red, green, blue = (int(part) for part in painted[row, column])
        fill = f"#{red:02x}{green:02x}{blue:02x}"
        share = float(matrix[row, column])
        tip = f"{share:.3f}"
        own = svg.add(chart, "rect", style="cell", x=x, y=y, fill=fill, tip=tip)
        own.set("width", svg.coordinate(cell))
        own.set("height", svg.coordinate(tall))
        if _roomy(cell, tall):
            style = "in-dark" if _luminance(red, green, blue) < 0.179 else "in-light"  # noqa: PLR2004
            text = f"{100 * share:.0f}"
            svg.label(chart, x + cell / 2, y + tall / 2 + 4, text, style=style, anchor="middle")


def _roomy(cell: float, tall: float) -> bool:
    """Tell whether a cell has room for three characters."""
    return cell >= 24 and tall >= 18  # noqa: PLR2004


def _numbers(
    chart: svg.Element,
    matrix: Floats,
    painted: NDArray[np.uint8],
    box: tuple[float, float, float, float],
) -> None:
    """Write the numbers of cells, those on dark and those on light ones each in one group."""
    left, top, cell, tall = box
    groups = {
        style: svg.add(chart, "g", style=style, text_anchor="middle")
        for style in ("in-dark", "in-light")
    }
    for row, column in itertools.product(*map(range, matrix.shape)):
        red, green, blue = (int(part) for part in painted[row, column])
        style = "in-dark" if _luminance(red, green, blue) < 0.179 else "in-light"  # noqa: PLR2004
        svg.add(
            groups[style],
            "text",
            f"{100 * float(matrix[row, column]):.0f}",
            x=left + cell * (column + 0.5),
            y=top + tall * (row + 0.5) + 4,
        )


def _luminance(red: int, green: int, blue: int) -> float:
    """Return the relative luminance of WCAG; below .179 white reads better than black."""
    parts = [value / 255 for value in (red, green, blue)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4  # noqa: PLR2004 - sRGB
        for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _column_names(
    chart: svg.Element, shares: Map, box: tuple[float, float, float, float], name: str
) -> None:
    """Write the numbers of the modules under their columns, where there is room."""
    left, top, cell, tall = box
    rows, columns = shares.matrix.shape
    base = top + tall * rows
    if shares.averaged > 1:
        return
    if cell < NUMBERED_CELL:
        words = f"{columns} {name}s"
        svg.label(chart, left + cell * columns / 2, base + 14, words, "tick", "middle")
        return
    svg.label(chart, left - 6, base + 14, name, "tick", "end")
    for column, module in enumerate(shares.modules):
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
    words = f"{what}, uniform {number(level)}"
    half = svg.CHARACTER * len(words) / 2
    room = svg.CHARACTER * len(last) + 6
    centre = min(max(x, side + half + 14), width - side - half - room)
    svg.label(chart, centre, 34, words, "tick", "middle")
    return svg.text_of(chart)


def together_map(  # noqa: PLR0917 - what, how and its names
    matrix: Floats,
    modules: Sequence[int],
    most: float,
    title: str,
    name: str,
    module: str = "module",
) -> str:
    """Draw which modules are chosen together, a row and a column for each."""
    count = len(modules)
    cell = min(LARGE_CELL, max(8.0, math.floor(300 / count)))
    left, top = 34.0, 4.0
    size = cell * count
    first, second = divmod(int(matrix.argmax()), count)
    said = (
        f"{count} {module}s. Most often together: of the choices of {module} {modules[first]}, a "
        f"share of {number(float(matrix.max()))} chose {module} {modules[second]} too."
    )
    chart = svg.picture(max(left + size + 4, 120), top + size + 34, title, said, name)
    _cells(chart, matrix, most, (left, top, cell, cell))
    every = max(1, math.ceil(20 / cell))
    for index in range(0, count, every):
        middle = cell * (index + 0.5)
        svg.label(chart, left - 5, top + middle + 4, str(modules[index]), "tick", "end")
        svg.label(chart, left + middle, top + size + 14, str(modules[index]), "tick", "middle")
    svg.label(chart, left + size / 2, top + size + 29, module, style="tick", anchor="middle")
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
    _cells(chart, loads, most, (left, top, cell, tall), pixels=True)
    every = max(1, math.ceil(12 / tall))
    for row in range(0, len(labels), every):
        words = svg.shorten(labels[row], 10)
        svg.label(chart, left - 6, top + tall * (row + 0.5) + 4, words, "tick", "end")
    words = f"0 to {most:.2f} times uniform, dark to light"
    svg.label(chart, left, top + tall * len(shares) + 16, words, "tick")
    return svg.text_of(chart)
