"""Scorecards of no routing for the terminal: agreement of two builds, or anything else measured."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from modeval.report import scorecard_views
from modeval.report.scorecard_views import ModelView
from modeval.report.terminal.grid import Column, Grid, Prose
from modeval.report.words import count, metric_title, number, span
from modeval.score.scorecard import Score


def render_measured(view: ModelView) -> list[RenderableType]:
    """Return what was measured of a model of which no routing is in the scorecard.

    Args:
        view: the model.
    """
    names = scorecard_views.metrics_of([view])
    short, pattern = scorecard_views.layer_names(view.record.layers)
    shown: list[RenderableType] = [Prose(f"{view.name} · {_amount(view)}", head=len(view.name))]
    whole = [name for name in names if not scorecard_views.by_layer(view, name)]
    layered = [name for name in names if name not in whole]
    if whole:
        shown += [_of_model(view, whole), Text("")]
    if layered:
        shown += [_of_layers(view, layered, short), Text("")]
    if pattern and layered:
        shown.append(Prose(f"layer: {pattern}", dim=True))
    notes = [s.note for s in view.card.scores_of(view.record.id) if s.note]
    return [*shown, *(Prose(note, dim=True) for note in dict.fromkeys(notes)), Text("")]


def _amount(view: ModelView) -> str:
    data = view.record.data
    tokens, documents = data.get("tokens"), data.get("documents")
    parts = [count(int(tokens), "token")] if isinstance(tokens, int) else []
    parts += [count(int(documents), "document")] if isinstance(documents, int) else []
    return " of ".join(parts) or "scores"


def _of_model(view: ModelView, names: Sequence[str]) -> Grid:
    scores = [view.card.find(view.record.id, name) for name in names]
    titles = tuple(metric_title(name) for name in names)
    return Grid((Column("score", titles, right=False), *_columns("", scores)))


def _of_layers(view: ModelView, names: Sequence[str], short: Sequence[str]) -> Grid:
    """Return a line for each layer, their mean and the worst, and columns for each score."""
    rows = (*short, "mean", "worst")
    columns = [Column("layer", rows, right=False)]
    for name in names:
        scores: list[Score | None] = [
            view.card.find(view.record.id, name, layer=layer) for layer in range(len(short))
        ]
        scores += [scorecard_views.overall(view, name), scorecard_views.worst(view, name)]
        columns += _columns(metric_title(name), scores)
    return Grid(tuple(columns), sections=(len(short),))


def _columns(heading: str, scores: Sequence[Score | None]) -> list[Column]:
    values = tuple("-" if s is None else number(s.value) for s in scores)
    ends = tuple("" if s is None else span(s.low, s.high) for s in scores)
    levels = [None if s is None else s.chance_permuted for s in scores]
    if not any(level is not None for level in levels):
        levels = [None if s is None else s.chance for s in scores]
    chance = tuple("" if level is None else number(level) for level in levels)
    further = [("95 % interval", ends), ("chance", chance)]
    known = [
        Column(title, cells, style="dim", joined=True) for title, cells in further if any(cells)
    ]
    return [Column(heading or "value", values), *known]
