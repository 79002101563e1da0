"""Any table of a report as Markdown, CSV, LaTeX or JSON: to paste into a paper or to load."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from modeval.errors import ScorecardError, nearest
from modeval.report import routing_views, scorecard_views, tables
from modeval.report.brief import brief
from modeval.report.paper.families import families
from modeval.report.scorecard_views import ModelView, mean_course
from modeval.report.tables import Cell, Table
from modeval.report.words import vocabulary
from modeval.text import for_json, for_markdown, visible

# --- which table ---------------------------------------------------------------------------------


def findings_table(entries: Sequence[ModelView]) -> list[Table]:
    """Return what came out for each model, in words."""
    rows = [
        (tables.words(view.name), tables.words(found.verdict), tables.words(found.figures))
        for view in entries
        for found in (brief(view),)
    ]
    return [tables.filled("Findings", ("Model", "Finding", "Numbers"), rows)]


def glance_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return the scores that matter most, for each task the models."""
    return [
        tables.glance_table(group.entries, group.title, signs=tables.SIGNS)
        for group in scorecard_views.groups(entries)
    ]


def scores_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return every score over seeds or layers, with its interval and chance."""
    return [
        tables.scores_table(group.entries, group.title) for group in scorecard_views.groups(entries)
    ]


def layers_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return the scores of each layer."""
    return [tables.layers_table(view) for view in entries if view.layered]


def seeds_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return every score of every seed."""
    return [table for view in entries if (table := tables.seeds_table(view))]


def rules_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return the scores against the number of rules, one table for each score."""
    made = []
    for family in families(entries):
        of_family = [view for _, view in family.members]
        for metric in scorecard_views.metrics_of(of_family):
            table = tables.rules_table(of_family, metric)
            said = f"{table.caption}, {family.title}" if family.title else table.caption
            made.append(replace(table, caption=said))
    return [table for table in made if len(table.columns) > 2]  # noqa: PLR2004 - one is no course


def experts_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return which modules get most of each rule, layer by layer."""
    return [
        table
        for view in entries
        if (table := tables.tastes_table(view, vocabulary(view.record))).rows
    ]


def load_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return the share of the work of each module, layer by layer."""
    made = []
    for view in entries:
        names, _ = scorecard_views.layer_names(view.record.layers)
        layers = list(enumerate(names)) if view.layered else [(None, "")]
        rows = [
            (tables.words(name), tables.words(str(module)), tables.value(float(share)))
            for layer, name in layers
            for shares in routing_views.shares(view, layer)[:1]
            for module, share in enumerate(shares)
            if len(routing_views.shares(view, layer)) == 1
        ]
        if rows:
            title = vocabulary(view.record).module.capitalize()
            made.append(tables.filled(f"Load: {view.name}", ("Layer", title, "Share"), rows))
    return made


def course_tables(entries: Sequence[ModelView]) -> list[Table]:
    """Return the loss on each rule after each phase, of models trained in several."""
    return [
        tables.course_table(view, course)
        for view in entries
        if (course := mean_course(view)) is not None
    ]


TABLES: dict[str, Callable[[Sequence[ModelView]], list[Table]]] = {
    "glance": glance_tables,
    "findings": findings_table,
    "scores": scores_tables,
    "layers": layers_tables,
    "seeds": seeds_tables,
    "rules": rules_tables,
    "experts": experts_tables,
    "load": load_tables,
    "course": course_tables,
}
"""Tables by name."""


def tables_of(name: str, entries: Sequence[ModelView]) -> list[Table]:
    """Return a table of models, in parts where their tasks or layers differ.

    Raises:
        ScorecardError: there is no such table, or nothing to put into it.
    """
    if name not in TABLES:
        known = ", ".join(TABLES)
        raise ScorecardError(
            f"--table {name}: expected one of {known}{nearest(name, list(TABLES))}."
        )
    found = [table for table in TABLES[name](entries) if table.rows]
    if not found:
        raise ScorecardError(
            f"--table {name}: the scorecards hold nothing for it. Use --table glance, or one of "
            f"{', '.join(TABLES)}."
        )
    return found


# --- how it is written ---------------------------------------------------------------------------


def markdown(found: Sequence[Table]) -> str:
    """Write tables as GitHub's Markdown shows them, chance levels as last rows."""
    return "\n".join(_markdown(table) for table in found)


def _markdown(table: Table) -> str:
    numeric = [any(row[place].numeric for row in table.rows) for place in range(len(table.columns))]
    lines = [f"**{for_markdown(table.caption)}**", ""]
    lines.append(f"| {' | '.join(map(for_markdown, table.columns))} |")
    lines.append("|" + "|".join(" ---: " if each else " --- " for each in numeric) + "|")
    rows = (*table.rows, *table.foot)
    lines += [f"| {' | '.join(_marked(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _marked(cell: Cell) -> str:
    return cell.text if cell.numeric else for_markdown(cell.text)


def latex(found: Sequence[Table]) -> str:
    r"""Write tables with the rules of the package booktabs, which a paper must load.

    >>> table = Table("A_b", ("Model", "Loss"), ((Cell("M & N"), Cell("0.1", 0.1)),))
    >>> print(latex([table]))
    % needs \usepackage{booktabs}
    % A_b
    \begin{tabular}{lr}
    \toprule
    Model & Loss \\
    \midrule
    M \& N & 0.1 \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in found)


def _latex(table: Table) -> str:
    numeric = [any(row[place].numeric for row in table.rows) for place in range(len(table.columns))]
    form = "".join("r" if each else "l" for each in numeric)
    lines = [f"% {visible(table.caption)}", f"\\begin{{tabular}}{{{form}}}", "\\toprule"]
    lines += [_latex_row(table.columns), "\\midrule"]
    lines += [_latex_row([cell.text for cell in row]) for row in table.rows]
    if table.foot:
        lines += ["\\midrule", *(_latex_row([cell.text for cell in row]) for row in table.foot)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
}


def _latex_row(texts: Sequence[str]) -> str:
    escaped = ("".join(LATEX_SIGNS.get(sign, sign) for sign in visible(text)) for text in texts)
    return " & ".join(escaped) + r" \\"


def comma_separated(found: Sequence[Table]) -> str:
    """Write tables as one CSV: numbers unrounded, ends of intervals in columns of their own.

    Tables of several tasks share one heading; what one of them lacks stays empty.
    """
    records = _records(found)
    columns = dict.fromkeys(column for record in records for column in record)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def json_records(found: Sequence[Table]) -> str:
    """Write tables as a list of records, which pandas and others load as they are."""
    return (
        for_json(json.dumps(_records(found), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"
    )


def _records(found: Sequence[Table]) -> list[dict[str, str | float | None]]:
    records = []
    for table in found:
        for row in table.rows:
            pairs = zip(table.columns, row, strict=True)
            parts = [part for column, cell in pairs for part in _parts(column, cell)]
            records.append({"table": _said(table.caption), **dict(parts)})
    return records


def _parts(column: str, cell: Cell) -> list[tuple[str, str | float | None]]:
    """Return the number of a cell, and the ends of its interval where it has one."""
    column = _said(column)
    main: str | float | None = cell.key if cell.numeric else _said(cell.text) or None
    if cell.ends is None:
        return [(column, main)]
    low, high = cell.ends
    return [(column, main), (f"{column}, low", low), (f"{column}, high", high)]


def _said(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(("=", "+", "@", "-")) else shown


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown,
    "csv": comma_separated,
    "latex": latex,
    "json": json_records,
}
"""Formats of tables; html is the page, text the terminal."""
