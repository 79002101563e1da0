"""Tables of a report: the numbers behind the pictures, for reading and sorting."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modeval.metrics.table import METRICS, shown_in
from modeval.report.routing_views import Map, rule_names, tastes
from modeval.report.scorecard_views import (
    ModelView,
    against_rules,
    by_layer,
    by_seed,
    layer_names,
    metrics_of,
    overall,
    seed_name,
    worst,
)
from modeval.report.words import (
    Vocabulary,
    chance_name,
    interval,
    metric_title,
    number,
    percent,
    span,
    title_for,
    vocabulary,
)
from modeval.score.chosen import layer_findings
from modeval.score.scorecard import PhaseLosses, Score

ARROWS = {"lower": "lower is better", "higher": "higher is better", None: ""}
EMPHASIS = re.compile(r"\*(\w[^*]*)\*")
"""Stars around words, which a page does not read."""
STRONGEST = 5
"""Modules that are listed for each rule where a matrix is too large to be written out."""
WRITTEN_OUT = 16
"""Modules up to which it is written out."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a table.

    Attributes:
        text: what is read.
        key: what it is sorted by; nothing sorts last.
        ends: of its interval, where it has one.
    """

    text: str
    key: float | str | None = None
    ends: tuple[float, float] | None = None

    @property
    def numeric(self) -> bool:
        """Whether it is a number."""
        return isinstance(self.key, float)

    @property
    def long(self) -> bool:
        """Whether it is a text that needs several lines."""
        return len(self.text) > 40 and not self.numeric  # noqa: PLR2004 - characters of a line


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: what it shows.
        columns: titles.
        rows: cells.
        foot: rows that stay where they are, such as chance levels.
        sortable: whether another order of its rows makes sense.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()
    sortable: bool = True


def words(text: str) -> Cell:
    """Return a cell of text."""
    return Cell(text, text)


def value(amount: float | None, text: str | None = None) -> Cell:
    """Return a cell of a number; an empty one where there is none."""
    if amount is None:
        return Cell("", None)
    return Cell(number(amount) if text is None else text, float(amount))


def filled(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Return a table without the columns in which nothing stands."""
    listed = [tuple(row) for row in rows]
    kept = [
        index
        for index in range(len(columns))
        if index == 0 or any(row[index].text for row in listed)
    ]
    return Table(
        caption,
        tuple(columns[index] for index in kept),
        tuple(tuple(row[index] for index in kept) for row in listed),
    )


def scored(score: Score | None) -> Cell:
    """Return a cell of a score with its interval."""
    if score is None or score.value is None:
        return Cell("" if score is None else "failed")
    ends = None if score.low is None or score.high is None else (score.low, score.high)
    return Cell(interval(score), float(score.value), ends)


def _range(low: float | None, high: float | None) -> Cell:
    if low is None or high is None:
        return Cell("")
    return Cell(span(low, high), float(low), (low, high))


# --- scores --------------------------------------------------------------------------------------

UNIFORM = "uniform routing"
CHANCE_ROWS: dict[str, Callable[[Score], str]] = {
    UNIFORM: lambda s: "" if s.chance is None else number(s.chance),
    "hashed routing": lambda s: "" if s.chance_hash is None else number(s.chance_hash),
    "permuted labels": lambda s: _range(s.null_low, s.null_high).text,
}
SCORE_COLUMNS: dict[str, Callable[[Score], Cell]] = {
    "Value": lambda s: value(s.value) if s.value is not None else Cell("failed", None),
    "Interval": lambda s: _range(s.low, s.high),
    "Sampling error": lambda s: value(s.error),
    "Chance": lambda s: value(s.chance),
    "Hashed routing": lambda s: value(s.chance_hash),
    "Permuted labels": lambda s: _range(s.null_low, s.null_high),
    "p": lambda s: value(s.p_adjusted if s.p_adjusted is not None else s.p_value),
    "Better": lambda s: words(s.better or ""),
    "Seeds": lambda s: value(s.seeds, f"{s.seeds:,}"),
    "Samples": lambda s: value(s.samples, f"{s.samples:,}" if s.samples is not None else ""),
    "Note": lambda s: words(s.note),
}


SIGNS = {"lower": " ↓", "higher": " ↑", None: ""}
SPELT = {"lower": " (lower is better)", "higher": " (higher is better)", None: ""}


