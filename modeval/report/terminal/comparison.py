"""Comparisons for the terminal and as JSON: the headline first, then numbers side by side."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from modeval.metrics.table import METRICS, metric_of
from modeval.report.changes import READINGS, Verdict, change, reading
from modeval.report.terminal.courses import course_grid
from modeval.report.terminal.findings import advice_lines
from modeval.report.terminal.grid import Column as Cells
from modeval.report.terminal.grid import Grid, Prose
from modeval.report.words import (
    count,
    is_trace,
    measured,
    metric_title,
    number,
    span,
    task,
    vocabulary,
)
from modeval.score.comparison.compare import Agreement, Column, Comparison, Lineage, Row, Saturation
from modeval.score.scorecard import Score
from modeval.text import for_json

FORMAT = 1
BARS = "▁▂▃▄▅▆▇█"
MANY = 3
"""Columns from which on the terminal shows the first, the last, and the course between them."""
SIDE_BY_SIDE = 4
"""Models of one scorecard that fit beside each other."""
STYLES: dict[Verdict, str] = {"better": "green", "worse": "red", "changed": "yellow"}


def render_comparison(
    comparison: Comparison, *, metrics: Sequence[str] | None = None
) -> list[RenderableType]:
    """Return everything that the terminal shows of a comparison, in order.

    Args:
        comparison: what was compared.
        metrics: metrics to show; the usual ones when absent.
    """
    shown: list[RenderableType] = []
    for lineage in comparison.lineages:
        shown += _lineage(lineage, metrics or compared(lineage))
    shown += [Prose(note, head=len(note), style="yellow") for note in comparison.notes]
    level = f"{comparison.level:.0%}".replace("%", " %")
    shown.append(
        Prose(
            f"In square brackets: {level} intervals, of one row at a time. Better and worse are "
            "said where a difference is clear of noise after correction for the number of rows "
            "(Holm). ↓ lower is better, ↑ higher.",
            dim=True,
        )
    )
    return shown


def compared(lineage: Lineage) -> list[str]:
    """Return the metrics of a comparison that are shown unless others are asked for, in order."""
    there = dict.fromkeys(row.metric for row in lineage.rows)
    rows = [row for name in there if (row := metric_of(name)) is not None]
    return [row.name for row in rows if "comparison" in row.shown]


def summary_rows(lineage: Lineage, metrics: Sequence[str]) -> list[Row]:
    """Return the rows that sum models up: layers one by one are for the JSON."""
    layered = len(lineage.columns[0].model.layers) > 1
    return [
        row
        for row in lineage.rows
        if row.metric in metrics and (row.over or not layered or row.layer is None)
    ]


def _lineage(lineage: Lineage, metrics: Sequence[str]) -> list[RenderableType]:
    columns = lineage.columns
    rows = summary_rows(lineage, metrics)
    one_source = len({column.source for column in columns}) == 1
    abreast = one_source and len(columns) <= SIDE_BY_SIDE
    draw = _models if abreast else _course if len(columns) >= MANY else _pair
    title = columns[0].model.title if not one_source else ", ".join(c.label for c in columns)
    shown: list[RenderableType] = [Prose(title, head=len(title))]
    if abreast:
        shown += [Prose(f"{label}: {said}.") for label, said in change(lineage, rows).findings]
    else:
        shown += _news(lineage, rows)
    shown += [Text(""), draw(lineage, rows), Text("")]
    shown += [part for course in lineage.courses for part in course_grid(lineage, course)]
    shown += [Prose(text) for text in _agreement_words(lineage)]
    shown += [Prose(text) for text in _saturation_words(lineage)]
    shown += [Prose(note, head=len(note), style="yellow") for note in lineage.notes]
    shown += [Prose(f"{column.label} = {_in_short(column)}", dim=True) for column in columns]
    return [*shown, Text("")]


def _news(lineage: Lineage, rows: Sequence[Row]) -> list[RenderableType]:
    """Return the headline, the findings before and after, and what to do."""
    found = change(lineage, rows)
    style = "bold red" if found.grave else "bold"
    shown: list[RenderableType] = [
        Prose(f"{found.headline}. {found.told}".rstrip(), head=len(found.headline), style=style)
    ]
    shown += [Prose(f"{label}: {said}.", indent="  ") for label, said in found.findings]
    shown.append(Prose(f"{found.counted[:1].upper()}{found.counted[1:]}."))
    return [*shown, *advice_lines(found.advice[:1])]


def _in_short(column: Column) -> str:
    """Say what a column is of: task, sizes, and the digest that tells it from others."""
    model = column.model
    tokens = model.data.get("tokens")
    known = vocabulary(model)
    parts = [
        "" if is_trace(model) else task(model),
        count(len(model.rules), known.rule) if is_trace(model) and model.rules else "",
        count(len(model.layers), "layer") if len(model.layers) > 1 else "",
        count(model.modules, known.module),
        count(int(tokens), "token") if tokens else count(len(model.members), "seed"),
        f"digest {model.shown_digest}",
    ]
    return " · ".join(filter(None, parts))


# --- tables --------------------------------------------------------------------------------------


def _models(lineage: Lineage, rows: Sequence[Row]) -> Grid:
    """Return models of one scorecard side by side, differences with the first under each."""
    columns = []
    for index, column in enumerate(lineage.columns):
        cells = []
        for row in rows:
            cell = _cell(row.scores[index])
            if index and row.contrasts[index] is not None:
                cell.append("\n").append(_change(lineage, row, index))
            cells.append(cell)
        columns.append(Cells(column.label, tuple(cells)))
    return Grid((_titles(lineage, rows), *columns))


def _pair(lineage: Lineage, rows: Sequence[Row]) -> Grid:
    columns = [
        Cells(column.label, tuple(_cell(row.scores[index]) for row in rows))
        for index, column in enumerate(lineage.columns)
    ]
    last = len(lineage.columns) - 1
    differences = Cells("difference", tuple(_difference(lineage, row, last) for row in rows))
    return Grid((_titles(lineage, rows), *columns, differences))


def _course(lineage: Lineage, rows: Sequence[Row]) -> Grid:
    first, last = lineage.columns[0], lineage.columns[-1]
    index = len(lineage.columns) - 1
    lines = tuple(
        sparkline([None if score is None else score.value for score in row.scores]) for row in rows
    )
    return Grid(
        (
            _titles(lineage, rows),
            Cells(first.label, tuple(_cell(row.scores[0]) for row in rows)),
            Cells(f"course of {len(lineage.columns)}", lines, right=False),
            Cells(last.label, tuple(_cell(row.scores[-1]) for row in rows)),
            Cells("last less first", tuple(_difference(lineage, row, index) for row in rows)),
        )
    )


def _titles(lineage: Lineage, rows: Sequence[Row]) -> Cells:
    known = vocabulary(lineage.columns[0].model)
    titles = []
    for row in rows:
        arrow = {"lower": " ↓", "higher": " ↑"}.get(row.better or "", "")
        over = f", {row.over}" if row.over else ""
        title = known.spoken(metric_title(row.metric))
        titles.append(f"{title}{over}{arrow}")
    heading = "over layers" if len(lineage.columns[0].model.layers) > 1 else ""
    return Cells(heading, tuple(titles), right=False)


def _cell(score: Score | None) -> Text:
    """Write a value, its interval, and what permuted labels give where that is known."""
    if score is None or score.value is None:
        return Text("-", style="dim")
    text = Text(number(score.value))
    ends = span(score.low, score.high)
    if ends:
        text.append(f"\n{ends}", style="dim")
    metric = METRICS.get(score.metric)
    if score.chance_permuted is not None and metric is not None and metric.tested:
        text.append(f"\nchance {number(score.chance_permuted)}", style="dim")
    return text


def _difference(lineage: Lineage, row: Row, index: int) -> Text:
    """Write a difference, its interval, and what it is worth."""
    contrast = row.contrasts[index]
    said = reading(lineage, row, index)
    if contrast is None or said is None:
        return Text("-", style="dim")
    style = STYLES.get(said, "")
    text = Text(_signed(contrast.value), style=style)
    ends = span(contrast.low, contrast.high)
    if ends:
        text.append(f"\n{ends}", style="dim")
    seeds = {score.seeds for score in (row.scores[0], row.scores[index]) if score is not None}
    if contrast.pairing == "seeds" and seeds != {contrast.pairs}:
        text.append(f"\n{contrast.pairs} common seeds", style="dim")
    return text.append(f"\n{READINGS[said]}", style=style or "dim")


def _change(lineage: Lineage, row: Row, index: int) -> Text:
    contrast = row.contrasts[index]
    said = reading(lineage, row, index)
    if contrast is None or said is None:
        return Text("")
    return Text(f"{_signed(contrast.value)}\n{READINGS[said]}", style=STYLES.get(said, "dim"))


def _signed(value: float) -> str:
    return number(value) if value <= 0 else f"+{number(value)}"


def sparkline(values: Sequence[float | None]) -> str:
    """Draw the course of a number: the lowest as the lowest bar, the highest as the highest.

    >>> sparkline([0.0, 0.5, None, 1.0]), sparkline([0.3, 0.3])
    ('▁▅ █', '▁▁')
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, room = min(known), max(known) - min(known)
    top = len(BARS) - 1
    return "".join(
        " " if value is None else BARS[round((value - low) / room * top) if room else 0]
        for value in values
    )


