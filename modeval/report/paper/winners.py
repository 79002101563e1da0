"""Which model wins how often: the paper's count, by setting and task, as bars."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt

from modeval.errors import ScorecardError
from modeval.metrics.losses import LOSSES
from modeval.report.paper.charts import Chart, Line, Point, by_paper
from modeval.report.paper.seed_table import SeedTable, Setting, of_views
from modeval.report.paper.style import Style
from modeval.report.scorecard_views import ModelView
from modeval.report.words import is_trace
from modeval.titles import MODEL_TITLES

SIDES = ("in_distribution_loss", "out_of_distribution_loss")
PAIR = (MODEL_TITLES["monolithic"], MODEL_TITLES["modular"])
Z = 1.959963984540054
"""Of the normal distribution, for 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wins:
    """How often a model won.

    Attributes:
        share: of the tasks.
        won: number of tasks that it won; a task that is tied, or on which models of several sizes
            were trained and not all won, counts in part.
        tasks: number of tasks.
        low: lower end of Wilson's 95 % interval.
        high: upper end.
    """

    share: float
    won: float
    tasks: int
    low: float
    high: float

    @property
    def said(self) -> str:
        """The count in words."""
        return (
            f"{self.won:g} of {self.tasks}"
            if self.won % 1 == 0
            else (f"{self.won:.1f} of {self.tasks}")
        )


def counted(parts: Mapping[object, Sequence[float]]) -> Wins:
    """Count wins by task: each task is one witness, however many settings it was tried in.

    Args:
        parts: for each task the outcome of each of its settings: 1 won, 0 lost, between if tied.

    >>> counted({"a": [1.0], "b": [0.0, 1.0], "c": [1.0], "d": [1.0]}).said
    '3.5 of 4'
    """
    shares = [fsum(each) / len(each) for each in parts.values()]
    won = fsum(shares)
    low, high = wilson(won, len(shares))
    return Wins(share=won / len(shares), won=won, tasks=len(shares), low=low, high=high)


def wilson(won: float, of: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; of a count that is no whole number, too.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``, within 0 and 1; it is never of
    no width, so that five of five is not taken for always.

    >>> [round(end, 3) for end in wilson(5, 5)], [round(end, 3) for end in wilson(10, 20)]
    ([0.566, 1.0], [0.299, 0.701])
    """
    share, more = won / of, Z * Z / of
    middle = (share + more / 2) / (1 + more)
    reach = Z * sqrt(share * (1 - share) / of + more / (4 * of)) / (1 + more)
    return max(0.0, min(middle - reach, share)), min(1.0, max(middle + reach, share))


def wins(
    table: SeedTable, settings: Sequence[Setting], rivals: Sequence[str], metric: str
) -> dict[str, Wins]:
    """Return how often each of some rivals has the lowest loss, seeds of a task averaged first.

    A setting counts where all rivals were trained; a task (its seed, kind and number of rules) is
    one witness, whatever the sizes of the models.
    """
    outcomes: dict[str, dict[object, list[float]]] = {rival: {} for rival in rivals}
    for setting in settings:
        losses = {rival: table.by_task(setting, rival, metric) for rival in rivals}
        shared = set.intersection(*(set(of_tasks) for of_tasks in losses.values()))
        for task in sorted(shared):
            least = min(losses[rival][task] for rival in rivals)
            best = [rival for rival in rivals if losses[rival][task] == least]
            for rival in rivals:
                won = 1 / len(best) if rival in best else 0.0
                witness = (setting.task, setting.rules, task)
                outcomes[rival].setdefault(witness, []).append(won)
    return {rival: counted(found) for rival, found in outcomes.items() if found}


def charts(entries: Sequence[ModelView], _style: Style) -> list[Chart]:
    """Return bars of winner shares: all models, then Monolithic against Modular, on each side.

    Raises:
        ScorecardError: there are no two models that were trained on the same tasks.
    """
    table = of_views([view for view in entries if not is_trace(view.record)])
    there = dict.fromkeys(setting for setting, _, _ in table.values)
    kinds: dict[tuple[str, ...], list[Setting]] = {}
    for setting in there:
        kinds.setdefault(setting.task, []).append(setting)
    found = [
        chart
        for side in SIDES
        for pair in (False, True)
        for kind, settings in kinds.items()
        for chart in _chart(table, settings, side, pair=pair, title=_title(kind, list(kinds)))
    ]
    if not found:
        raise ScorecardError(
            "No two models of these scorecards have losses of the same seeds and task, so none can "
            "win. Train rivals with: modeval sweep plan demo --out runs/grid"
        )
    return found


def _chart(
    table: SeedTable, settings: Sequence[Setting], side: str, *, pair: bool, title: str
) -> Iterator[Chart]:
    there = {
        model for setting in settings for model in table.models if table.seeds(setting, model, side)
    }
    rivals = by_paper([name for name in there if not pair or name in PAIR])
    if len(rivals) < 2 or (pair and len(there) == 2):  # noqa: PLR2004 - the pair is all there is
        return
    found = wins(table, settings, rivals, side)
    if not found:
        return
    lines = [
        Line(
            name=name,
            points=(Point(x=0, value=won.share, low=won.low, high=won.high, said=won.said),),
        )
        for name, won in found.items()
    ]
    even = Line(name="an even share", points=(Point(x=0, value=1 / len(rivals)),))
    where = LOSSES[side].title.removeprefix("Loss ").capitalize()
    said = f"{where}, of\N{NO-BREAK SPACE}{len(rivals)}\N{NO-BREAK SPACE}models"
    yield Chart(
        title=f"{said}\n{title}" if title else said,
        x="Model",
        y="share of tasks",
        form="bars",
        lines=(*lines, even),
    )


def _title(kind: tuple[str, ...], kinds: Sequence[tuple[str, ...]]) -> str:
    """Name a kind of task by what tells it from the others."""
    parts = [
        part
        for place, part in enumerate(kind)
        if part != "None" and len({other[place] for other in kinds}) > 1
    ]
    return ", ".join(parts)