def glance_table(
    entries: Sequence[ModelView], caption: str, *, signs: Mapping[str | None, str] = SPELT
) -> Table:
    """Return the scores that matter most, models down, chance levels at the foot.

    Args:
        entries: models of one task.
        caption: over it.
        signs: how directions are written.
    """
    known = vocabulary(entries[0].record)
    metrics = [
        metric
        for metric in metrics_of(entries)
        if metric in shown_in("glance") and any(overall(view, metric) for view in entries)
    ]
    scores: list[tuple[str, list[Score | None]]] = []
    lowest: list[tuple[str, list[Score | None]]] = []
    for view in entries:
        scores.append((view.name, [overall(view, metric) for metric in metrics]))
        low = [worst(view, metric) for metric in metrics]
        if any(low):
            scores[-1] = (f"{view.name}, mean of layers", scores[-1][1])
            lowest.append((f"{view.name}, worst layer of each", low))
    rows = [(words(name), *(scored(s) for s in found)) for name, found in scores + lowest]
    titles = (
        known.spoken(metric_title(metric)) + signs[_better(entries, metric)] for metric in metrics
    )
    of_mean = ", mean of layers" if lowest else ""
    columns = list(zip(*(found for _, found in scores), strict=True))
    foot = [
        (
            words(_level_name(name, metrics) + of_mean),
            *(words(_common(column, level)) for column in columns),
        )
        for name, level in CHANCE_ROWS.items()
        if any(_common(column, level) for column in columns)
    ]
    return Table(caption, ("Model", *titles), tuple(rows), tuple(foot))


def _level_name(name: str, metrics: Sequence[str]) -> str:
    """Return the name of a chance level: that of uniform routing only beside scores of routing."""
    named = {chance_name(metric) for metric in metrics}
    return "chance" if name == UNIFORM and UNIFORM not in named else name


def _better(entries: Sequence[ModelView], metric: str) -> str | None:
    return next(score for view in entries if (score := overall(view, metric))).better


def _common(scores: Sequence[Score | None], level: Callable[[Score], str]) -> str:
    """Return the level of chance that all scores share."""
    found = {level(score) for score in scores if score} - {""}
    return found.pop() if len(found) == 1 else "varies" if found else ""


def scores_table(
    entries: Sequence[ModelView], caption: str, metrics: Sequence[str] | None = None
) -> Table:
    """Return the scores over seeds, or of the mean over layers and the worst layer."""
    rows = []
    for metric in metrics_of(entries) if metrics is None else metrics:
        for view in entries:
            for score in (overall(view, metric), worst(view, metric)):
                if score is not None:
                    where = _where(view, score)
                    cells = (read(score) for read in SCORE_COLUMNS.values())
                    rows.append(
                        (words(title_for(view.record, metric)), words(view.name), where, *cells)
                    )
    return filled(caption, ("Score", "Model", "Layer", *SCORE_COLUMNS), rows)


def _where(view: ModelView, score: Score) -> Cell:
    if score.over is None:
        return words("")
    if score.over == "mean" or score.layer is None:
        return words("mean of layers")
    return words(f"worst: {view.record.layers[score.layer]}")


def seeds_table(view: ModelView) -> Table | None:
    """Return every score of every seed; nothing for one seed."""
    wanted = shown_in("table")  # others are in the scorecard, and in report --format csv
    metrics = [m for m in metrics_of([view]) if m in wanted and by_seed(view, m)]
    seeds = [member.seed for member in view.record.members if member.seed is not None]
    if len(seeds) < 2 or not metrics:  # noqa: PLR2004 - one seed is in the table of scores
        return None
    found = {metric: dict(by_seed(view, metric)) for metric in metrics}
    rows = [
        (words(seed_name(seed)), *(value(found[metric].get(seed)) for metric in metrics))
        for seed in seeds
    ]
    titles = ("Seed", *(metric_title(metric) for metric in metrics))
    return filled(f"{view.name}, seed by seed", titles, rows)


def layers_table(view: ModelView, metrics: Sequence[str] | None = None) -> Table:
    """Return the scores of each layer."""
    record = view.record
    wanted = metrics_of([view]) if metrics is None else metrics
    metrics = [metric for metric in wanted if by_layer(view, metric)]
    found = {metric: {s.layer: s for s in by_layer(view, metric)} for metric in metrics}
    findings = [str(finding.word) for finding in layer_findings(view.card, record)]
    verdicts = findings if len(findings) == len(record.layers) else None
    p_of = {s.layer: s.p_adjusted for s in by_layer(view, "alignment_score")}
    rows = [
        (
            words(name),
            words(verdicts[layer] if verdicts else ""),
            value(float(record.layer_modules[layer]), f"{record.layer_modules[layer]:,}"),
            value(p_of.get(layer)),
            *(value(_value(found[metric].get(layer))) for metric in metrics),
        )
        for layer, name in enumerate(record.layers)
    ]
    modules = vocabulary(record).modules.capitalize()
    titles = ("Layer", "Finding", modules, "p of alignment, corrected")
    return filled(
        f"{view.name}, layer by layer", (*titles, *(title_for(record, m) for m in metrics)), rows
    )


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


