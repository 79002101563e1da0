"""Rows for losses: what a model answers on its task, beside how it routes."""

import re

from modeval.metrics.levels import ANY, FROM_ZERO, NONE, ONE, UNIT, ZERO, Bounds
from modeval.metrics.metric import Metric, Place
from modeval.metrics.over_time import OVER_TIME
from modeval.metrics.removal_rows import REMOVAL_ROWS

TASK = "the objective of the task"
AT_LENGTH = re.compile(r"(loss|error_rate)_at_length_(\d+)(?:_x([\d.]+))?")
"""How the losses of sequences of one length are named, and what inputs were multiplied by."""

KINDS: dict[str, tuple[str, Bounds, str]] = {
    "loss": ("Loss", FROM_ZERO, "How far are the answers from what was wanted"),
    "error_rate": ("Error rate", UNIT, "Which share of the answers is wrong"),
}


def _loss(name: str, title: str, bounds: Bounds, question: str, *shown: Place) -> Metric:
    return Metric(
        name=name,
        title=title,
        formula_id=f"loss/{name}",
        better="lower",
        bounds=bounds,
        ideal=ZERO if bounds is not ANY else NONE,
        chance=NONE,
        source=TASK,
        needs="outputs",
        about=f"{question}?\n\n``mean over samples of the {TASK.removeprefix('the ')}``",
        labels=False,
        tells="loss",
        shown=shown,
    )


def _on(kind: str, side: str, likeness: str) -> Metric:
    """Return the row of a loss in or out of the distribution that was trained on."""
    title, bounds, question = KINDS[kind]
    glance: tuple[Place, ...] = ("glance",) if kind == "loss" else ()
    return _loss(
        f"{side}_distribution_{kind}",
        f"{title} {side.replace('_', ' ')} distribution",
        bounds,
        f"{question}, on samples {likeness} those of training",
        *glance,
        "table",
        "comparison",
    )


_ROWS = (
    *(
        _on(kind, side, likeness)
        for kind in KINDS
        for side, likeness in (("in", "like"), ("out_of", "unlike"))
    ),
    *(
        _loss(
            f"hard_gap_{name}",
            f"Loss added by {how}",
            ANY,
            f"How much worse are the answers when {when}",
        )
        for name, how, when in (
            ("top_2", "the largest two", "each sample goes to its two largest modules alone"),
            ("sampled", "sampled routing", "each sample goes to one module drawn by its weights"),
            ("rounded", "rounded routing", "weights are rounded to all or nothing"),
        )
    ),
    _loss(
        "hard_gap",
        "Loss added by hard routing",
        ANY,
        "How much worse are the answers when each sample goes to its largest module alone",
        "table",
        "comparison",
    ),
)

_HELD_OUT = (
    *(
        _loss(
            f"held_out_{kind}",
            f"{title} on held-out rules",
            bounds,
            f"{question}, on rules that were never trained on",
            "table",
            "comparison",
        )
        for kind, (title, bounds, question) in KINDS.items()
    ),
    Metric(
        name="systematic_gap",
        title="Held-out over trained loss",
        formula_id="loss/systematic-gap",
        better="lower",
        bounds=FROM_ZERO,
        ideal=ONE,
        chance=NONE,
        source=TASK,
        needs="outputs",
        about="How many times larger is the loss on arrangements of skills that were never trained "
        "on?\n\n``loss on held-out rules / loss on the rules of training``",
        labels=False,
        tells="loss",
        shown=("table", "comparison"),
    ),
)

LOSSES: dict[str, Metric] = {
    row.name: row for row in (*_ROWS, *_HELD_OUT, *OVER_TIME, *REMOVAL_ROWS)
}
"""Losses by name, scores over time, and what removing modules costs.

Those of sequences of one length are rows of :func:`loss_at_length`.
"""


def loss_at_length(name: str) -> Metric | None:
    """Return the row of a loss on sequences of one length, if the name is of one.

    >>> loss_at_length("loss_at_length_30_x2").title
    'Loss at length 30, inputs x2'
    """
    match = AT_LENGTH.fullmatch(name)
    if match is None:
        return None
    title, bounds, question = KINDS[match[1]]
    factor = f", inputs x{match[3]}" if match[3] else ""
    place = f"at length {match[2]}{factor}"
    return _loss(name, f"{title} {place}", bounds, f"{question}, {place}")
