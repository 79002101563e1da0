"""Figures for papers: vector graphics at the width of a column, the same bytes each time.

Each kind takes models of scorecards (or training curves) and returns a Matplotlib figure. Colours
are those of Okabe and Ito, which differ without colour vision too; markers and dashes differ with
them. Nothing is written into a figure that a caption says better.
"""

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modeval.errors import DependencyError, ScorecardError, SpecError
from modeval.report import routing_views, scorecard_views
from modeval.report.routing_views import BUDGET, UNDIVIDED
from modeval.report.scorecard_views import Entry, Group
from modeval.report.svg import shorten
from modeval.report.words import is_trace, metric_title
from modeval.score.scorecard import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
SHORT = 2.2
"""Inches of a figure below which a long label does not fit beside a scale of colours."""
SHORT_NAME = 8
"""Letters of a rule's name beside which several matrices have room."""
WIDE = 16
"""Modules from which a matrix takes the whole width."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CHANCE_LINES: tuple[tuple[str, str, Any], ...] = (
    ("uniform routing", "chance", (0, (4, 2))),
    ("hashed routing", "chance_hash", (0, (1, 1.5))),
)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
TERM_COLOURS = {
    "imbalance": "#E69F00",
    "rule_specialization": "#0072B2",
    "input_distraction": "#CC79A7",
    "softness": "#D9D9D9",
    UNDIVIDED: "#D9D9D9",
}
TERM_TITLES = {
    "imbalance": "imbalance",
    "rule_specialization": "rule specialization",
    "input_distraction": "input distraction",
    "softness": "softness",
    UNDIVIDED: "distraction and softness",
}
NAME = 28
"""Letters of a name; the middle of longer ones is left out."""
FEW_BARS = 12
"""Bars up to which each has a name."""
WIDTHS = {"single": 3.4, "double": 7.0}
"""Widths of columns in inches."""
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
class Curves:
    """How the loss of one run fell.

    Attributes:
        name: of the model.
        task: models of the same task share a panel.
        steps: ``(T,)``.
        values: ``(S, T)`` for each seed; NaN where it was not finite.
    """

    name: str
    task: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


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


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of figure.

    Attributes:
        summary: one line for the help.
        draw: makes it.
    """

    summary: str
    draw: Callable[[Sequence[Entry], Style], "Figure"]


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
    with _face():
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=metadata[suffix])
    return buffer.getvalue()


@contextmanager
def _face() -> Iterator[None]:
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


def draw(kind: str, entries: Sequence[Entry], style: Style) -> "Figure":
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
    with _face():
        return _titled(KINDS[kind].draw([_written(entry) for entry in entries], style), style)


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
    with _face():
        return _titled(_curves(shown, style), style)


def _titled(figure: "Figure", style: Style) -> "Figure":
    if style.title:
        figure.set_figheight(figure.get_figheight() + 0.25)
        figure.suptitle(style.title.replace("$", r"\$"))
    return figure


def _written(entry: Entry) -> Entry:
    """Return a model with names as they can be written into a figure."""
    record = entry.record
    return replace(
        entry,
        name=_letters(entry.name),
        record=replace(
            record,
            rules=tuple(map(_letters, record.rules)),
            layers=tuple(name.replace("$", r"\$") for name in record.layers),
        ),
    )


def _letters(name: str) -> str:
    """Return a name short enough, and without the signs that Matplotlib takes for formulas."""
    return shorten(name, NAME).replace("$", r"\$")


# --- panels --------------------------------------------------------------------------------------


