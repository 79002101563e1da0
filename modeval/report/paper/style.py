"""What all figures for papers share: fonts, colours, panels, keys, and how they are saved."""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from modeval.errors import DependencyError, ScorecardError, SpecError
from modeval.metrics.table import near_metric
from modeval.report import scorecard_views
from modeval.report.scorecard_views import ModelView, TaskGroup
from modeval.report.svg import shorten
from modeval.report.words import title_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CHANCE_LINES: tuple[tuple[str, str, Any], ...] = (
    ("uniform routing", "chance", (0, (4, 2))),
    ("hashed routing", "chance_hash", (0, (1, 1.5))),
)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
WIDTHS = {"single": 3.4, "double": 7.0}
"""Widths of columns in inches."""
NAME = 28
"""Letters of a name; the middle of longer ones is left out."""
FORMATS = ("png", "svg", "pdf")
FACE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "modeval",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What a figure should look like, and what of the scorecards it shows.

    Attributes:
        width: in inches.
        title: above the figure; usually the caption's job.
        metrics: scores to draw; the kind's own when empty.
        layer: layer to draw (heat maps); those that tell most when absent.
    """

    width: float = WIDTHS["single"]
    title: str = ""
    metrics: tuple[str, ...] = ()
    layer: int | None = None


def save(figure: "Figure", suffix: str, *, dpi: int = 300) -> bytes:
    """Return a figure as the bytes of a file, without a date: the same figure, the same bytes.

    Args:
        figure: what one of the kinds returned.
        suffix: ``png``, ``svg`` or ``pdf``.
        dpi: dots per inch of a PNG, and of heat maps within the others.

    Raises:
        SpecError: another suffix.
    """
    if suffix not in FORMATS:
        raise SpecError(
            f"A figure cannot be written as {suffix or 'a file without suffix'!r}: expected one of "
            f"{', '.join(f'.{each}' for each in FORMATS)}. Use --out figure.pdf."
        )
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    buffer = io.BytesIO()
    with face():
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=metadata[suffix])
    return buffer.getvalue()


@contextmanager
def face() -> Iterator[None]:
    """Use the fonts and lines of these figures, whatever a user's configuration says."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            f'Figures need {error.name}, which is not installed: pip install "modeval-cli[report]"'
        ) from None
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(FACE)
        yield


@cache
def figure_class() -> type["Figure"]:
    """Return the class of figures, which notebooks show as they are."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    class Shown(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            with face():
                self.savefig(buffer, format="png", dpi=144)
            return buffer.getvalue()

    return Shown


def panels(
    rows: int, columns: int, style: Style, height: float, **options: Any
) -> tuple["Figure", NDArray[Any]]:
    """Return a figure with a grid of panels, each of a height in inches."""
    figure = figure_class()(figsize=(style.width, height * rows + 0.1), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def grid(
    count: int, style: Style, height: float, **options: Any
) -> tuple["Figure", list["Axes"], "Axes | None"]:
    """Return a figure with so many panels, as many side by side as the width allows.

    Returns:
        The figure, its panels, and a place that is left over, where the key may stand.
    """
    across = min(count, columns(style))
    rows = math.ceil(count / across)
    figure, made = panels(rows, across, style, height, **options)
    every = list(made.flat)
    for spare in every[count:]:
        spare.set_axis_off()
    return figure, every[:count], every[count] if len(every) > count else None


def columns(style: Style) -> int:
    """Return how many panels fit side by side."""
    return max(1, int(style.width / 1.6))


def legend(
    figure: "Figure", handles: dict[str, Any], style: Style, spare: "Axes | None" = None
) -> None:
    """Put the key into a place that is left over, or under the panels in as few rows as fit.

    Args:
        figure: the figure.
        handles: what is drawn, by its words.
        style: its width.
        spare: an empty place among the panels.
    """
    if not handles:
        return
    looks: dict[str, Any] = {"handlelength": 2.2, "columnspacing": 1.2}
    wide = 0.5 + 0.055 * max(map(len, handles))  # inches of a handle and its words
    empty = sum(not axes.axison for axes in figure.axes)
    if spare is not None and wide <= empty * style.width / columns(style):
        where: Any = "center" if empty == 1 else "center left"
        key = spare.legend(list(handles.values()), list(handles), loc=where, **looks)
        key.set_in_layout(empty == 1)  # in several empty places it must not widen the first
        return
    rows = math.ceil(len(handles) / max(1, int(style.width / wide)))
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.16 * rows)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=math.ceil(len(handles) / rows),
        **looks,
    )


def name_panel(
    panel: "Axes", metric: str, entries: Sequence[ModelView], width: float = math.inf
) -> None:
    """Write what a panel shows over its left edge: it has more room there than at an axis.

    Args:
        panel: the panel.
        metric: what it shows.
        entries: models, to know the direction.
        width: of the panel in inches, to break the line.
    """
    scores = [scorecard_views.overall(view, metric) for view in entries]
    better = next((score.better for score in scores if score), None)
    arrow = {"lower": "\N{NO-BREAK SPACE}↓", "higher": "\N{NO-BREAK SPACE}↑", None: ""}[better]
    panel.set_title(wrapped(f"{title_for(entries[0].record, metric)}{arrow}", width), loc="left")


def in_letters(name: str) -> str:
    """Return a name short enough, and without the signs that Matplotlib takes for formulas."""
    return shorten(name, NAME).replace("$", r"\$")


def wrapped(text: str, width: float) -> str:
    """Break a text so that it fits a panel of a width in inches."""
    letters = int(min(max((width - 0.3) / 0.065, 8), max(len(text), 1)))
    return "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))


def short_task(group: TaskGroup) -> str:
    """Name a task in a word or two: its number of rules."""
    return group.title.split(" · ")[0]


def told_apart(groups: Sequence[TaskGroup]) -> list[str]:
    """Name tasks in as few words as tell them apart."""
    short = [short_task(group) for group in groups]
    if len(set(short)) == len(short):
        return short
    parts = [group.title.split(" · ") for group in groups]
    shared = set.intersection(*map(set, parts)) - {first for first, *_ in parts}
    return [" · ".join(part for part in named if part not in shared) for named in parts]


def plain_ticks(panel: "Axes", axis: Literal["x", "y"]) -> None:
    """Write few numbers on a logarithmic axis, without powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    one = panel.xaxis if axis == "x" else panel.yaxis
    one.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=5))
    one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    one.set_minor_formatter(NullFormatter())


def chosen(entries: Sequence[ModelView], style: Style, usual: Sequence[str]) -> list[str]:
    """Return the metrics to draw.

    Raises:
        ScorecardError: one was asked for that no model has, or none of the usual ones is there.
    """
    there = scorecard_views.metrics_of(entries)
    for metric in style.metrics:
        if metric not in there:
            near = near_metric(metric)
            raise ScorecardError(
                f"No model has the score {metric!r}"
                f"{f' (did you mean {near}?)' if near in there else ''}; there are "
                f"{', '.join(there) or 'none'}."
            )
    found = list(style.metrics) or [metric for metric in usual if metric in there]
    if not found:
        raise ScorecardError(
            f"The scorecards hold none of {', '.join(usual)}. Choose with --metric: "
            f"{', '.join(there) or 'there is no score at all'}."
        )
    return found


def line_style(index: int) -> dict[str, Any]:
    """Return the look of the line of one model."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
        "markersize": 3.5,
    }