# --- matrices ------------------------------------------------------------------------------------


def map_table(view: ModelView, shares: Map, title: str) -> Table:
    """Write out an activation matrix, or the strongest modules of each rule where it is large."""
    rules, modules = shares.matrix.shape
    names = rule_names(view.record, rules)
    if modules <= WRITTEN_OUT:
        columns = (
            [f"{vocabulary(view.record).module} {module}" for module in shares.modules]
            if shares.averaged == 1
            else [f"{index + 1}." for index in range(modules)]
        )
        rows = [
            (words(name), *(value(float(share)) for share in row))
            for name, row in zip(names, shares.matrix, strict=True)
        ]
        return Table(f"{title}: shares", ("Rule", *columns), tuple(rows))
    listed = []
    for name, row in zip(names, shares.matrix, strict=True):
        for index in np.argsort(-row, kind="stable")[:STRONGEST]:
            share = float(row[index])
            times = f"{share * modules:.1f}"
            listed.append(
                (
                    words(name),
                    value(float(shares.modules[index]), str(shares.modules[index])),
                    value(share),
                    value(share * modules, times),
                )
            )
    caption = f"{title}: the {STRONGEST} strongest modules of each rule"
    return Table(caption, ("Rule", "Module", "Share", "Times uniform"), tuple(listed))


# --- who does what -------------------------------------------------------------------------------


def tastes_table(view: ModelView, known: Vocabulary) -> Table:
    """Return which modules get most of each rule, layer by layer."""
    names, _ = layer_names(view.record.layers)
    layers: list[tuple[str, int | None]] = [("", None)]
    if view.layered:
        layers = [(name, layer) for layer, name in enumerate(names)]
    rows = []
    for name, layer in layers:
        for taste in tastes(view, layer, most=STRONGEST):
            listed = ", ".join(
                f"{module} ({percent(share)})"
                for module, share in zip(taste.modules, taste.shares, strict=True)
            )
            said = f"spread over many; most to {listed}" if taste.even else listed
            rows.append((words(taste.rule), words(name), words(said)))
    titles = (known.rule.capitalize(), "Layer", f"{known.modules.capitalize()} that get most of it")
    return filled(f"{known.modules.capitalize()} of each {known.rule}: {view.name}", titles, rows)


def rules_table(entries: Sequence[ModelView], metric: str) -> Table:
    """Return a score of each model against the number of rules."""
    lines = against_rules(entries, metric)
    counts = sorted({count for line in lines.values() for count, _ in line})
    rows = [
        (words(name), *(scored(dict(line).get(count)) for count in counts))
        for name, line in lines.items()
    ]
    columns = ("Model", *(f"{count} rules" for count in counts))
    return Table(metric_title(metric), columns, tuple(rows))


# --- meaning -------------------------------------------------------------------------------------


def course_table(view: ModelView, course: PhaseLosses) -> Table:
    """Return the loss on each rule at the start and after each phase of training."""
    names = rule_names(view.record, len(course.matrix[0]))
    rows = [
        (
            words(phase),
            words(", ".join(names[rule] for rule in drawn)),
            *(words("failed") if loss is None else value(loss) for loss in losses),
        )
        for phase, drawn, losses in zip(
            course.phases, ((), *course.drawn), course.matrix, strict=True
        )
    ]
    return filled(f"Loss by phase and rule: {view.name}", ("Phase", "Draws", *names), rows)


def meaning_table(metrics: Iterable[str]) -> Table:
    """Say what the metrics mean that occur in a report."""
    rows = []
    for name in metrics:
        if name in METRICS:
            metric = METRICS[name]
            better = "" if metric.better == "neither" else f"{metric.better} is better"
            question, formula = (EMPHASIS.sub(r"\1", t) for t in (metric.question, metric.formula))
            parts = (question, formula, better, metric.bounds.text, metric.ideal.text)
            rows.append(
                tuple(map(words, (metric.title, *parts, metric.chance.text, metric.source, name)))
            )
    titles = ("Score", "Question", "Formula", "Direction", "Range", "Ideal at M = R")
    return filled("What the scores mean", (*titles, "Chance", "Source", "Key"), rows)
