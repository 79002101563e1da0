"""A comparison as a notebook shows it."""

from typing import TYPE_CHECKING

from modeval.metrics.table import metric_of, shown_in
from modeval.text import html_table

if TYPE_CHECKING:
    from modeval.score.comparison.compare import Lineage


def notebook_table(lineage: "Lineage") -> str:
    """Return the scores that sum models up, side by side, and the last less the first."""
    layered = len(lineage.columns[0].model.layers) > 1
    rows = [
        [
            ", ".join(filter(None, (_title(row.metric), row.over))),
            *(
                "" if each is None or each.value is None else f"{each.value:.3g}"
                for each in row.scores
            ),
            "" if (last := row.contrasts[-1]) is None else f"{last.value:+.3g}, {last.reading}",
        ]
        for row in lineage.rows
        if row.metric in shown_in("comparison") and (row.over or not layered)
    ]
    return html_table(["Score", *(each.label for each in lineage.columns), "Difference"], rows)


def _title(name: str) -> str:
    metric = metric_of(name)
    return name if metric is None else metric.title
