"""Traces for the terminal: what the routing is, layer by layer, beside chance."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from modeval.metrics.table import shown_in
from modeval.report import scorecard_views, words
from modeval.report.brief import MEANINGS, findings
from modeval.report.scorecard_views import ModelView
from modeval.report.terminal.findings import (
    finding_lines,
    finding_word,
    layers_counted,
)
from modeval.report.terminal.grid import Cell, Column, Grid, Prose
from modeval.report.terminal.maps import trace_maps
from modeval.report.words import number, span, vocabulary
from modeval.score.scorecard import Score

LINES = 24
"""Layers up to which each has a line of its own."""
BARS = "▁▂▃▄▅▆▇█"
TOLD = "homogeneity"
"""What the finding rests on: it has its interval and its chance level beside it."""


def render_trace(view: ModelView, *, maps: bool = False) -> list[RenderableType]:
    """Return everything that the terminal shows of one trace, in order.

    Args:
        view: the trace.
        maps: whether to draw which experts serve which labels.
    """
    names, pattern = _names(view)
    metrics = _metrics(view)
    title = f"{layers_counted(view)}{_labels(view)}"
    shown: list[RenderableType] = [Prose(f"{view.name} · {title}", head=len(view.name))]
    shown += [*finding_lines(view), Text("")]
    every = list(range(len(names)))
    few = len(every) <= LINES
    rows = [(names[index], index) for index in every]
    if not few:
        rows = [(f"{word}: {names[index]}", index) for word, index in _telling(view)]
    shown += [_table(view, metrics, rows), Text("")]
    if not few:
        shown += [*(_course(view, name) for name in metrics), Text("")]
    shown += [*_legend(view, metrics, pattern), *_marks(view), Text("")]
    return [*shown, *(trace_maps(view) if maps else []), *_measured(view), Text("")]


def _names(view: ModelView) -> tuple[list[str], str]:
    names, pattern = scorecard_views.layer_names(view.record.layers)
    return (names, pattern) if len(names) > 1 else (["1"], "")


def _metrics(view: ModelView) -> list[str]:
    """Return the metrics that have a column, what the finding rests on first."""
    there = scorecard_views.metrics_of([view])
    wanted = sorted(shown_in("columns"), key=lambda name: name != TOLD)
    return [name for name in wanted if name in there]


def _labels(view: ModelView) -> str:
    rules = view.record.rules
    return (
        f" · {words.count(len(rules), vocabulary(view.record).rule)}"
        if len(rules) > 1
        else " · no labels"
    )


def _telling(view: ModelView) -> list[tuple[str, int]]:
    told, _ = scorecard_views.telling_layers(view)
    return told


# --- the table -----------------------------------------------------------------------------------


def _table(value: ModelView, metrics: Sequence[str], rows: Sequence[tuple[str, int]]) -> Grid:
    """Return a line for each layer, and their mean and worst."""
    layers = [index if value.layered else None for _, index in rows]
    titles = [title for title, _ in rows] + (["mean", "worst"] if value.layered else [])
    words_ = findings(value)
    cells: list[Cell] = [finding_word(words_[index]) for _, index in rows]
    columns = [
        Column("layer", tuple(titles), right=False),
        Column("finding", tuple(_padded(cells, len(titles))), right=False),
    ]
    for name in metrics:
        scores = [value.card.find(value.record.id, name, layer=layer) for layer in layers]
        if value.layered:
            scores += [scorecard_views.overall(value, name), scorecard_views.worst(value, name)]
        columns += _columns(name, scores, _heading(value, name))
    return Grid(tuple(columns), sections=(len(rows),) if value.layered else ())


def _padded(cells: list[Cell], length: int) -> list[Cell]:
    return [*cells, *[""] * (length - len(cells))]


def _heading(view: ModelView, name: str) -> str:
    known = vocabulary(view.record)
    if name == TOLD:
        return f"known of the {known.rule}"
    return known.spoken(words.metric_title(name).lower())


def _columns(name: str, scores: Sequence[Score | None], heading: str) -> list[Column]:
    """Return the columns of one metric and of its chance; of what the finding rests on, more."""
    values = Column(heading, tuple("" if s is None else number(s.value) for s in scores))
    intervals = tuple("" if s is None else span(s.low, s.high) for s in scores)
    chance = tuple("" if s is None else _optional(s.chance_permuted) for s in scores)
    further = [Column("permuted labels", chance)]
    if name == TOLD:
        tested = Column("p", tuple(_p(score) for score in scores))
        further = [Column("95 % interval", intervals), *further, tested]
    known = [column for column in further if any(column.cells)]
    return [values, *(Column(c.heading, c.cells, style="dim", joined=True) for c in known)]


def _optional(value: float | None) -> str:
    return "" if value is None else number(value)


def _p(score: Score | None) -> str:
    p = None if score is None else words.p_of(score)
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"  # noqa: PLR2004


def _course(view: ModelView, metric: str) -> Text:
    """Draw one metric of all layers, from the first to the last, between its least and largest."""
    values = [score.value or 0.0 for score in scorecard_views.by_layer(view, metric)]
    low, high = min(values), max(values)
    room = high - low or 1.0
    drawn = "".join(BARS[int((value - low) / room * (len(BARS) - 1))] for value in values)
    text = Text(f"{_heading(view, metric)}, first layer to last: ")
    text.append(drawn, style="cyan")
    return text.append(f"  {span(low, high)}", style="dim")


# --- what to know --------------------------------------------------------------------------------


def _legend(view: ModelView, metrics: Sequence[str], pattern: str) -> list[RenderableType]:
    """Say what the columns and the findings mean that do not say it themselves."""
    known = vocabulary(view.record)
    lines = []
    if TOLD in metrics:
        lines.append(
            f"known of the {known.rule}: share of what could be known of it that the "
            f"{known.module} tells; permuted labels: the same with labels exchanged between "
            "documents; p: that they tell as much, corrected over layers"
        )
    if "alignment_score" in metrics:
        lines.append(
            f"alignment score: 0 for even routing, 1 when each {known.rule} has its own "
            f"{known.module}"
        )
    others = list(dict.fromkeys(findings(view)))
    if len(others) > 1:
        lines += [
            f"{MEANINGS[word][0].lower()}: "
            + MEANINGS[word][1].format(
                module=known.module, modules=known.modules, rule=known.rule, rules=known.rules
            )
            for word in others
        ]
    if pattern:
        lines.append(f"layer: {pattern}")
    return [Prose(line, dim=True) for line in lines]


def _marks(view: ModelView) -> list[RenderableType]:
    """Say in how many layers samples are few, and what was not scored."""
    whole = scorecard_views.overall(view, TOLD)
    told = scorecard_views.by_layer(view, TOLD) or ([whole] if whole is not None else [])
    few = [score for score in told if score.few_samples]
    lines = []
    if few:
        where = f"in {len(few)} of {len(told)} layers " if len(told) > 1 else ""
        lines.append(f"note: {where}{few[0].note or 'few samples'}")
    lines += [
        f"left out: {each.kind} {each.name}: {each.why}".replace(" :", ":")
        for each in view.record.left_out
    ]
    return [Text(line, style="yellow") for line in lines]


def _measured(view: ModelView) -> list[RenderableType]:
    """Return what the scores are of, in a few lines."""
    record = view.record
    data, about = record.data, record.model
    source = " · ".join(str(about[key]) for key in ("model", "engine", "format") if about.get(key))
    documents = data.get("documents")
    of = f" of {words.count(documents, 'document')}" if documents else ""
    phase = data.get("phase")
    capacity = data.get("capacity", "unknown")
    facts = [
        source,
        f"{words.count(int(data['tokens']), 'token')}{of}" if data.get("tokens") else "",
        "prefill and decode" if phase == "mixed" else f"phase {phase}",
        f"padding {data.get('padding')}",
        "" if capacity == "unknown" else f"choices {capacity} tokens are dropped",
        "by weight" if record.view == "weight" else "by choice",
    ]
    labels = f"labels: {_some(record.rules)}" if len(record.rules) > 1 else ""
    return [Prose(" · ".join(filter(None, (*facts, labels))), dim=True)]


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f", {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
