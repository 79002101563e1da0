"""Scorecards as tables: for pandas, for a spreadsheet, for a paper, for a pull request."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from modeval.errors import ScorecardError
from modeval.metrics.table import metric_of
from modeval.text import html_table

if TYPE_CHECKING:
    from modeval.score.scorecard import Score, Scorecard

SPECIAL = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
"""Characters that LaTeX takes for commands."""


def rows(card: "Scorecard") -> list[dict[str, Any]]:
    """Return a row for each score: model, title and names of layers beside its fields."""
    models = {model.id: model for model in card.models}
    found = []
    for score in card.scores:
        model = models[score.model]
        row = {each.name: getattr(score, each.name) for each in fields(score)}
        task, seed = row.pop("seed") or (None, None)
        named = score.layer is not None and score.layer < len(model.layers)
        found.append(
            {
                "model": score.model,
                "title": model.title,
                "metric": score.metric,
                "layer_name": model.layers[score.layer or 0] if named else None,
                "task_seed": task,
                "model_seed": seed,
                **row,
            }
        )
    return found


def to_frame(card: "Scorecard") -> Any:
    """Return the scores as a pandas DataFrame.

    Raises:
        ScorecardError: pandas is not there.
    """
    try:
        from pandas import DataFrame  # noqa: PLC0415 - an extra
    except ImportError:
        raise ScorecardError(
            'to_frame needs pandas, which is not here: pip install "modeval-cli[frame]". '
            "to_csv needs nothing."
        ) from None
    return DataFrame(rows(card))


FOUND = {
    "specialist": "Specialised",
    "partial": "Partly specialised",
    "faint": "Hardly specialised",
    "unproven": "Not proven",
    "untested": "Not tested",
    "blind": "Not specialised",
    "collapsed": "Collapsed",
    "unlabelled": "Load is even",
}
"""What findings are called for people."""


def to_csv(card: "Scorecard") -> str:
    """Return the scores as comma-separated values; what is unknown is empty."""
    table = rows(card)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=[*table[0]] if table else ["model"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def to_markdown(card: "Scorecard", metrics: Sequence[str] = ()) -> str:
    """Return a table of models and metrics in Markdown, intervals in brackets."""
    names = _names(card, metrics)
    head = ["Model", *map(_title, names)]
    lines = [head, ["---"] + ["---:"] * len(names), *_lines(card, names)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def to_latex(card: "Scorecard", metrics: Sequence[str] = ()) -> str:
    r"""Return a table of models and metrics for LaTeX; it needs ``\usepackage{booktabs}``."""
    names = _names(card, metrics)
    body = [[_escaped(cell) for cell in line] for line in _lines(card, names)]
    head = [_escaped(cell) for cell in ("Model", *map(_title, names))]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def to_html(card: "Scorecard") -> str:
    """Return a table for a notebook: models, what came out of each layer or seed, and metrics."""
    names = _names(card, ())
    words: dict[str, Counter[str]] = {model.id: Counter() for model in card.models}
    for finding in card.findings:
        words[finding.model][str(finding.word)] += 1
    found = [
        ", ".join(f"{FOUND[word]}: {times}" for word, times in words[model.id].most_common())
        for model in card.models
    ]
    lines = (
        [title, said, *cells]
        for (title, *cells), said in zip(_lines(card, names), found, strict=True)
    )
    return html_table(["Model", "Findings", *map(_title, names)], lines)


def _names(card: "Scorecard", metrics: Sequence[str]) -> list[str]:
    """Return the metrics that are asked for, or else those that a glance is for."""
    there = dict.fromkeys(score.metric for score in card.scores)
    strange = [name for name in metrics if name not in there]
    if strange:
        raise ScorecardError(f"There is no {strange[0]} here. There are {', '.join(there)}.")
    if metrics:
        return [*metrics]
    shown = [name for name in there if (row := metric_of(name)) and "glance" in row.shown]
    return shown or [*there]


def _lines(card: "Scorecard", names: Sequence[str]) -> Iterator[list[str]]:
    by_model: dict[str, dict[str, Score]] = {model.id: {} for model in card.models}
    for score in card.scores:
        whole = score.over == "mean" or (score.over is None and score.layer is None)
        if score.seed is None and whole:
            by_model[score.model][score.metric] = score
    for model in card.models:
        yield [model.title, *(_cell(by_model[model.id], name) for name in names)]


def _cell(scores: "Mapping[str, Score]", name: str) -> str:
    score = scores.get(name)
    if score is None or score.value is None:
        return ""
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _title(name: str) -> str:
    row = metric_of(name)
    return name if row is None else row.title


def _escaped(text: str) -> str:
    plain = text.replace("\\", "/").replace("~", " ").replace("^", " ")
    return "".join(SPECIAL.get(character, character) for character in plain)
