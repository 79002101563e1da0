"""Scores against the number of rules, a line for each model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modeval.errors import ScorecardError, SpecError
from modeval.metrics.table import METRICS, PAPER_METRICS
from modeval.report import scorecard_views
from modeval.report.paper.style import (
    CHANCE_LINES,
    Style,
    chosen,
    columns,
    grid,
    legend,
    line_style,
    name_panel,
)
from modeval.report.scorecard_views import ModelView
from modeval.report.words import is_trace
from modeval.score.scorecard import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLLAPSES = tuple(name for name in PAPER_METRICS if METRICS[name].tells == "load")
PAPER_DISTANCES = tuple(name for name in PAPER_METRICS if METRICS[name].tells != "load")


def collapse(entries: Sequence[ModelView], style: Style) -> "Figure":
    """Draw both scores of collapse."""
    for name in style.metrics:
        if name in METRICS and METRICS[name].tells != "load":
            raise SpecError(
                f"--metric {name} tells nothing of collapse. Use: modeval plot specialisation "
                f"--metric {name}"
            )
    return _against_rules(entries, style, COLLAPSES, "collapse")


def specialisation(entries: Sequence[ModelView], style: Style) -> "Figure":
    """Draw the scores that tell of rules."""
    usual = ("alignment_score", *PAPER_DISTANCES)
    return _against_rules(entries, style, usual, "specialisation")


def _against_rules(
    entries: Sequence[ModelView], style: Style, usual: Sequence[str], kind: str
) -> "Figure":
    trained = [view for view in entries if not is_trace(view.record)]
    if not trained:
        raise ScorecardError(
            f"{kind} is drawn against the number of rules, of trained cohorts; these scorecards "
            "are of recorded traces. Use: modeval plot layers"
        )
    counts = {int(view.record.data["rules"]) for view in trained}
    if len(counts) < 2:  # noqa: PLR2004 - one number is no axis
        raise ScorecardError(
            f"{kind} is drawn against the number of rules, and these scorecards have one "
            f"({counts.pop()}). Give scorecards of others too, or use: modeval plot ranking"
        )
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    metrics = chosen(trained, style, usual)
    figure, panels, spare = grid(len(metrics), style, 1.75)
    across = min(len(metrics), columns(style))
    handles: dict[str, Any] = {}
    bands: dict[str, Any] = {}
    names = sorted({view.name for view in trained})
    for panel, metric in zip(panels, metrics, strict=True):
        lines = scorecard_views.against_rules(trained, metric)
        for name, line in lines.items():
            _rule_line(panel, name, line, names.index(name), (handles, bands))
        _rule_chance(panel, lines, bands)
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted(counts), [str(count) for count in sorted(counts)])
        panel.minorticks_off()
        panel.yaxis.set_major_locator(MaxNLocator(5))
        panel.set_xlabel("rules")
        name_panel(panel, metric, trained, style.width / across)
    legend(figure, handles | bands, style, spare)
    return figure


def _rule_line(
    panel: "Axes",
    name: str,
    line: Sequence[tuple[int, Score]],
    index: int,
    keys: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    handles, bands = keys
    rules = [count for count, _ in line]
    look = line_style(index)
    handles[name] = panel.plot(rules, [score.value or 0.0 for _, score in line], **look)[0]
    banded = [(count, s.low, s.high) for count, s in line if s.low is not None]
    if banded:
        xs, lows, highs = zip(*banded, strict=True)
        panel.fill_between(xs, lows, highs, color=look["color"], alpha=0.2, lw=0)
        seeds = {score.seeds for _, score in line}
        over = f"{seeds.pop()} seeds" if len(seeds) == 1 else "seeds"
        bands[f"95 % interval over {over}"] = panel.fill_between([], [], color="#BBBBBB", lw=0)


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
