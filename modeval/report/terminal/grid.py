"""Tables for terminals of any width: no number is cut; what does not fit stands below.

The first column names the rows. Where not all columns fit beside it, the table is broken into
several, each with the first column again, as a book breaks a wide table over pages.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from modeval.report.words import whole
from modeval.text import visible

GAP = 2
"""Columns between two columns of a table."""
LEAST = 16
"""Columns that names of rows need at least."""
TALL = 3
"""Lines that a heading may have where words are short enough."""

Cell = Text | str
KEPT = str.maketrans({"\N{NO-BREAK SPACE}": " "})


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph that is broken between words, but in no number, interval or share.

    Attributes:
        text: what it says.
        head: how many of its letters are emphasised.
        style: how they are.
        indent: stands before all lines but the first.
        dim: whether the rest is drawn faintly.
    """

    text: str
    head: int = 0
    style: str = "bold"
    indent: str = ""
    dim: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it within the width that there is."""
        filled = textwrap.fill(
            whole(self.text),
            options.max_width,
            subsequent_indent=self.indent,
            break_on_hyphens=False,
            replace_whitespace=False,
        )
        text = Text(filled.translate(KEPT), style="dim" if self.dim else "", no_wrap=True)
        if self.head:
            text.stylize(self.style, 0, self.head)
        yield text


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        heading: names what stands in it.
        cells: one for each row; a cell may have several lines.
        right: whether it is set to the right, as numbers are.
        style: how it is drawn.
        joined: whether it stays beside the column before it, as an interval beside its value.
    """

    heading: str
    cells: tuple[Cell, ...]
    right: bool = True
    style: str = ""
    joined: bool = False

    @property
    def width(self) -> int:
        """Terminal columns that no cell and no word of the heading is cut at."""
        lines = [line for cell in self.cells for line in _plain(cell).splitlines()]
        words = self.heading.split()
        broken = -(-cell_len(self.heading) // TALL)
        return max(map(cell_len, (*lines, *words, " " * broken)), default=1) or 1


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        columns: the first names the rows.
        sections: numbers of rows that a gap stands before.
    """

    columns: tuple[Column, ...]
    sections: tuple[int, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it within the width that there is."""
        first, *others = self.columns
        for index, kept in enumerate(_broken(first, others, options.max_width)):
            if index:
                yield Text("")
            yield self._part(first, kept, options.max_width)

    def _part(self, first: Column, others: Sequence[Column], width: int) -> RenderableType:
        table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0), pad_edge=False)
        room = width - sum(GAP + column.width for column in others)
        own = max(min(max(first.width, cell_len(first.heading)), room), 1)
        for column, size in ((first, own), *((column, column.width) for column in others)):
            table.add_column(
                Text(textwrap.fill(column.heading, max(size, 1))),
                justify="right" if column.right else "left",
                style=column.style,
                width=size,
                overflow="fold",
                vertical="top",
            )
        for row in range(len(first.cells)):
            if row in self.sections:
                table.add_section()
            table.add_row(*(_shown(column.cells[row]) for column in (first, *others)))
        return table


def _shown(cell: Cell) -> Text:
    """Return a cell as text: a name from outside is no markup, and nothing in it acts."""
    return cell if isinstance(cell, Text) else Text(visible(cell, lines=True))


def _plain(cell: Cell) -> str:
    return cell.plain if isinstance(cell, Text) else cell


def _broken(first: Column, others: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Yield the columns of each part; joined ones together where they fit at all."""
    kept: list[Column] = []
    least = min(first.width, max(min(LEAST, width // 3), width // 5))
    for together in _together(others):
        for piece in [together] if _fits(together, least, width) else [[one] for one in together]:
            if kept and not _fits([*kept, *piece], least, width):
                yield kept
                kept = []
            kept = [*kept, *piece]
    if kept or not others:
        yield kept


def _together(columns: Sequence[Column]) -> list[list[Column]]:
    found: list[list[Column]] = []
    for column in columns:
        if column.joined and found:
            found[-1].append(column)
        else:
            found.append([column])
    return found


def _fits(columns: Sequence[Column], least: int, width: int) -> bool:
    return least + sum(GAP + column.width for column in columns) <= width
