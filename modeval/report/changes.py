"""What changed between models, in words: the headline of a comparison, and what may be compared.

A router that collapses makes modules look aligned: load alone tells labels apart a little, by
chance as well. So where a model is collapsed, or where neither of two is beyond chance, a
difference of what modules tell of the rules is no news, however sure it is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modeval.metrics.table import metric_of
from modeval.report import scorecard_views
from modeval.report.brief import CHECK, MEANINGS, brief, findings
from modeval.report.scorecard_views import ModelView
from modeval.report.words import count, is_trace, percent, vocabulary
from modeval.score.comparison.compare import Column, Lineage, Row
from modeval.score.scorecard import Score

Verdict = Literal["better", "worse", "changed", "unclear", "same", "skewed", "chance"]
READINGS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "changed": "changed",
    "unclear": "may be noise",
    "same": "same",
    "skewed": "load is skewed",
    "chance": "both as by chance",
}
"""What is said of a difference."""
OF_RULES = ("specialisation", "information")
"""Kinds of metrics that tell of rules."""
TOLD = "homogeneity"
WORTH: dict[Verdict, str] = {
    "better": "more than noise",
    "worse": "less, beyond noise",
    "changed": "beyond noise",
    "unclear": "it may be noise",
    "same": "the same",
    "skewed": "load is too skewed to compare",
    "chance": "both as by chance",
}
"""What is said of a difference in how much is told."""
SEE_WHICH = "See which experts it is: modeval report {source}"
MORE_TEXT = (
    "Record more documents of each {rule} with both models: intervals shrink with their number."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a comparison comes to.

    Attributes:
        headline: in a sentence.
        told: how much experts tell of the domain, after and before; empty where it is not known.
        grave: whether it is bad news.
        findings: what came out for each column: its label and the words.
        counted: how many scores are better and how many worse.
        advice: what to do next.
    """

    headline: str
    told: str
    grave: bool
    findings: tuple[tuple[str, str], ...]
    counted: str
    advice: tuple[str, ...]


def entry_of(column: Column) -> ModelView:
    """Return a column as a model to report on."""
    return ModelView(
        card=column.card,
        record=column.model,
        name=column.label,
        anchor="",
        source=column.source,
    )


def change(lineage: Lineage, rows: Sequence[Row]) -> Change:
    """Say what a comparison comes to: of the last column with the first.

    Args:
        lineage: the models.
        rows: the rows that are shown.
    """
    entries = [entry_of(column) for column in lineage.columns]
    first, last = entries[0], entries[-1]
    before, after = findings(first), findings(last)
    headline = _headline(last, before, after)
    worse = "collapsed" in after
    return Change(
        headline=headline,
        told=_told(lineage),
        grave=worse,
        findings=tuple(
            (view.name, brief(view).verdict)
            for view in entries
            if findings(view) or not is_trace(view.record)
        ),
        counted=_counted(lineage, rows),
        advice=_advice(last, after, lineage, rows) if after else (),
    )


def _headline(last: ModelView, before: Sequence[str], after: Sequence[str]) -> str:
    noun = "layer" if is_trace(last.record) else "seed"
    was, now = before.count("collapsed"), after.count("collapsed")
    if now:
        earlier = f" (before: in {was} of {len(before)})" if before else ""
        return (
            f"Collapsed in {now} of {count(len(after), noun)}{earlier}; specialisation cannot be "
            "compared while load is so skewed"
        )
    if was:
        return (
            f"No longer collapsed (before: in {was} of {count(len(before), noun)}); "
            "specialisation cannot be compared with a model whose load is so skewed"
        )
    if not before or not after:
        return "Losses alone can be compared: there is no routing to judge"
    if Counter(before) == Counter(after):
        return f"No {noun} changed its finding: {_verdict(last).lower()} as before"
    moved = ", ".join(
        f"{MEANINGS[word][0].lower()} in {after.count(word)} (before {before.count(word)})"
        for word in dict.fromkeys((*after, *before))
        if after.count(word) != before.count(word)
    )
    return f"Of {count(len(after), noun)}: {moved}"


def _told(lineage: Lineage) -> str:
    """Say how much experts tell of the domain after and before; empty where load forbids it."""
    first, last = entry_of(lineage.columns[0]), entry_of(lineage.columns[-1])
    if not is_trace(last.record) or "collapsed" in (*findings(first), *findings(last)):
        return ""
    before, after = (scorecard_views.overall(view, TOLD) for view in (first, last))
    if before is None or after is None or before.value is None or after.value is None:
        return ""
    words = vocabulary(last.record)
    said = _reading_of_told(lineage)
    worth = "" if said is None else f": {WORTH[said]}"
    return (
        f"The {words.module} now tells {percent(after.value)} of what could be known of the "
        f"{words.rule}, before {percent(before.value)}{worth}."
    )


def _reading_of_told(lineage: Lineage) -> Verdict | None:
    layered = len(lineage.columns[0].model.layers) > 1
    over = "mean" if layered else None
    rows = [row for row in lineage.rows if row.metric == TOLD and row.over == over]
    return reading(lineage, rows[0], len(lineage.columns) - 1) if rows else None


def _advice(
    last: ModelView, after: Sequence[str], lineage: Lineage, rows: Sequence[Row]
) -> tuple[str, ...]:
    """Return what to do next: who is told what changed need not compare once more."""
    if "collapsed" in after or not is_trace(last.record):
        return brief(last).advice
    words = vocabulary(last.record)
    if any(reading(lineage, row, len(lineage.columns) - 1) == "better" for row in rows):
        look = SEE_WHICH.format(source=last.source or "AFTER.json")
        return (look, CHECK.format(module=words.module, modules=words.modules))
    return (MORE_TEXT.format(rule=words.rule),)


def _verdict(view: ModelView) -> str:
    return brief(view).verdict


def _counted(lineage: Lineage, rows: Sequence[Row]) -> str:
    readings = Counter(reading(lineage, row, len(lineage.columns) - 1) for row in rows)
    parts = [
        f"{count(readings[word], 'score')} {READINGS[word]}"
        for word in ("better", "worse", "changed")
        if readings[word]
    ]
    left = sum(readings[word] for word in ("skewed", "chance"))
    if left:
        parts.append(f"{left} not to be compared")
    return ", ".join(parts) or "no score differs by more than noise"


def reading(lineage: Lineage, row: Row, column: int) -> Verdict | None:
    """Say what a difference with the first column is worth; nothing where there is none."""
    contrast = row.contrasts[column]
    if contrast is None:
        return None
    said: Verdict = contrast.reading
    metric = metric_of(row.metric)
    if said not in ("better", "worse") or metric is None or metric.tells not in OF_RULES:
        return said
    pair = (lineage.columns[0], lineage.columns[column])
    if any("collapsed" in _findings_at(each, row.layer) for each in pair):
        return "skewed"
    scores = [row.scores[0], row.scores[column]]
    return "chance" if all(_by_chance(score) for score in scores) else said


def _findings_at(column: Column, layer: int | None) -> Sequence[str]:
    every = findings(entry_of(column))
    return every if layer is None or layer >= len(every) else every[layer : layer + 1]


def _by_chance(score: Score | None) -> bool:
    """Tell whether permuted labels do as well."""
    if score is None or score.value is None or score.null_low is None or score.null_high is None:
        return False
    return score.null_low <= score.value <= score.null_high
