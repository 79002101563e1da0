"""Scores by layer, with the band of permuted labels."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modeval.errors import ScorecardError
from modeval.report import scorecard_views
from modeval.report.paper.style import Style, chosen, legend, line_style, name_panel, panels
from modeval.report.scorecard_views import ModelView
from modeval.report.tables import Table, layers_table
from modeval.score.scorecard import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USUAL = ("alignment_score", "effective_share", "collapse_worst")


def layers(entries: Sequence[ModelView], style: Style) -> "Figure":
    """Draw a panel for each score, a line for each model."""
    deep = _deep(entries)
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    metrics = chosen(deep, style, USUAL)
    figure, grid = panels(len(metrics), 1, style, 1.25, sharex=True)
    every = list(grid.flat)
    handles: dict[str, Any] = {}
    for panel, metric in zip(every, metrics, strict=True):
        for index, view in enumerate(deep):
            scores = scorecard_views.by_layer(view, metric)
            _layer_line(panel, scores, view.name, (index, len(deep)), handles)
        name_panel(panel, metric, deep)
        panel.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    short, pattern = scorecard_views.layer_names(deep[0].record.layers)
    if len(deep) == 1 and not pattern:
        every[-1].set_xticks(range(len(short)), short, rotation=90)
    else:
        every[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    every[-1].set_xlabel("layer")
    if len(deep) == 1:
        handles = {name: each for name, each in handles.items() if name != deep[0].name}
    legend(figure, handles, style)
    return figure


def tables(entries: Sequence[ModelView], style: Style) -> list[Table]:
    """Return the scores of each layer, a table for each model."""
    deep = _deep(entries)
    metrics = chosen(deep, style, USUAL)
    return [layers_table(view, metrics) for view in deep]


def _deep(entries: Sequence[ModelView]) -> list[ModelView]:
    deep = [view for view in entries if view.layered]
    if not deep:
        raise ScorecardError(
            "None of the models has several routed layers. Use modeval plot ranking, or score a "
            "trace of a deeper one."
        )
    return deep


def _layer_line(
    panel: "Axes",
    scores: Sequence[Score],
    name: str,
    place: tuple[int, int],
    handles: dict[str, Any],
) -> None:
    known = [score for score in scores if score.value is not None]
    if not known:
        return
    xs = [score.layer or 0 for score in known]
    number, models = place
    look = line_style(number)
    marker = look["marker"] if len(known) <= 32 else None  # noqa: PLR2004 - more would touch
    for field, label, style in (
        ("null", _labelled("permuted labels (middle 95 %)", name, models), _band(look, models)),
        ("", _labelled("95 % interval", name, models), {"color": look["color"], "alpha": 0.25}),
    ):
        low, high = (f"{field}_{end}".lstrip("_") for end in ("low", "high"))
        lows, highs = ([_or_nan(getattr(s, end)) for s in known] for end in (low, high))
        if not all(map(math.isnan, (*lows, *highs))):
            # a layer without an interval interrupts the band
            handles[label] = panel.fill_between(xs, lows, highs, **({"lw": 0} | style))
            color = style.get("color", look["color"])
            for at in range(len(xs)):
                if _stands_alone(lows, at):
                    panel.vlines(xs[at], lows[at], highs[at], color=color, alpha=0.45, lw=2)
    chances = [(s.layer or 0, s.chance) for s in known if s.chance is not None]
    if chances:
        there, levels = zip(*chances, strict=True)
        handles["uniform routing"] = panel.plot(
            there, levels, color="k", lw=0.9, linestyle=(0, (4, 2))
        )[0]
    values = [score.value or 0.0 for score in known]
    handles[name] = panel.plot(xs, values, **(look | {"marker": marker, "markersize": 2.5}))[0]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _stands_alone(lows: Sequence[float], place: int) -> bool:
    """Tell whether an interval has no neighbour that a band could reach to."""
    beside = (*lows[max(place - 1, 0) : place], *lows[place + 1 : place + 2])
    return not math.isnan(lows[place]) and all(map(math.isnan, beside))


def _labelled(what: str, name: str, models: int) -> str:
    return what if models == 1 else f"{what}, {name}"


def _band(look: dict[str, Any], models: int) -> dict[str, Any]:
    """Draw permuted labels grey; of several models each in its own colour, hatched."""
    if models == 1:
        return {"color": "#999999", "alpha": 0.45}
    return {"facecolor": "none", "edgecolor": look["color"], "hatch": "/////", "lw": 0.3}