def _panels(
    rows: int, columns: int, style: Style, height: float, **options: Any
) -> tuple["Figure", NDArray[Any]]:
    """Return a figure with a grid of panels, each of a height in inches."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(style.width, height * rows + 0.1), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _grid(count: int, style: Style, height: float, **options: Any) -> tuple["Figure", list["Axes"]]:
    """Return a figure with so many panels, as many side by side as the width allows."""
    columns = min(count, _columns(style))
    rows = math.ceil(count / columns)
    figure, grid = _panels(rows, columns, style, height, **options)
    panels = list(grid.flat)
    for spare in panels[count:]:
        figure.delaxes(spare)
    return figure, panels[:count]


def _columns(style: Style) -> int:
    """Return how many panels fit side by side."""
    return max(1, int(style.width / 1.6))


def _legend(figure: "Figure", handles: dict[str, Any], style: Style) -> None:
    """Put the key under the panels, in as few rows as the width allows, of the same length."""
    if not handles:
        return
    entry = 0.5 + 0.055 * max(map(len, handles))  # inches of a handle and its words
    rows = math.ceil(len(handles) / max(1, int(style.width / entry)))
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.16 * rows)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=math.ceil(len(handles) / rows),
        handlelength=2.2,
        columnspacing=1.2,
    )


def _name_panel(
    panel: "Axes", metric: str, entries: Sequence[Entry], width: float = math.inf
) -> None:
    """Write what a panel shows over its left edge: it has more room there than at an axis.

    Args:
        panel: the panel.
        metric: what it shows.
        entries: models, to know the direction.
        width: of the panel in inches, to break the line.
    """
    scores = [scorecard_views.overall(entry, metric) for entry in entries]
    better = next((score.better for score in scores if score), None)
    arrow = {"lower": "\N{NO-BREAK SPACE}↓", "higher": "\N{NO-BREAK SPACE}↑", None: ""}[better]
    panel.set_title(_wrapped(f"{metric_title(metric)}{arrow}", width), loc="left")


def _wrapped(text: str, width: float) -> str:
    """Break a text so that it fits a panel of a width in inches."""
    letters = min(max((width - 0.3) / 0.065, 8), len(text))
    return textwrap.fill(text, int(letters))


def _chosen(entries: Sequence[Entry], style: Style, usual: Sequence[str]) -> list[str]:
    """Return the metrics to draw.

    Raises:
        ScorecardError: one was asked for that no model has, or none of the usual ones is there.
    """
    there = scorecard_views.metrics_of(entries)
    for metric in style.metrics:
        if metric not in there:
            raise ScorecardError(
                f"No model has the score {metric!r}; there are {', '.join(there) or 'none'}."
            )
    found = list(style.metrics) or [metric for metric in usual if metric in there]
    if not found:
        raise ScorecardError(
            f"The scorecards hold none of {', '.join(usual)}. Choose with --metric: "
            f"{', '.join(there) or 'there is no score at all'}."
        )
    return found


def _line_style(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
        "markersize": 3.5,
    }


# --- ranking -------------------------------------------------------------------------------------


def _ranking(entries: Sequence[Entry], style: Style) -> "Figure":
    metrics = _chosen(
        entries,
        style,
        ("in_distribution_loss", "alignment_score", "inverse_mutual_information", "collapse_worst"),
    )
    groups = scorecard_views.groups(entries)
    most = max(
        sum(scorecard_views.overall(entry, metric) is not None for entry in group.entries)
        for group in groups
        for metric in metrics
    )
    figure, grid = _panels(len(metrics), len(groups), style, 0.5 + 0.17 * most, sharex="row")
    handles: dict[str, Any] = {}
    for row, metric in enumerate(metrics):
        for column, group in enumerate(groups):
            _rank(grid[row, column], group, metric, handles)
        _name_panel(grid[row, 0], metric, entries)
    for column, group in enumerate(groups if len(groups) > 1 else ()):
        grid[-1, column].set_xlabel(_short_task(group))
    _legend(figure, handles, style)
    return figure


def _short_task(group: Group) -> str:
    return group.title.split(" · ")[0]


def _rank(panel: "Axes", group: Group, metric: str, handles: dict[str, Any]) -> None:
    """Draw the models of a group, the best on top."""
    found = [(entry, scorecard_views.overall(entry, metric)) for entry in group.entries]
    scored = [(entry, score) for entry, score in found if score and score.value is not None]
    if not scored:
        panel.set_axis_off()
        return
    sign = -1 if scored[0][1].better == "higher" else 1
    scored.sort(key=lambda pair: (sign * (pair[1].value or 0.0), pair[0].name))
    for place, (entry, score) in enumerate(scored):
        values = [value for _, value in scorecard_views.dots(entry, metric)]
        what = "layer" if entry.layered else "seed"
        if len(values) > 1:
            handles[what] = panel.plot(
                values, [place] * len(values), "o", color=COLOURS[0], alpha=0.45, ms=3, mew=0
            )[0]
        if score.low is not None and score.high is not None:
            handles["interval"] = panel.hlines(place, score.low, score.high, color="k", lw=1.1)
        handles["mean"] = panel.plot([score.value or 0.0], [place], "|", color="k", ms=7, mew=1.4)[
            0
        ]
    _chance_marks(panel, [score for _, score in scored], handles)
    panel.set_yticks(range(len(scored)), [entry.name for entry, _ in scored])
    panel.set_ylim(len(scored) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)


def _chance_marks(panel: "Axes", scores: Sequence[Score], handles: dict[str, Any]) -> None:
    for name, field, dashes in CHANCE_LINES:
        for place, score in enumerate(scores):
            level = getattr(score, field)
            if level is not None:
                handles[name] = panel.vlines(
                    level, place - 0.35, place + 0.35, color=COLOURS[1], lw=1, linestyles=dashes
                )
    for place, score in enumerate(scores):
        if score.null_low is not None and score.null_high is not None:
            handles["permuted labels"] = panel.fill_betweenx(
                [place - 0.3, place + 0.3], score.null_low, score.null_high, color="#BBBBBB", lw=0
            )


# --- against the number of rules -----------------------------------------------------------------


def _collapse(entries: Sequence[Entry], style: Style) -> "Figure":
    return _against_rules(entries, style, ("collapse_avg", "collapse_worst"), "collapse")


def _specialisation(entries: Sequence[Entry], style: Style) -> "Figure":
    usual = ("alignment_distance", "inverse_mutual_information", "adaptation_distance")
    return _against_rules(entries, style, usual, "specialisation")


def _against_rules(
    entries: Sequence[Entry], style: Style, usual: Sequence[str], kind: str
) -> "Figure":
    trained = [entry for entry in entries if not is_trace(entry.record)]
    if not trained:
        raise ScorecardError(
            f"{kind} is drawn against the number of rules, of trained cohorts; these scorecards "
            "are of recorded traces. Use: modeval plot layers"
        )
    counts = {int(entry.record.data["rules"]) for entry in trained}
    if len(counts) < 2:  # noqa: PLR2004 - one number is no axis
        raise ScorecardError(
            f"{kind} is drawn against the number of rules, and these scorecards have one "
            f"({counts.pop()}). Give scorecards of others too, or use: modeval plot ranking"
        )
    metrics = _chosen(trained, style, usual)
    figure, panels = _grid(len(metrics), style, 1.75)
    columns = min(len(metrics), _columns(style))
    handles: dict[str, Any] = {}
    names = sorted({entry.name for entry in trained})
    for panel, metric in zip(panels, metrics, strict=True):
        lines = scorecard_views.against_rules(trained, metric)
        for name, line in lines.items():
            _rule_line(panel, name, line, names.index(name), handles)
        _rule_chance(panel, lines, handles)
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted(counts), [str(count) for count in sorted(counts)])
        panel.minorticks_off()
        panel.set_xlabel("rules")
        _name_panel(panel, metric, trained, style.width / columns)
    _legend(figure, handles, style)
    return figure


def _rule_line(
    panel: "Axes",
    name: str,
    line: Sequence[tuple[int, Score]],
    place: int,
    handles: dict[str, Any],
) -> None:
    rules = [count for count, _ in line]
    look = _line_style(place)
    handles[name] = panel.plot(rules, [score.value or 0.0 for _, score in line], **look)[0]
    banded = [(count, s.low, s.high) for count, s in line if s.low is not None]
    if banded:
        xs, lows, highs = zip(*banded, strict=True)
        panel.fill_between(xs, lows, highs, color=look["color"], alpha=0.2, lw=0)


def _rule_chance(
    panel: "Axes", lines: dict[str, list[tuple[int, Score]]], handles: dict[str, Any]
) -> None:
    """Draw chance levels, where all models share them."""
    for name, field, dashes in CHANCE_LINES:
        levels: dict[int, set[float]] = {}
        for line in lines.values():
            for count, score in line:
                if getattr(score, field) is not None:
                    levels.setdefault(count, set()).add(getattr(score, field))
        shared = sorted((count, found.pop()) for count, found in levels.items() if len(found) == 1)
        if shared:
            xs, ys = zip(*shared, strict=True)
            handles[name] = panel.plot(xs, ys, color="k", lw=0.9, linestyle=dashes)[0]


# --- training curves -----------------------------------------------------------------------------


def _curves(found: Sequence[Curves], style: Style) -> "Figure":
    tasks = list(dict.fromkeys(each.task for each in found))
    names = list(dict.fromkeys(each.name for each in found))
    figure, panels = _grid(len(tasks), style, 1.9, sharey=True)
    handles: dict[str, Any] = {}
    positive = all(bool((each.values[np.isfinite(each.values)] > 0).all()) for each in found)
    for panel, task in zip(panels, tasks, strict=True):
        for each in found:
            if each.task == task:
                _curve(panel, each, names.index(each.name), handles)
        if len(tasks) > 1:
            panel.set_title(
                _wrapped(task, style.width / min(len(tasks), _columns(style))), loc="left"
            )
        if positive:
            panel.set_yscale("log")
        panel.set_xlabel("steps")
    panels[0].set_ylabel("validation loss")
    _legend(figure, handles, style)
    return figure


def _curve(panel: "Axes", curves: Curves, place: int, handles: dict[str, Any]) -> None:
    look = _line_style(place)
    marker = look["marker"] if curves.steps.size < 12 else None  # noqa: PLR2004 - more would touch
    if len(curves.values) > 1:
        panel.plot(curves.steps, curves.values.T, color=look["color"], alpha=0.3, lw=0.6)
    finite = np.isfinite(curves.values)
    total = np.where(finite, curves.values, 0.0).sum(0)
    counted = finite.sum(0)
    mean = np.divide(total, counted, out=np.full(total.shape, np.nan), where=counted > 0)
    handles[curves.name] = panel.plot(curves.steps, mean, **(look | {"marker": marker}))[0]


# --- heat maps -----------------------------------------------------------------------------------

_Titled = tuple[str, routing_views.Map, list[str]]


def _heatmap(entries: Sequence[Entry], style: Style) -> "Figure":
    rows = [
        (_short_task(group), [each for entry in group.entries for each in _maps_of(entry, style)])
        for group in scorecard_views.groups(entries)
    ]
    rows = [(title, found) for title, found in rows if found]
    if not rows:
        asked = "" if style.layer is None else f" of layer {style.layer}"
        raise ScorecardError(
            f"The scorecards hold no activation matrix{asked}: a single module has none, and a "
            "trace needs labels. Use "
            "modeval plot ranking."
        )
    maps = [found for _, row in rows for _, found, _ in row]
    longest = max(len(rule) for _, row in rows for _, _, rules in row for rule in rules)
    if longest > SHORT_NAME or max(each.matrix.shape[1] for each in maps) > WIDE:
        rows = [(title, [each]) for title, row in rows for each in row]
    columns = max(len(row) for _, row in rows)
    tallest = max(each.matrix.shape[0] for each in maps)
    side = (style.width - 0.8) / columns
    row = 0.11 if max(each.matrix.shape[1] for each in maps) > WIDE else 0.19
    height = 0.35 + (row * tallest if columns == 1 else min(side, 1.8))
    figure, grid = _panels(len(rows), columns, style, height)
    _draw_maps(figure, grid, rows, maps)
    return figure


def _draw_maps(
    figure: "Figure",
    grid: NDArray[Any],
    rows: Sequence[tuple[str, Sequence[_Titled]]],
    maps: Sequence[routing_views.Map],
) -> None:
    from matplotlib.colors import PowerNorm  # noqa: PLC0415 - an extra

    most, larger = routing_views.brightest(each.matrix for each in maps)
    norm = PowerNorm(0.5, vmin=0.0, vmax=most)
    tasks = {title for title, _ in rows}
    image: Any = None
    for panels, (task, row) in zip(grid, rows, strict=True):
        for spare in panels[len(row) :]:
            spare.set_axis_off()
        for panel, (title, found, rules) in zip(panels, row, strict=False):
            image = panel.imshow(
                found.matrix, norm=norm, cmap="viridis", aspect="auto", interpolation="nearest"
            )
            panel.set_title(title if len(maps) > 1 else "", loc="left")
            panel.set_yticks(range(len(rules)), rules)
            panel.set_xticks([])
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
        if len(tasks) > 1:
            panels[0].set_ylabel(task)
    for panel in grid[-1]:
        panel.set_xlabel("modules")
    height = figure.get_figheight()
    bar = figure.colorbar(
        image,
        ax=list(grid.flat),
        label="share of a rule" if height > SHORT else "share",
        extend="max" if larger else "neither",
        aspect=30,
    )
    sizes = {each.matrix.shape[1] for each in maps}
    if len(sizes) == 1:
        bar.ax.axhline(1 / sizes.pop(), color="w", lw=1.5)
        if height > SHORT:
            bar.set_label("share of a rule (line: uniform)")


def _maps_of(entry: Entry, style: Style) -> list[_Titled]:
    """Return title, map and names of rules of the maps of a model that are to be drawn."""
    record = entry.record
    if record.modules == 1:
        return []
    layers: list[int | None] = [None]
    if entry.layered:
        if style.layer is not None and style.layer >= len(record.layers):
            raise ScorecardError(
                f"--layer {style.layer}: {entry.name} has layers 0 to {len(record.layers) - 1}."
            )
        told = [layer for _, layer in scorecard_views.telling_layers(entry)[0]]
        layers = [style.layer] if style.layer is not None else list(told)
    short, _ = scorecard_views.layer_names(record.layers)
    made = []
    for layer in layers:
        matrices = routing_views.activations(entry, layer)
        if matrices and len(matrices[0].matrix) > 1:  # one row is load
            found = routing_views.mean_map(matrices)
            title = entry.name if layer is None else f"layer {short[layer]}"
            count = found.matrix.shape[0]
            rules = (
                routing_views.rule_names(record, count)
                if record.rules
                else [str(n) for n in range(count)]
            )
            made.append((title, found, rules))
    return made


# --- layers --------------------------------------------------------------------------------------


def _layers(entries: Sequence[Entry], style: Style) -> "Figure":
    deep = [entry for entry in entries if entry.layered]
    if not deep:
        raise ScorecardError(
            "None of the models has several routed layers. Use modeval plot ranking, or score a "
            "trace of a deeper one."
        )
    metrics = _chosen(deep, style, ("alignment_score", "effective_share", "collapse_worst"))
    figure, grid = _panels(len(metrics), 1, style, 1.25, sharex=True)
    panels = list(grid.flat)
    handles: dict[str, Any] = {}
    for panel, metric in zip(panels, metrics, strict=True):
        for place, entry in enumerate(deep):
            _layer_line(panel, scorecard_views.by_layer(entry, metric), entry.name, place, handles)
        _name_panel(panel, metric, deep)
    short, pattern = scorecard_views.layer_names(deep[0].record.layers)
    if len(deep) == 1 and not pattern:
        panels[-1].set_xticks(range(len(short)), short, rotation=90)
    else:
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("layer")
    if len(deep) == 1:
        handles = {name: each for name, each in handles.items() if name != deep[0].name}
    _legend(figure, handles, style)
    return figure


def _layer_line(
    panel: "Axes", scores: Sequence[Score], name: str, place: int, handles: dict[str, Any]
) -> None:
    known = [score for score in scores if score.value is not None]
    if not known:
        return
    xs = [score.layer or 0 for score in known]
    look = _line_style(place)
    marker = look["marker"] if len(known) <= 32 else None  # noqa: PLR2004 - more would touch
    for field, label, style in (
        ("null", "permuted labels", {"color": "#999999", "alpha": 0.45}),
        ("", "interval", {"color": look["color"], "alpha": 0.2}),
    ):
        low, high = (f"{field}_{end}".lstrip("_") for end in ("low", "high"))
        kept = [s for s in known if getattr(s, low) is not None and getattr(s, high) is not None]
        if kept:
            handles[label] = panel.fill_between(
                [s.layer or 0 for s in kept],
                [getattr(s, low) for s in kept],
                [getattr(s, high) for s in kept],
                lw=0,
                **style,
            )
    chances = [(s.layer or 0, s.chance) for s in known if s.chance is not None]
    if chances:
        there, levels = zip(*chances, strict=True)
        handles["uniform routing"] = panel.plot(
            there, levels, color="k", lw=0.9, linestyle=(0, (4, 2))
        )[0]
    values = [score.value or 0.0 for score in known]
    handles[name] = panel.plot(xs, values, **(look | {"marker": marker, "markersize": 2.5}))[0]


# --- entropy budget ------------------------------------------------------------------------------


def _budget(entries: Sequence[Entry], style: Style) -> "Figure":
    stacks = [stack for group in scorecard_views.groups(entries) for stack in _stacks(group)]
    if not stacks:
        raise ScorecardError(
            "The scorecards hold nothing that an entropy budget could be made of: it needs two "
            "modules or more."
        )
    longest = max(len(rows) for _, rows in stacks)
    bar = 0.17 if longest <= FEW_BARS else 0.075
    figure, grid = _panels(len(stacks), 1, style, 0.5 + bar * longest)
    handles: dict[str, Any] = {}
    for panel, (title, rows) in zip(grid.flat, stacks, strict=True):
        _stack(panel, rows, handles)
        if len(stacks) > 1:
            panel.set_title(title, loc="left")
    grid[-1, 0].set_xlabel("share of log M")
    _legend(figure, handles, style)
    return figure


def _stacks(group: Group) -> Iterator[tuple[str, list[routing_views.Budget]]]:
    """Yield title and rows of each panel: models with one layer together, others on their own."""
    single = [
        row for entry in group.entries if not entry.layered for row in routing_views.budgets(entry)
    ]
    if single:
        yield _short_task(group), single
    for entry in group.entries:
        rows = routing_views.budgets(entry) if entry.layered else []
        if rows:
            yield entry.name, rows


def _stack(panel: "Axes", rows: Sequence[routing_views.Budget], handles: dict[str, Any]) -> None:
    start = np.zeros(len(rows))
    for term in (*BUDGET, UNDIVIDED):
        if not any(term in row.terms for row in rows):
            continue
        parts = np.array([row.terms.get(term, 0.0) / row.total for row in rows])
        handles[TERM_TITLES[term]] = panel.barh(
            range(len(rows)),
            parts,
            left=start,
            height=0.8,
            color=TERM_COLOURS[term],
            edgecolor="white",
            linewidth=0.3,
        )
        start = start + parts
    every = 1 if len(rows) <= FEW_BARS else math.ceil(len(rows) / 30) * 2
    panel.set_yticks(range(0, len(rows), every), [row.label for row in rows[::every]])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlim(0, 1)
    panel.tick_params(axis="y", length=0)


KINDS = {
    "ranking": Kind("models ranked by each score, seeds as dots, interval, chance", _ranking),
    "collapse": Kind("collapse against the number of rules, a line for each model", _collapse),
    "specialisation": Kind(
        "alignment, information and adaptation against the number of rules", _specialisation
    ),
    "heatmap": Kind("which rule goes to which module", _heatmap),
    "layers": Kind("scores by layer, with the band of permuted labels", _layers),
    "budget": Kind("where the routing entropy goes, as stacked bars", _budget),
}
"""Figures of scorecards; curves, of run folders, are :func:`draw_curves`."""
CURVES = "validation loss against steps, seeds as thin lines"
"""The line of the help for curves."""
