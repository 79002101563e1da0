"""Comparisons for the terminal and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeval.gate.verdicts import figure
from modeval.report.verdicts import in_short
from modeval.report.words import measured, metric_title
from modeval.score.compare import Agreement, Column, Comparison, Contrast, Lineage, Row
from modeval.score.saturation import Saturation
from modeval.score.scorecard import LOSS_TITLES, Score

FORMAT = 1
SHOWN = (
    "collapse_avg",
    "collapse_worst",
    "alignment_distance",
    "alignment_score",
    "inverse_mutual_information",
    "mutual_information",
    "adaptation_distance",
    "v_measure",
    "dead_fraction",
    "effective_share",
    *LOSS_TITLES,
)
"""Metrics that the terminal shows unless it is asked for all."""
BARS = "▁▂▃▄▅▆▇█"
MANY = 3
"""Columns from which on the terminal shows the first, the last, and the course between them."""
SIDE_BY_SIDE = 4
"""Models of one scorecard that fit beside each other."""
STYLES = {"better": "green", "worse": "red", "changed": "yellow"}


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
        shown += _lineage(lineage, metrics or SHOWN)
    shown += [Text(note, style="yellow") for note in comparison.notes]
    shown.append(
        Text(
            f"Intervals are at {comparison.level:.0%} for one row at a time: of twenty rows without"
            " any difference one looks like a difference. ↓ lower is better, ↑ higher.",
            style="dim",
        )
    )
    return shown


def _lineage(lineage: Lineage, metrics: Sequence[str]) -> list[RenderableType]:
    columns = lineage.columns
    rows = [row for row in lineage.rows if row.metric in metrics and _summary(row, columns)]
    draw = _models if _one_source(columns) else _course if len(columns) >= MANY else _pair
    table = draw(lineage, rows)
    shown: list[RenderableType] = [Text(columns[0].model.title, style="bold"), table]
    shown += [Text(text) for text in _agreement_words(lineage)]
    shown += [Text(text) for text in _saturation_words(lineage)]
    shown += [Text(note, style="yellow") for note in lineage.notes]
    shown += [
        Text(f"{column.label} = {in_short(column.card, column.model)}", style="dim")
        for column in columns
    ]
    return [*shown, Text("")]


def _summary(row: Row, columns: Sequence[Column]) -> bool:
    """Tell whether a row sums a model up: layers one by one are for the JSON."""
    return row.over is not None or len(columns[0].model.layers) < 2  # noqa: PLR2004


def _one_source(columns: Sequence[Column]) -> bool:
    """Tell whether the columns are different models of one scorecard, which have no course."""
    return len({column.source for column in columns}) == 1 and len(columns) <= SIDE_BY_SIDE


def _models(lineage: Lineage, rows: Sequence[Row]) -> Table:
    table = _table(lineage)
    for column in lineage.columns:
        table.add_column(Text(column.label), justify="right", overflow="fold")
    for row in rows:
        cells = [_cell(score) for score in row.scores]
        for cell, contrast in zip(cells, row.contrasts, strict=True):
            if contrast is not None:
                cell.append("\n").append(_change(contrast))
        table.add_row(_title(row), *cells)
    return table


def _pair(lineage: Lineage, rows: Sequence[Row]) -> Table:
    table = _table(lineage)
    for column in lineage.columns:
        table.add_column(Text(column.label), justify="right", overflow="fold")
    table.add_column("difference", justify="right")
    for row in rows:
        table.add_row(
            _title(row), *(_cell(score) for score in row.scores), _difference(row.contrasts[-1])
        )
    return table


def _course(lineage: Lineage, rows: Sequence[Row]) -> Table:
    first, last = lineage.columns[0], lineage.columns[-1]
    table = _table(lineage)
    table.add_column(Text(first.label), justify="right", overflow="fold")
    table.add_column(f"course of {len(lineage.columns)}")
    table.add_column(Text(last.label), justify="right", overflow="fold")
    table.add_column("last less first", justify="right")
    for row in rows:
        table.add_row(
            _title(row),
            _cell(row.scores[0]),
            sparkline([None if score is None else score.value for score in row.scores]),
            _cell(row.scores[-1]),
            _difference(row.contrasts[-1]),
        )
    return table


def _table(lineage: Lineage) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("layers" if len(lineage.columns[0].model.layers) > 1 else "")
    return table


def _title(row: Row) -> str:
    arrow = {"lower": " ↓", "higher": " ↑"}.get(row.better or "", "")
    return metric_title(row.metric) + (f", {row.over}" if row.over else "") + arrow


def _cell(score: Score | None) -> Text:
    if score is None or score.value is None:
        return Text("-", style="dim")
    text = Text(figure(score.value))
    if score.low is not None and score.high is not None:
        text.append(f"\n{figure(score.low)} {figure(score.high)}", style="dim")
    return text


def _difference(contrast: Contrast | None) -> Text:
    if contrast is None:
        return Text("-", style="dim")
    text = _change(contrast)
    if contrast.low is not None and contrast.high is not None:
        text.append(f"\n{contrast.low:+.4g} {contrast.high:+.4g}", style="dim")
    return text


def _change(contrast: Contrast) -> Text:
    text = "same" if contrast.value == 0 else f"{contrast.value:+.4g} {contrast.reading}"
    return Text(text, style=STYLES.get(contrast.reading, ""))


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
    for place, column in enumerate(lineage.columns):
        found = [each for each in lineage.agreements if each.column == place]
        if not found:
            continue
        mean = sum(each.value for each in found) / len(found)
        chance = sum(each.chance for each in found) / len(found)
        text = (
            f"Modules of {column.label} matched with those of {lineage.columns[0].label}: "
            f"{mean:.1%} of the routing goes the same way{_pairs(found[0])}, {chance:.1%} when "
            "rules are exchanged at random"
        )
        numbered = [each.by_number for each in found if each.by_number is not None]
        if len(numbered) == len(found):
            text += f"; {sum(numbered) / len(numbered):.1%} by module numbers"
        words.append(f"{text}.{_least(lineage, found)}")
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
    for column, found in zip(lineage.columns, lineage.saturations, strict=False):
        if found:
            mean = sum(each.value for each in found) / len(found)
            chance = sum(each.chance for each in found) / len(found)
            interval = ""
            if len(found) == 1 and found[0].low is not None and found[0].high is not None:
                interval = f" [{found[0].low:.1%}, {found[0].high:.1%}]"
            words.append(
                f"Saturation: {mean:.1%}{interval} of the choices of {last} are those of "
                f"{column.label} already, on {found[0].tokens:,} tokens; {chance:.1%} by chance "
                f"(K/M).{_least(lineage, found)}"
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
                "digest": column.model.digest,
                "layers": list(column.model.layers),
                "measured": dict(measured(column.card, column.model)),
            }
            for column in lineage.columns
        ],
        "rows": [_row_form(row) for row in lineage.rows],
        "agreements": [asdict(agreement) for agreement in lineage.agreements],
        "saturations": [[asdict(each) for each in found] for found in lineage.saturations],
        "notes": list(lineage.notes),
    }


def _row_form(row: Row) -> dict[str, Any]:
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
        "contrasts": [None if contrast is None else asdict(contrast) for contrast in row.contrasts],
    }


def render_comparison_json(comparison: Comparison) -> str:
    """Return the text of the file."""
    form = comparison_form(comparison)
    return json.dumps(form, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
