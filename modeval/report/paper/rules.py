"""Scores and losses against the number of rules, a line for each model, a panel for each family."""

from collections.abc import Callable, Sequence
from operator import attrgetter

from modeval.errors import ScorecardError, SpecError
from modeval.metrics.table import METRICS, PAPER_METRICS
from modeval.report.paper.charts import Chart, Line, Point, by_paper
from modeval.report.paper.families import Family, families
from modeval.report.paper.style import CHANCE_LINES, Style, chosen
from modeval.report.scorecard_views import ModelView
from modeval.report.words import count, is_trace, metric_title
from modeval.score.scorecard import Score

COLLAPSES = tuple(name for name in PAPER_METRICS if METRICS[name].tells == "load")
PAPER_DISTANCES = tuple(name for name in PAPER_METRICS if METRICS[name].tells != "load")
LOSSES = ("in_distribution_loss", "out_of_distribution_loss")
ADAPTATION = tuple(name for name in METRICS if name.startswith("adaptation"))

Lines = dict[str, list[tuple[int, Score]]]


def losses(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return the losses in and out of distribution."""
    return _against_rules(entries, style, LOSSES, "losses")


def collapse(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return both scores of collapse."""
    for name in style.metrics:
        if name in METRICS and METRICS[name].tells != "load":
            raise SpecError(
                f"--metric {name} tells nothing of collapse. Use: modeval plot specialisation "
                f"--metric {name}"
            )
    return _against_rules(entries, style, COLLAPSES, "collapse")


def specialisation(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return the scores that tell of rules."""
    usual = ("alignment_score", *PAPER_DISTANCES)
    return _against_rules(entries, style, usual, "specialisation")


def adaptation(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return how well routing follows other distributions of rules."""
    return _against_rules(entries, style, ADAPTATION, "adaptation")


def end_to_end(entries: Sequence[ModelView], style: Style) -> list[Chart]:
    """Return how far training end to end gets from uniform routing: the paper's scores less its."""
    return _against_rules(entries, style, PAPER_METRICS, "end-to-end", beyond_chance=True)


def _against_rules(
    entries: Sequence[ModelView],
    style: Style,
    usual: Sequence[str],
    kind: str,
    *,
    beyond_chance: bool = False,
) -> list[Chart]:
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
    metrics = chosen(trained, style, usual)
    every = [family for family in families(trained) if len(family.rules) > 1]
    if not every:
        raise ScorecardError(
            f"{kind} is drawn against the number of rules, and no task of these scorecards was "
            "trained with two of them. Give scorecards of others too, or use: modeval plot ranking"
        )
    make = _beyond_chance if beyond_chance else _plain
    found = [chart for metric in metrics for family in every for chart in make(family, metric)]
    if not found:
        raise ScorecardError(
            f"{kind}: no model has a level of uniform routing for {', '.join(metrics)}. Use: "
            "modeval plot ranking"
        )
    return found


def _plain(family: Family, metric: str) -> list[Chart]:
    lines = family.lines(metric)
    if not lines:
        return []
    references = [
        Line(name=name, points=tuple(points))
        for name, field, _ in CHANCE_LINES
        if (points := _shared(lines, attrgetter(field)))
    ]
    drawn = [_line(name, lines[name], lambda _score: 0.0) for name in by_paper([*lines])]
    return [_chart(family, metric, [*drawn, *references], lines)]


def _beyond_chance(family: Family, metric: str) -> list[Chart]:
    """Return scores less those of uniform routing, of the models that have modules to choose."""
    lines = {
        name: [(rules, score) for rules, score in line if score.chance is not None]
        for name, line in family.lines(metric).items()
    }
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return []
    drawn = [
        _line(name, lines[name], lambda score: score.chance or 0.0) for name in by_paper([*lines])
    ]
    rules = sorted({rules for line in lines.values() for rules, _ in line})
    level = Line(name="uniform routing", points=tuple(Point(x=r, value=0.0) for r in rules))
    hashed = _shared(
        lines,
        lambda score: (
            None if score.chance_hash is None else score.chance_hash - (score.chance or 0.0)
        ),
    )
    references = [level, Line(name="hashed routing", points=tuple(hashed))] if hashed else [level]
    return [_chart(family, metric, [*drawn, *references], lines, y="minus uniform routing")]


def _chart(family: Family, metric: str, drawn: Sequence[Line], lines: Lines, y: str = "") -> Chart:
    better = next(score.better for line in lines.values() for _, score in line)
    arrow = {"lower": "\N{NO-BREAK SPACE}↓", "higher": "\N{NO-BREAK SPACE}↑", None: ""}[better]
    title = f"{metric_title(metric)}{arrow}"
    loss = METRICS.get(metric) is None
    return Chart(
        title=f"{title}\n{family.title}" if family.title else title,
        x="rules",
        y=y,
        lines=tuple(drawn),
        scale="both" if loss else "rules",
    )


def _line(name: str, line: Sequence[tuple[int, Score]], level: Callable[[Score], float]) -> Line:
    points = tuple(
        Point(
            x=rules,
            value=(score.value or 0.0) - level(score),
            low=None if score.low is None else score.low - level(score),
            high=None if score.high is None else score.high - level(score),
        )
        for rules, score in line
    )
    seeds = {score.seeds for _, score in line if score.low is not None}
    return Line(name=name, points=points, of=_of(seeds))


def _of(seeds: set[int]) -> str:
    if not seeds:
        return ""
    return count(next(iter(seeds)), "seed") if len(seeds) == 1 else "seeds"


def _shared(lines: Lines, level: Callable[[Score], float | None]) -> list[Point]:
    """Return a level of chance by number of rules, where all models share it."""
    levels: dict[int, set[float]] = {}
    for line in lines.values():
        for rules, score in line:
            found = level(score)
            if found is not None:
                levels.setdefault(rules, set()).add(found)
    return [
        Point(x=rules, value=found.pop())
        for rules, found in sorted(levels.items())
        if len(found) == 1
    ]
