"""Maps for terminals: which rule goes to which module, in numbers or, where many, in shades."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.measure import Measurement
from rich.text import Text

from modeval.report import causes, routing_views, scorecard_views
from modeval.report.routing_views import Floats, Map
from modeval.report.scorecard_views import ModelView
from modeval.report.words import count, percent, vocabulary

NAME = 18
"""Letters of a rule's name."""
NUMBERED = 4
"""Terminal columns of a cell that holds a number of percent."""
WIDE = 2
"""Terminal columns of a cell of two shades."""
SHADES = " ░▒▓█"
"""From 0 to the brightest share on the scale of square roots, so that small ones show too."""
COLOURS = (
    "#440154",
    "#482777",
    "#3e4a89",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6dcd59",
    "#b4de2c",
    "#fde725",
)
"""Likewise; after the palette viridis, which also reads well without colour vision."""
DARK = 5
"""Colours on which letters are white."""


def trace_maps(view: ModelView) -> list[RenderableType]:
    """Return the maps of a trace: the lowest, a median and the highest layer."""
    if len(view.record.rules) < 2:  # noqa: PLR2004 - one row is load
        return []
    told, metric = scorecard_views.telling_layers(view)
    layers: list[tuple[str, int | None]] = list(told) or [("", None)]
    return side_by_side([(view, layer, word if metric else "") for word, layer in layers])


def side_by_side(wanted: Sequence[tuple[ModelView, int | None, str]]) -> list[RenderableType]:
    """Return maps of models or layers on one scale, as many abreast as the terminal is wide.

    Args:
        wanted: model, number of its layer, and a word on why that layer.
    """
    found = []
    for view, layer, word in wanted:
        matrices = routing_views.activations(view, layer)
        if matrices and len(matrices[0].matrix) > 1:
            found.append((view, layer, word, routing_views.mean_map(matrices)))
            need = causes.needed_map(view, layer)
            found += [] if need is None else [(view, layer, causes.NEEDED, need)]
    if not found:
        return []
    most, larger = routing_views.brightest(each.matrix for *_, each in found)
    pictures = [
        Picture(
            found=each,
            rules=tuple(routing_views.rule_names(view.record, len(each.matrix))),
            most=most,
            module=vocabulary(view.record).module,
        )
        for view, *_, each in found
    ]
    drawn = [
        Stack(_heading(view, layer, word, each), picture, Text(""))
        for (view, layer, word, each), picture in zip(found, pictures, strict=True)
    ]
    widest = max(picture.numbered_width for picture in pictures)
    return [Columns(drawn, padding=(0, 3)), Legend(most, larger, widest), Text("")]


def _heading(view: ModelView, layer: int | None, word: str, shares: Map) -> Text:
    name = view.name if layer is None else f"{view.name}, {view.record.layers[layer]}"
    remarks = [word, f"mean of {shares.averaged} seeds" if shares.averaged > 1 else ""]
    remark = "".join(f" · {each}" for each in remarks if each)
    return Text.assemble((name, "bold"), (remark, "dim"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A map: a row for each rule, a column for each module.

    Attributes:
        found: shares, and the numbers of the modules.
        rules: names of the rows.
        most: share that gets the brightest colour.
        module: what a module is called.
    """

    found: Map
    rules: tuple[str, ...]
    most: float
    module: str = "module"

    @property
    def numbered_width(self) -> int:
        """Terminal columns that it needs to show numbers."""
        return self._name + 1 + NUMBERED * len(self.found.modules)

    @property
    def _name(self) -> int:
        return min(max(map(len, (*self.rules, self.module))), NAME)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return how wide it is."""
        lines = self.text(options.max_width, colours=False).plain.splitlines()
        width = max(map(len, lines), default=1)
        return Measurement(width, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it; on terminals without colours shades and numbers tell it."""
        coloured = console.color_system is not None and not console.no_color
        yield self.text(options.max_width, colours=coloured)

    def text(self, width: int, *, colours: bool) -> Text:
        """Return the picture, at most so wide; neighbours share a column where it must be."""
        name = self._name
        room = max(width - name - 1, 8)
        count_ = self.found.matrix.shape[1]
        cell = next((size for size in (NUMBERED, WIDE) if size * count_ <= room), 1)
        matrix = _narrowed(self.found.matrix, room)
        text = Text()
        for rule, row in zip(self.rules, matrix.tolist(), strict=True):
            text.append(f"{_cut(rule, name):>{name}} ")
            for share in row:
                text.append(*self._cell(share, cell, colours=colours))
            text.append("\n")
        return text.append(self._foot(name, cell, matrix.shape[1]), style="dim")

    def _cell(self, share: float, size: int, *, colours: bool) -> tuple[str, str]:
        level = math.sqrt(min(max(share / self.most, 0.0), 1.0))
        shade = SHADES[min(int(level * len(SHADES)), len(SHADES) - 1)]
        index = min(int(level * len(COLOURS)), len(COLOURS) - 1)
        letters = f"{100 * share:3.0f} " if size == NUMBERED else shade * size
        if not colours:
            return letters, ""
        if size == NUMBERED:
            return letters, f"{'white' if index < DARK else 'black'} on {COLOURS[index]}"
        return " " * size, f"on {COLOURS[index]}"

    def _foot(self, name: int, cell: int, columns: int) -> str:
        """Name the modules: by their numbers where there is room."""
        modules = self.found.modules
        if self.found.averaged > 1:
            words = f"{self.module}s of the rules in order"
        elif cell == NUMBERED:
            return f"{self.module:>{name}} " + "".join(f"{number:3} " for number in modules)
        elif columns < len(modules):
            merged = math.ceil(len(modules) / columns)
            words = f"{count(merged, self.module)} a column, those of the rules first"
        else:
            words = f"{self.module}s {', '.join(map(str, modules[:3]))} and so on"
        return f"{'':{name}} {words}" if len(words) <= cell * columns else words


@dataclass(frozen=True, slots=True)
class Legend:
    """What colours and shades mean.

    Attributes:
        most: brightest share.
        larger: whether there are larger ones.
        widest: terminal columns from which all maps show numbers, which need no shades.
    """

    most: float
    larger: bool
    widest: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as the map is drawn."""
        if console.color_system is None or console.no_color:
            if self.widest <= options.max_width:
                yield Text("numbers are percent of a row", style="dim")
                return
            levels = [(index / len(SHADES)) ** 2 * self.most for index in range(1, len(SHADES))]
            shades = zip(SHADES[1:], levels, strict=True)
            parts = "  ".join(f"{shade} from {percent(level)}" for shade, level in shades)
            yield Text(f"percent of a row; {parts}{self._end}", style="dim")
            return
        text = Text("percent of a row: 0 ", style="dim")
        for colour in COLOURS:
            text.append("  ", style=f"on {colour}")
        yield text.append(f" {percent(self.most)}{self._end}")

    @property
    def _end(self) -> str:
        return " or more" if self.larger else ""


def _cut(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1] + "…"


def _narrowed(matrix: Floats, room: int) -> Floats:
    """Return the matrix with neighbouring columns merged, their largest share kept."""
    columns = matrix.shape[1]
    if columns <= room:
        return matrix
    starts = np.arange(0, columns, math.ceil(columns / room))
    return np.maximum.reduceat(matrix, starts, axis=1)
