"""The findings of "Is a Modular Architecture Enough?", each checked on a scorecard.

A finding is a statement about orderings: the paper prints figures and no tables. Each is turned
into one number, with its interval over tasks. It *holds* when all of the interval lies on the side
of the statement, it *does not* when all lies on the other side, and else it *cannot be told*.
Numbers are those of single seeds, averaged within a task first.

Source: Mittal, Bengio, Lajoie 2022, arXiv 2206.02713, sections 5 and 6.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scipy.stats import binomtest, spearmanr

from modeval.errors import ScorecardError
from modeval.score.inference.seeds import seed_mean
from modeval.score.scorecard import ModelRecord, Scorecard

Verdict = Literal["holds", "does not hold", "cannot be told"]
MONOLITHIC, MODULAR, OP, GT = "monolithic", "modular", "modular-op", "gt-modular"
SCORERS = {"none": MONOLITHIC, "module": MODULAR, "rule": OP, "oracle": GT}
IN, OUT = "in_distribution_loss", "out_of_distribution_loss"
MANY_RULES = 8
HALF = 0.5
LEVEL = 0.95

Seeds = Mapping[tuple[int, int], float]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the paper: a family of tasks and sizes of the model, for some number of rules.

    Attributes:
        family: task, objective, search and sizes; what must agree for numbers to be compared.
        rules: R.
    """

    family: tuple[str, ...]
    rules: int


@dataclass(frozen=True, slots=True)
class Table:
    """Values of single seeds by setting, model and metric."""

    values: dict[tuple[Setting, str, str], Seeds] = field(default_factory=dict)

    def seeds(self, setting: Setting, model: str, metric: str) -> Seeds:
        """Return the values of a model's seeds; nothing where they were not measured."""
        return self.values.get((setting, model, metric), {})

    def by_task(self, setting: Setting, model: str, metric: str) -> dict[int, float]:
        """Return the mean over model seeds for each task seed."""
        found: dict[int, list[float]] = {}
        for (task, _), value in self.seeds(setting, model, metric).items():
            found.setdefault(task, []).append(value)
        return {task: math.fsum(values) / len(values) for task, values in found.items()}

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Return the settings, those of one family together and in order of their rules."""
        settings = {setting for setting, _, _ in self.values}
        return tuple(sorted(settings, key=lambda setting: (setting.family, setting.rules)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFinding:
    """A statement of the paper, and what this scorecard says of it.

    Attributes:
        name: F1 to F11.
        statement: what the paper says.
        measured: what the number is.
        value: the number; nothing where the scorecard has not what it takes.
        low: lower end of its interval.
        high: upper end.
        boundary: value on whose two sides the statement is true or false.
        verdict: which of them.
        why: what is missing, or what to know when reading it.
    """

    name: str
    statement: str
    measured: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    boundary: float = 0.0
    verdict: Verdict = "cannot be told"
    why: str = ""


def table_of(card: Scorecard) -> Table:
    """Return the seeds' values of the paper's four models, by setting.

    Raises:
        ScorecardError: the scorecard has none of these models.
    """
    known = {
        model.id: (setting_of(model.data, model.model), SCORERS[str(model.model["scorer"])])
        for model in card.models
        if _is_of_the_paper(model)
    }
    values: dict[tuple[Setting, str, str], dict[tuple[int, int], float]] = {}
    for score in card.scores:
        if score.model in known and score.seed is not None and score.value is not None:
            setting, name = known[score.model]
            values.setdefault((setting, name, score.metric), {})[score.seed] = score.value
    if not values:
        raise ScorecardError(
            "The scorecard has no seeds of Monolithic, Modular, Modular-op or GT-Modular. Train "
            "them with: modeval sweep plan demo --out runs/grid"
        )
    return Table(dict(values))


def _is_of_the_paper(model: ModelRecord) -> bool:
    """Tell whether a model is one of the four: it differs from them in no choice but its sizes."""
    usual = {"soft", "fixed", "full", "outputs", "mix_outputs", "mix-outputs"}
    choices = [model.model.get(axis) for axis in ("gating", "computation", "aggregation")]
    kinds = [each.get("kind") if isinstance(each, Mapping) else each for each in choices]
    own = all(kind is None or kind in usual for kind in kinds)
    return own and len(model.layers) < 2 and str(model.model.get("scorer")) in SCORERS  # noqa: PLR2004


def setting_of(data: Mapping[str, Any], model: Mapping[str, Any]) -> Setting:
    """Return the setting of a run from the plain values of its task and model."""
    parts = (
        *(data.get(name) for name in ("task", "objective", "search", "operation")),
        *(model.get(name) for name in ("encoder", "width")),
    )
    return Setting(tuple(str(part) for part in parts), int(data.get("rules") or 0))


def name_of(model: Mapping[str, Any]) -> str:
    """Return which of the paper's models this is, from the plain values of its spec."""
    return SCORERS.get(str(model.get("scorer")), "")


# --- what decides --------------------------------------------------------------------------------


