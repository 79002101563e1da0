"""Rows for what a language model loses without some of its modules."""

import re

from modeval.metrics.levels import ANY, FROM_ZERO, NONE, ONE, UNIT, ZERO, Bounds, Level, between
from modeval.metrics.metric import Better, Metric, Place

KEPT = re.compile(r"keep_(\d+)(?:_(\d+))?_by_(reap|routed|weight|peak)(_worst)?")
"""How the change of a loss with a share of the modules is named: percent, score, and of which."""
CORRELATION = between(-1.0, 1.0, "[-1, 1]")
OWN = "own"


def _row(
    name: str,
    title: str,
    about: tuple[str, str],
    *shown: Place,
    better: Better = "lower",
    bounds: Bounds = ANY,
    ideal: Level = NONE,
    chance: Level = NONE,
) -> Metric:
    question, formula = about
    return Metric(
        name=name,
        title=title,
        formula_id=f"removal/{name}",
        better=better,
        bounds=bounds,
        ideal=ideal,
        chance=chance,
        source=OWN,
        needs="outputs",
        about=f"{question}\n\n``{formula}``",
        labels=False,
        tells="loss",
        shown=shown,
    )


REMOVAL_ROWS: tuple[Metric, ...] = (
    _row(
        "token_loss",
        "Loss per token",
        (
            "How well does a language model, all of it, foresee the next token?",
            "sum over documents of their losses / predicted tokens, in nats",
        ),
        "glance",
        "table",
        "comparison",
        bounds=FROM_ZERO,
        ideal=ZERO,
    ),
    _row(
        "safe_share",
        "Share of the modules that is surely enough",
        (
            "How few of its modules does a model surely need?",
            (
                "smallest share, by the best score, with the upper end of every label's change "
                "within the margin, here and at all larger shares that were tested"
            ),
        ),
        "glance",
        "table",
        "comparison",
        bounds=UNIT,
        chance=Level("the same of the mean of random keep-sets"),
    ),
    _row(
        "enough_share",
        "Share of the modules that was enough",
        (
            "How few of its modules did a model need on these texts?",
            (
                "smallest share, by the best score, with every label's change within the margin, "
                "here and at all larger shares that were tested"
            ),
        ),
        "glance",
        "table",
        "comparison",
        bounds=UNIT,
        chance=Level("the same of the mean of random keep-sets"),
    ),
    *(
        _row(
            f"foresight_{kind}{score}",
            f"Cost of {what} foreseen by {score}",
            (
                f"Did {score}, which one pass gives, foresee which removals cost how much?",
                f"Spearman's correlation of the loss without {what} with the {score} removed",
            ),
            better="higher",
            bounds=CORRELATION,
            ideal=ONE,
            chance=ZERO,
        )
        for kind, what in (("", "random sets"), ("alone_", "single modules"))
        for score in ("reap", "routed", "weight", "peak")
    ),
)
"""Scores of an ablation; those of one share and score are rows of :func:`kept_loss`."""


def kept_name(share: float, score: str, *, worst: bool = False) -> str:
    """Return what the change of the loss is called, with a share of the modules kept by a score.

    >>> kept_name(0.75, "reap"), kept_name(0.625, "peak", worst=True)
    ('keep_75_by_reap', 'keep_62_5_by_peak_worst')
    """
    percent = f"{100 * share:.6f}".rstrip("0").rstrip(".").replace(".", "_")
    return f"keep_{percent}_by_{score}{'_worst' if worst else ''}"


def kept_loss(name: str) -> Metric | None:
    """Return the row of the change of a loss with some modules, if the name is of one.

    >>> kept_loss("keep_62_5_by_peak_worst").title
    'Loss added with 62.5 % kept by peak, worst label'
    >>> kept_loss("keep_all") is None
    True
    """
    match = KEPT.fullmatch(name)
    if match is None:
        return None
    whole, part, score, worst = match.groups()
    kept = f"{whole}{f'.{part}' if part else ''} % kept by {score}"
    of = "of the label that it costs most" if worst else "of all tokens"
    return _row(
        name,
        f"Loss added with {kept}{', worst label' if worst else ''}",
        (
            f"How much worse is a model with {kept}?",
            f"loss {of} with those modules - loss of the whole model, in nats per token",
        ),
        "table",
        "comparison",
        chance=Level("mean of random keep-sets of the same size"),
    )
