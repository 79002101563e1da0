"""Maps of traces for the terminal: which rule goes to which module, in a few telling layers."""

import math

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from modeval.report import scorecard_views
from modeval.report.scorecard_views import Entry, Floats, Map
from modeval.report.terminal.scores import COLOURS, SHADES
from modeval.report.words import is_trace
from modeval.score.scorecard import Scorecard

NAME = 18
"""Letters of a rule's name."""


def render_maps(card: Scorecard, *, width: int) -> list[RenderableType]:
    """Return the maps of the traces of a scorecard: the lowest, a median and the highest layer.

    Args:
        card: the scorecard.
        width: columns of the terminal; where there are more modules, neighbours share a column
            and the largest share is shown.
    """
    shown: list[RenderableType] = []
    for entry in scorecard_views.entries([card], [""]):
        if is_trace(entry.record) and len(entry.record.rules) > 1:
            shown += _of_model(entry, width)
    return shown


def _of_model(entry: Entry, width: int) -> list[RenderableType]:
    told: list[tuple[str, int | None]] = list(scorecard_views.telling_layers(entry)[0]) or [
        ("", None)
    ]
    found = [
        (word, layer, scorecard_views.mean_map(matrices))
        for word, layer in told
        if (matrices := scorecard_views.activations(entry, layer))
    ]
    if not found:
        return []
    most, larger = scorecard_views.brightest(each.matrix for _, _, each in found)
    shown: list[RenderableType] = []
    for word, layer, each in found:
        name = entry.name if layer is None else f"{entry.name}, {entry.record.layers[layer]}"
        remark = f" · {word}" if layer is not None and word != entry.record.layers[layer] else ""
        shown += [
            Text.assemble((name, "bold"), (remark, "dim")),
            draw_map(
                each, scorecard_views.rule_names(entry.record, len(each.matrix)), most, width=width
            ),
        ]
    merged = math.ceil(entry.record.modules / _room(width))
    columns = f"{merged} modules a column" if merged > 1 else "columns modules"
    legend = f"{columns}, those of the rules first; {_legend(most, larger)}"
    return [*shown, Text(legend, "dim"), Text("")]


def draw_map(found: Map, rules: list[str], most: float, *, width: int) -> Text:
    """Draw a map as coloured shades behind the names of the rules."""
    room = _room(width)
    matrix = _narrowed(found.matrix, room)
    wide = 2 if 2 * matrix.shape[1] <= room else 1
    text = Text()
    for rule, row in zip(rules, matrix.tolist(), strict=True):
        name = rule if len(rule) <= NAME else rule[: NAME - 1] + "…"
        text.append(f"{name:>{NAME}} ")
        for share in row:
            level = math.sqrt(min(max(share / most, 0.0), 1.0))
            shade = SHADES[min(int(level * len(SHADES)), len(SHADES) - 1)]
            colour = COLOURS[min(int(level * len(COLOURS)), len(COLOURS) - 1)]
            text.append(shade * wide, style=f"{colour} on {COLOURS[0]}")
        text.append("\n")
    return text


def _room(width: int) -> int:
    return max(width - NAME - 2, 10)


def _narrowed(matrix: Floats, room: int) -> Floats:
    """Return the matrix with neighbouring columns merged, their largest share kept."""
    columns = matrix.shape[1]
    if columns <= room:
        return matrix
    starts = np.arange(0, columns, math.ceil(columns / room))
    return np.maximum.reduceat(matrix, starts, axis=1)


def _legend(most: float, larger: bool) -> str:  # noqa: FBT001 - what the map was drawn with
    levels = [(place / len(SHADES)) ** 2 * most for place in range(1, len(SHADES))]
    parts = [f"{shade} {level:.2g}" for shade, level in zip(SHADES[1:], levels, strict=True)]
    end = f" (brightest {most:.2g} or more)" if larger else ""
    return f"share of a rule from {'  '.join(parts)}{end}"
