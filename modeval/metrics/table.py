"""The table of all metrics, by name.

It loads no metric and no torch: a row imports its function when it is asked for it.
"""

import re
from difflib import get_close_matches

from modeval.metrics.losses import LOSSES, loss_at_length
from modeval.metrics.metric import Metric, Place
from modeval.metrics.removal_rows import kept_loss
from modeval.metrics.rows import ROWS

METRICS: dict[str, Metric] = {row.name: row for row in ROWS}
"""Every metric of routing by name."""

PAPER_METRICS = (
    "collapse_avg",
    "collapse_worst",
    "alignment_distance",
    "inverse_mutual_information",
    "adaptation_distance",
)
"""The five metrics of the paper."""

STATIC_METRICS = tuple(
    row.name for row in ROWS if row.needs in ("joint", "counts") and not row.shape
)
"""Metrics that give one number from folded routing: what :func:`measure` measures."""


def metric_of(name: str) -> Metric | None:
    """Return the row of a metric or loss, if there is one by that name.

    >>> metric_of("collapse_avg").title, metric_of("loss_at_length_30_x2").better
    ('Collapse (average)', 'lower')
    >>> metric_of("colapse") is None
    True
    """
    return METRICS.get(name) or LOSSES.get(name) or loss_at_length(name) or kept_loss(name)


def near_metric(name: str) -> str:
    """Return the name of the metric that was meant by another: nothing when none is near.

    People type names with a slip, or the title that they read in a table: of language models it
    speaks of experts and domains.

    >>> near_metric("alignement_score"), near_metric("Dead experts")
    ('alignment_score', 'dead_fraction')
    >>> near_metric("perplexity")
    ''
    """
    rows = (*ROWS, *LOSSES.values())
    known = {row.name: row.name for row in rows}
    for row in rows:
        for title in (row.title, row.title.replace("module", "expert").replace("rule", "domain")):
            known.setdefault(_as_name(title), row.name)
    close = get_close_matches(_as_name(name), [*known], n=1)
    return known[close[0]] if close else ""


def _as_name(text: str) -> str:
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def shown_in(place: Place) -> tuple[str, ...]:
    """Return the names of the metrics and losses that are shown in a place.

    >>> shown_in("headline")
    ('alignment_score', 'effective_share')
    """
    return tuple(row.name for row in (*ROWS, *LOSSES.values()) if place in row.shown)
