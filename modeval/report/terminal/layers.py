"""Traces for the terminal: what the routing is, layer by layer, beside chance."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeval.metrics import METRICS
from modeval.report import words
from modeval.report.scorecard_views import layer_names
from modeval.score.scorecard import (
    FINDINGS,
    Finding,
    ModelRecord,
    Over,
    Score,
    Scorecard,
    layer_findings,
)

LINES = 24
"""Layers up to which each has a line of its own."""
BARS = "▁▂▃▄▅▆▇█"
STYLES = {
    "specialist": "green",
    "partial": "green",
    "faint": "yellow",
    "unproven": "yellow",
    "untested": "yellow",
    "blind": "red",
    "collapsed": "red",
    "unlabelled": "",
}
TOLD = "homogeneity"
COLUMNS = {
    TOLD: ("told", "share of what could be known of the rule that the module tells"),
    "alignment_score": ("aligned", "from chance, 0, to a module for each rule, 1"),
    "effective_share": ("in use", "share of the modules that is in effective use"),
    "dead_fraction": ("dead", "share of the modules that gets next to no work"),
    "imbalance_ratio": ("busiest", "work of the busiest module, over the mean"),
}
"""Metrics that have a column: its heading, and what it says."""


def render_trace(card: Scorecard, model: ModelRecord) -> list[RenderableType]:
    """Return everything that the terminal shows of one trace, in order."""
    names, pattern = layer_names(model.layers)
    if len(names) == 1:
        names, pattern = ["1"], names[0]
    metrics = [name for name in COLUMNS if _layer_score(card, model, name, 0) is not None]
    shown: list[RenderableType] = [Text(model.title, style="bold")]
    shown += [Text(line, style="dim") for line in _measured(model)]
    shown += [Text(""), Text(words.headline(card, model))]
    every = list(range(len(names)))
    few = len(every) <= LINES
    if few:
        rows = [(names[place], place) for place in every]
    else:
        rows = _worst_median_best(card, model, metrics[0], names)
    shown += [Text(""), _table(card, model, metrics, rows), Text("")]
    if not few:
        shown += [*(_bars(card, model, name) for name in metrics), Text("")]
    return [
        *shown,
        *_legend(metrics, pattern, layer_findings(card, model)),
        *_few(card, model),
        Text(""),
    ]


# --- what was measured ---------------------------------------------------------------------------


def _measured(model: ModelRecord) -> list[str]:
    """Return what the scores are of, in a few lines."""
    data, about = model.data, model.model
    source = " · ".join(str(about[key]) for key in ("model", "engine", "format") if about[key])
    choices = sorted({value for value in about["choices"] if value})
    chosen = f", {' or '.join(map(str, choices))} chosen" if choices else ""
    sizes = sorted(set(model.layer_modules))
    modules = " or ".join(map(str, sizes)) if len(sizes) < 4 else f"{sizes[0]} to {sizes[-1]}"  # noqa: PLR2004
    labelled = len(model.rules) > 1
    rules = f"{len(model.rules)} rules ({_some(model.rules)})" if labelled else "no labels"
    documents = data["documents"]
    of = f" of {words.count(documents, 'document')}" if documents else ""
    phase = "prefill and decode" if data["phase"] == "mixed" else f"phase {data['phase']}"
    capacity = f"choices {data['capacity']} tokens are dropped"
    facts = [
        phase,
        f"padding {data['padding']}",
        capacity if data["capacity"] != "unknown" else "",
        "by weight" if model.view == "weight" else "by choice",
    ]
    return [
        source,
        f"{rules} · {words.count(len(model.layers), 'layer')} of {modules} modules{chosen}",
        f"{words.count(int(data['tokens']), 'token')}{of} · " + " · ".join(filter(None, facts)),
    ]


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f", {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- layers --------------------------------------------------------------------------------------


def _layer_score(
    card: Scorecard, model: ModelRecord, metric: str, place: int, over: Over | None = None
) -> Score | None:
    """Return the score of one layer; a model of one layer has no number for it."""
    layer = place if len(model.layers) > 1 else None
    return card.find(model.id, metric, layer=layer, over=over)


def _table(
    card: Scorecard, model: ModelRecord, metrics: Sequence[str], rows: Sequence[tuple[str, int]]
) -> RenderableType:
    """Return a line for each layer, and their mean and worst."""
    tested = TOLD in metrics
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("layer", overflow="fold")
    for name in metrics:
        table.add_column(COLUMNS[name][0], justify="right", no_wrap=True)
        if name == TOLD:
            table.add_column(" 95 %", style="dim", no_wrap=True)
            table.add_column("chance", justify="right", style="dim", no_wrap=True)
            table.add_column("p", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    findings = layer_findings(card, model)
    for title, place in rows:
        scores = [_layer_score(card, model, name, place) for name in metrics]
        word = findings[place].word
        table.add_row(title, *_cells(scores, tested=tested), Text(f" {word}", style=STYLES[word]))
    if len(model.layers) > 1:
        table.add_section()
        means = [card.find(model.id, name, over="mean") for name in metrics]
        table.add_row("mean", *_cells(means, tested=tested), "")
        worst = [_worst(card, model, name) for name in metrics]
        table.add_row("worst", *_cells(worst, tested=tested), "")
    return table


def _cells(scores: Sequence[Score | None], *, tested: bool) -> list[str]:
    cells = []
    for number, score in enumerate(scores):
        if score is None:
            cells.append("")
            continue
        cells.append(_short(score.value))
        if tested and number == 0:
            known = score.low is not None
            cells.append(f" {_short(score.low)} {_short(score.high)}" if known else "")
            cells.append(_short(score.chance_permuted))
            p = score.p_value if score.p_adjusted is None else score.p_adjusted
            cells.append("" if p is None else f"{p:.3f}".lstrip("0") if p < 1 else "1")
    return cells


def _short(value: float | None) -> str:
    """Write a number in five places.

    >>> _short(0.1234), _short(0.00012), _short(1.5), _short(0.9999), _short(0.0)
    ('.123', '1e-4', '1.5', '1', '0')
    """
    if value is None:
        return ""
    if value == 0:
        return "0"
    if abs(value) < 0.001:  # noqa: PLR2004 - three places would show nothing
        return f"{value:.0e}".replace("e-0", "e-")
    rounded = f"{value:.3f}"
    return rounded.replace("0.", ".", 1) if rounded.startswith("0.") else f"{value:.3g}"


def _worst(card: Scorecard, model: ModelRecord, metric: str) -> Score | None:
    wanted = (model.id, metric, "worst")
    return next((s for s in card.scores if (s.model, s.metric, s.over) == wanted), None)


def _values(card: Scorecard, model: ModelRecord, metric: str) -> list[float]:
    scores = (_layer_score(card, model, metric, place) for place in range(len(model.layers)))
    return [score.value or 0.0 for score in scores if score is not None]


def _worst_median_best(
    card: Scorecard, model: ModelRecord, metric: str, names: Sequence[str]
) -> list[tuple[str, int]]:
    """Return the layers that stand for all, by the first column."""
    values = _values(card, model, metric)
    order = sorted(range(len(values)), key=values.__getitem__)
    if METRICS[metric].better == "lower":
        order.reverse()
    places = (order[0], order[len(order) // 2], order[-1])
    kinds = ("lowest", "median", "highest")
    return [(f"{kind} {names[place]}", place) for kind, place in zip(kinds, places, strict=True)]


def _bars(card: Scorecard, model: ModelRecord, metric: str) -> Text:
    """Draw one metric of all layers, from the first to the last, between its least and largest."""
    values = _values(card, model, metric)
    low, high = min(values), max(values)
    room = high - low or 1.0
    drawn = "".join(BARS[int((value - low) / room * (len(BARS) - 1))] for value in values)
    text = Text(f"{COLUMNS[metric][0]:>8} ")
    text.append(drawn, style="cyan")
    return text.append(f"  {_short(low)} to {_short(high)}", style="dim")


def _few(card: Scorecard, model: ModelRecord) -> list[RenderableType]:
    """Say in how many layers samples are few, and of the first how few."""
    scores = (_layer_score(card, model, TOLD, place) for place in range(len(model.layers)))
    noted = [score.note for score in scores if score is not None and score.note]
    if not noted:
        return []
    where = f"in {len(noted)} of {len(model.layers)} layers, " if len(model.layers) > 1 else ""
    return [Text(f"note: {where}{noted[0]}", style="yellow")]


def _legend(
    metrics: Sequence[str], pattern: str, findings: Sequence[Finding]
) -> list[RenderableType]:
    """Say what the columns and the words mean."""
    lines = [f"{COLUMNS[name][0]}: {COLUMNS[name][1]}" for name in metrics]
    if TOLD in metrics:
        lines.append(
            "chance: told when the labels of documents are permuted; p: that chance tells as "
            "much, corrected over layers"
        )
    words = dict.fromkeys(finding.word for finding in findings)
    lines += [f"{word}: {FINDINGS[word]}" for word in words]
    if pattern:
        lines.append(f"layer: {pattern}")
    return [Text("\n".join(lines), style="dim")]