def _agreement_words(lineage: Lineage) -> list[str]:
    """Say how far matched modules agree: the layers where they do least, and the mean."""
    words = []
    known = vocabulary(lineage.columns[0].model)
    for index, column in enumerate(lineage.columns):
        agreements = [each for each in lineage.agreements if each.column == index]
        if not agreements:
            continue
        mean = sum(each.value for each in agreements) / len(agreements)
        chance = sum(each.chance for each in agreements) / len(agreements)
        text = (
            f"{known.modules.capitalize()} of {column.label} matched with those of "
            f"{lineage.columns[0].label}: "
            f"{mean:.1%} of the routing goes the same way{_pairs(agreements[0])}, "
            f"{chance:.1%} when {known.rules} are exchanged at random"
        )
        numbered = [each.by_number for each in agreements if each.by_number is not None]
        if len(numbered) == len(agreements):
            text += f"; {sum(numbered) / len(numbered):.1%} by {known.module} numbers"
        words.append(f"{text}.{_least(lineage, agreements)}")
    return words


def _pairs(agreement: Agreement) -> str:
    if agreement.low is None or agreement.high is None:
        return ""
    return f" [{agreement.low:.1%}, {agreement.high:.1%}] over {agreement.pairs} pairs of seeds"


def _least(lineage: Lineage, found: Sequence[Agreement | Saturation]) -> str:
    if len(found) == 1:
        return ""
    value, layer = min((each.value, each.layer or 0) for each in found)
    name = lineage.columns[0].model.layers[layer]
    return f" Least: {value:.1%} in layer {layer} ({name})."