def _decided(low: float, high: float, boundary: float) -> Verdict:
    if low > boundary:
        return "holds"
    return "does not hold" if high < boundary else "cannot be told"


def _share(finding: PaperFinding, wins: Sequence[bool]) -> PaperFinding:
    """Decide by a share of wins, with Wilson's interval."""
    if not wins:
        return _without(finding)
    won = sum(wins)
    interval = binomtest(won, len(wins)).proportion_ci(LEVEL, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return replace(
        finding,
        value=won / len(wins),
        low=low,
        high=high,
        boundary=HALF,
        verdict=_decided(low, high, HALF),
        why=f"{won} of {len(wins)}",
    )


def _mean(finding: PaperFinding, values: Sequence[tuple[int, float]]) -> PaperFinding:
    """Decide by a mean over tasks, with its interval; several numbers of a task count as one."""
    if not values:
        return _without(finding)
    estimate = seed_mean([value for _, value in values], [task for task, _ in values])
    if estimate.low is None or estimate.high is None:
        return replace(finding, value=estimate.value, why=estimate.reason)
    about = "one task" if estimate.tasks == 1 else f"{estimate.tasks} tasks"
    return replace(
        finding,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        verdict=_decided(estimate.low, estimate.high, 0.0),
        why=f"over {about}",
    )


def _without(finding: PaperFinding) -> PaperFinding:
    return replace(
        finding, why="the scorecard has not the models or numbers of rules that it takes"
    )


# --- numbers -------------------------------------------------------------------------------------


def _both(
    table: Table, metric: str, one: str, other: str, settings: Sequence[Setting]
) -> Iterator[tuple[int, float, float]]:
    """Return the tasks that two models share in each setting, with both means."""
    for setting in settings:
        mine, its = (table.by_task(setting, model, metric) for model in (one, other))
        for task in sorted(mine.keys() & its.keys()):
            yield task, mine[task], its[task]


def _many(table: Table) -> list[Setting]:
    return [setting for setting in table.settings if setting.rules >= MANY_RULES]


def _grows(table: Table, number: Callable[[Setting, int], float | None]) -> list[bool]:
    """Tell for each family and task whether a number grows with R: Spearman's correlation > 0."""
    found = []
    families = {setting.family for setting in table.settings}
    for family in sorted(families):
        settings = [setting for setting in table.settings if setting.family == family]
        tasks = {
            task
            for setting in settings
            for model in (MODULAR, OP)
            for task in table.by_task(setting, model, IN)
        }
        for task in sorted(tasks):
            points = [
                (setting.rules, value)
                for setting in settings
                if (value := number(setting, task)) is not None
            ]
            if len({value for _, value in points}) > 1 and len(points) > 2:  # noqa: PLR2004
                rules, values = zip(*points, strict=True)
                found.append(float(spearmanr(rules, values).statistic) > 0)
    return found


def _of_task(table: Table, model: str, metric: str) -> Callable[[Setting, int], float | None]:
    return lambda setting, task: table.by_task(setting, model, metric).get(task)


def _log_ratio(table: Table, one: str, other: str) -> Callable[[Setting, int], float | None]:
    def number(setting: Setting, task: int) -> float | None:
        pair = [table.by_task(setting, model, IN).get(task) for model in (one, other)]
        if pair[0] is None or pair[1] is None or min(pair[0], pair[1]) <= 0:
            return None
        return math.log(pair[0] / pair[1])

    return number


# --- the findings --------------------------------------------------------------------------------


def paper_findings(
    card: Scorecard, curves: Mapping[tuple[Setting, str], "Curve"] | None = None
) -> list[PaperFinding]:
    """Check F1 to F11 on a scorecard.

    Args:
        card: of the paper's four models, the more settings and tasks the better.
        curves: validation losses of runs by setting and model, for the speed of training (F10).
    """
    table = table_of(card)
    return [*_losses(table), *_routing(table), _speed(table, curves or {}), _partly(table)]


def _losses(table: Table) -> Iterator[PaperFinding]:
    yield _share(
        PaperFinding(
            name="F1",
            boundary=HALF,
            statement="GT-Modular wins most settings",
            measured="share of settings and tasks in which its loss is the lowest of the four",
        ),
        _winners(table, GT, (MONOLITHIC, MODULAR, OP, GT)),
    )
    yield _share(
        PaperFinding(
            name="F2",
            boundary=HALF,
            statement="Modular beats Monolithic, though not by much",
            measured="share of settings and tasks in which its loss is the lower of the two",
        ),
        _winners(table, MODULAR, (MONOLITHIC, MODULAR)),
    )
    yield _share(
        PaperFinding(
            name="F3",
            statement="Perfect specialisation pays the more, the more rules there are",
            boundary=HALF,
            measured="share of tasks in which loss of Monolithic / loss of GT-Modular grows with R",
        ),
        _grows(table, _log_ratio(table, MONOLITHIC, GT)),
    )
    yield _share(
        PaperFinding(
            name="F4",
            boundary=HALF,
            statement="Modular is distracted by its inputs: Modular-op does better with many rules",
            measured=f"share of settings (R >= {MANY_RULES}) and tasks in which its loss is lower",
        ),
        [its < mine for _, mine, its in _both(table, IN, MODULAR, OP, _many(table))],
    )
    yield _share(
        PaperFinding(
            name="F5",
            boundary=HALF,
            statement="Perfect specialisation helps out of distribution, above all with many rules",
            measured=f"share of settings (R >= {MANY_RULES}) and tasks in which the loss of "
            "GT-Modular out of distribution is below that of Modular",
        ),
        [its < mine for _, mine, its in _both(table, OUT, MODULAR, GT, _many(table))],
    )


def _winners(table: Table, model: str, rivals: Sequence[str]) -> list[bool]:
    wins = []
    for setting in table.settings:
        losses = {rival: table.by_task(setting, rival, IN) for rival in rivals}
        shared = set.intersection(*(set(of_tasks) for of_tasks in losses.values()))
        for task in sorted(shared):
            best = min(rivals, key=lambda rival: losses[rival][task])
            wins.append(best == model)
    return wins


def _routing(table: Table) -> Iterator[PaperFinding]:
    for name, model in (("F6", MODULAR), ("F6", OP)):
        yield _share(
            PaperFinding(
                name=name,
                boundary=HALF,
                statement=f"Collapse of {model} grows with the number of rules",
                measured="share of tasks in which collapse_worst grows with R",
            ),
            _grows(table, _of_task(table, model, "collapse_worst")),
        )
    yield _mean(
        PaperFinding(
            name="F7",
            statement="Modular-op collapses less than Modular",
            measured="collapse_avg of Modular less that of Modular-op",
        ),
        [
            (task, mine - its)
            for task, mine, its in _both(table, "collapse_avg", MODULAR, OP, table.settings)
        ],
    )
    yield _share(
        PaperFinding(
            name="F8",
            boundary=HALF,
            statement="Specialisation gets worse with the number of rules",
            measured="share of tasks in which inverse_mutual_information of Modular grows with R",
        ),
        _grows(table, _of_task(table, MODULAR, "inverse_mutual_information")),
    )
    yield _mean(
        PaperFinding(
            name="F8",
            statement="Modular-op specialises at least as well as Modular",
            measured="alignment_distance of Modular less that of Modular-op",
        ),
        [
            (task, mine - its)
            for task, mine, its in _both(table, "alignment_distance", MODULAR, OP, table.settings)
        ],
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """Validation losses of a cohort.

    Attributes:
        steps: at which it was validated.
        losses: a row for each of them, a value for each seed; nothing where it was not finite.
        seeds: pairs of task seed and model seed.
    """

    steps: tuple[int, ...]
    losses: tuple[tuple[float | None, ...], ...]
    seeds: tuple[tuple[int, int], ...]

    def steps_to(self, limits: Mapping[int, float]) -> dict[int, float]:
        """Return for each task the mean number of steps until its seeds are below its limit.

        A seed that never gets there counts with the last step, so that the mean is too low, never
        too high.
        """
        found: dict[int, list[int]] = {}
        for index, (task, _) in enumerate(self.seeds):
            if task not in limits:
                continue
            below = (
                step
                for step, row in zip(self.steps, self.losses, strict=True)
                if (loss := row[index]) is not None and loss <= limits[task]
            )
            found.setdefault(task, []).append(next(below, self.steps[-1]))
        return {task: sum(steps) / len(steps) for task, steps in found.items()}


def _speed(table: Table, curves: Mapping[tuple[Setting, str], Curve]) -> PaperFinding:
    finding = PaperFinding(
        name="F10",
        statement="Specialised models train faster",
        measured="log of steps of Modular until twice the final loss of GT-Modular, less the same "
        "of GT-Modular",
    )
    values = []
    for setting in table.settings:
        pair = [curves.get((setting, model)) for model in (MODULAR, GT)]
        if pair[0] is None or pair[1] is None:
            continue
        limits = {task: 2 * loss for task, loss in table.by_task(setting, GT, IN).items()}
        slow, fast = pair[0].steps_to(limits), pair[1].steps_to(limits)
        values += [(t, math.log(slow[t] / fast[t])) for t in sorted(slow.keys() & fast.keys())]
    if not values:
        return replace(finding, why="takes the logs of runs: modeval findings SWEEP-FOLDER")
    return _mean(finding, values)


def _partly(table: Table) -> PaperFinding:
    finding = PaperFinding(
        name="F11",
        statement="Training end to end specialises modules, but only in part",
        measured="alignment_score of Modular: above 0 (uniform routing) and below 1/2",
    )
    values = [
        (task, value)
        for setting in table.settings
        for task, value in table.by_task(setting, MODULAR, "alignment_score").items()
    ]
    above = _mean(finding, values)
    if above.low is None or above.high is None:
        return above
    verdict: Verdict = "cannot be told"
    if above.low > 0 and above.high < HALF:
        verdict = "holds"
    elif above.high < 0 or above.low > HALF:
        verdict = "does not hold"
    return replace(above, verdict=verdict)