def _saturation_words(lineage: Lineage) -> list[str]:
    words = []
    last = lineage.columns[-1].label
    for column, saturations in zip(lineage.columns, lineage.saturations, strict=False):
        if saturations:
            mean = sum(each.value for each in saturations) / len(saturations)
            chance = sum(each.chance for each in saturations) / len(saturations)
            interval = ""
            if (
                len(saturations) == 1
                and saturations[0].low is not None
                and saturations[0].high is not None
            ):
                interval = f" [{saturations[0].low:.1%}, {saturations[0].high:.1%}]"
            words.append(
                f"Saturation: {mean:.1%}{interval} of the choices of {last} are those of "
                f"{column.label} already, on {saturations[0].tokens:,} tokens; {chance:.1%} by "
                f"chance (K/M).{_least(lineage, saturations)}"
            )
    return words


# --- JSON ----------------------------------------------------------------------------------------


def comparison_form(comparison: Comparison) -> dict[str, Any]:
    """Return the JSON form: every metric at every layer, contrasts with the first column."""
    return {
        "format": FORMAT,
        "modeval": version("modeval-cli"),
        "level": comparison.level,
        "notes": list(comparison.notes),
        "lineages": [_lineage_form(lineage) for lineage in comparison.lineages],
    }


def _lineage_form(lineage: Lineage) -> dict[str, Any]:
    return {
        "columns": [
            {
                "label": column.label,
                "source": column.source,
                "model": column.model.id,
                "title": column.model.title,
                "digest": column.model.shown_digest,
                "layers": list(column.model.layers),
                "measured": dict(measured(column.card, column.model)),
            }
            for column in lineage.columns
        ],
        "headline": change(lineage, summary_rows(lineage, compared(lineage))).headline,
        "rows": [_row_form(lineage, row) for row in lineage.rows],
        "agreements": [asdict(agreement) for agreement in lineage.agreements],
        "courses": [asdict(course) for course in lineage.courses],
        "saturations": [
            [asdict(each) for each in saturations] for saturations in lineage.saturations
        ],
        "notes": list(lineage.notes),
    }


def _row_form(lineage: Lineage, row: Row) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "better": row.better,
        "layer": row.layer,
        "over": row.over,
        "values": [
            None
            if score is None
            else {
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "chance": score.chance,
                "chance_hash": score.chance_hash,
                "layer": score.layer,
            }
            for score in row.scores
        ],
        "contrasts": [
            None
            if contrast is None
            else {**asdict(contrast), "worth": reading(lineage, row, index)}
            for index, contrast in enumerate(row.contrasts)
        ],
    }


def render_comparison_json(comparison: Comparison) -> str:
    """Return the text of the file."""
    form = comparison_form(comparison)
    return for_json(json.dumps(form, indent=1, allow_nan=False, ensure_ascii=False)) + "\n"
