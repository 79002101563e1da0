"""The findings of "Is a Modular Architecture Enough?", each checked on a scorecard.

A finding is a statement about orderings: the paper prints figures and no tables. Each is turned
into one number or several, with intervals over tasks. It *holds* when all of the interval lies on
the side of the statement, it *does not* when all lies on the other side, and else it *cannot be
told*. Numbers are those of single seeds, averaged within a task first.

Source: Mittal, Bengio, Lajoie 2022, arXiv 2206.02713, sections 5 and 6.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modeval.errors import ScorecardError
from modeval.report.paper.deciding import (
    PaperFinding,
    Verdict,
    by_mean,
    by_share,
    by_wins,
    decided,
    without,
)
from modeval.report.paper.seed_table import (
    GT,
    MODULAR,
    MONOLITHIC,
    OP,
    SeedTable,
    Setting,
    of_the_paper,
)
from modeval.report.paper.speed import Curve, speed
from modeval.report.paper.winners import wins
from modeval.score.scorecard import Scorecard

IN, OUT = "in_distribution_loss", "out_of_distribution_loss"
DISTANCE, INFORMATION = "alignment_distance", "inverse_mutual_information"
MANY_RULES = 8
NOT_HUGE = 0.7
"""Ratio of losses down to which a gap is not huge."""

Number = Callable[[Setting, int], float | None]


def paper_findings(
    card: Scorecard, curves: Mapping[tuple[Setting, str], Curve] | None = None
) -> list[PaperFinding]:
    """Check F1 to F12 on a scorecard.

    Args:
        card: of the paper's four models, the more settings and tasks the better.
        curves: validation losses of runs by setting and model, for the speed of training (F10).

    Raises:
        ScorecardError: the scorecard has none of these models.
    """
    table = of_the_paper(card)
    if not table.values:
        raise ScorecardError(
            "The scorecard has no seeds of Monolithic, Modular, Modular-op or GT-Modular. Train "
            "them with: modeval sweep plan demo --out runs/grid"
        )
    return [
        *_rankings(table),
        *_distraction(table),
        *_out_of_distribution(table),
        *_collapse(table),
        *_specialisation(table),
        _basis(table),
        *speed(table, curves or {}),
        _partly(table),
        *_variants(table),
    ]


# --- numbers -------------------------------------------------------------------------------------


def _both(
    table: SeedTable, metric: str, one: str, other: str, settings: Sequence[Setting]
) -> Iterator[tuple[Setting, int, float, float]]:
    """Return the tasks that two models share in each setting, with both means."""
    for setting in settings:
        mine, its = (table.by_task(setting, model, metric) for model in (one, other))
        for task in sorted(mine.keys() & its.keys()):
            yield setting, task, mine[task], its[task]


def _lower(
    table: SeedTable, metric: str, one: str, other: str, settings: Sequence[Setting]
) -> dict[object, list[float]]:
    """Return for each task in which of its settings the other model's number is lower."""
    found: dict[object, list[float]] = {}
    for setting, task, mine, its in _both(table, metric, one, other, settings):
        outcome = 0.5 if its == mine else float(its < mine)
        found.setdefault((setting.task, setting.rules, task), []).append(outcome)
    return found


def _less(table: SeedTable, metric: str, one: str, other: str) -> list[tuple[int, float]]:
    return [
        (task, mine - its)
        for _, task, mine, its in _both(table, metric, one, other, table.settings)
    ]


def _log_ratios(
    table: SeedTable, metric: str, one: str, other: str, settings: Sequence[Setting]
) -> list[tuple[Setting, int, float]]:
    return [
        (setting, task, math.log(mine / its))
        for setting, task, mine, its in _both(table, metric, one, other, settings)
        if min(mine, its) > 0
    ]


def _many(table: SeedTable) -> list[Setting]:
    return [setting for setting in table.settings if setting.rules >= MANY_RULES]


def _grows(table: SeedTable, model: str, number: Number) -> dict[object, list[float]]:
    """Tell for each task whether a number grows with R: Spearman's correlation > 0.

    A task is one witness, whatever the sizes of the models.
    """
    found: dict[object, list[float]] = {}
    for family in sorted({setting.family for setting in table.settings}):
        settings = [setting for setting in table.settings if setting.family == family]
        tasks = {task for s in settings for task in table.by_task(s, model, IN)}
        for task in sorted(tasks):
            points = [(s.rules, value) for s in settings if (value := number(s, task)) is not None]
            if len({value for _, value in points}) > 1 and len(points) > 2:  # noqa: PLR2004
                rules, values = zip(*points, strict=True)
                grows = float(_rank_covariance(rules, values) > 0)
                found.setdefault((settings[0].task, task), []).append(grows)
    return found


def _rank_covariance(one: Sequence[float], two: Sequence[float]) -> float:
    """Return what has the sign of Spearman's correlation, exactly: ranks are halves.

    scipy.stats has the correlation, and takes a second to load.
    """
    first, later = _ranks(one), _ranks(two)
    return float((first - first.mean()) @ (later - later.mean()))


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Return ranks from 1, equal values sharing the mean of theirs."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    return (times.cumsum() - (times - 1) / 2)[place]


def _of_task(table: SeedTable, model: str, metric: str) -> Number:
    return lambda setting, task: table.by_task(setting, model, metric).get(task)


def _of_ratio(table: SeedTable, one: str, other: str) -> Number:
    ratios = {
        (setting, task): ratio
        for setting, task, ratio in _log_ratios(table, IN, one, other, table.settings)
    }
    return lambda setting, task: ratios.get((setting, task))


# --- F1 to F5: losses ----------------------------------------------------------------------------


def _rankings(table: SeedTable) -> Iterator[PaperFinding]:
    share = "share of settings and tasks in which its loss is the lowest of the "
    yield by_wins(
        PaperFinding(name="F1", statement="GT-Modular wins most settings", measured=share + "four"),
        wins(table, table.settings, (MONOLITHIC, MODULAR, OP, GT), IN).get(GT),
    )
    yield by_wins(
        PaperFinding(name="F2", statement="Modular beats Monolithic", measured=share + "two"),
        wins(table, table.settings, (MONOLITHIC, MODULAR), IN).get(MODULAR),
    )
    ratios = _log_ratios(table, IN, MODULAR, MONOLITHIC, table.settings)
    yield by_mean(
        PaperFinding(
            name="F2",
            statement="... but not by a huge gap",
            measured=f"log of the loss of Modular / that of Monolithic, above log {NOT_HUGE}",
            boundary=math.log(NOT_HUGE),
            ceiling=0.0,
        ),
        [(task, ratio) for _, task, ratio in ratios],
    )
    yield by_share(
        PaperFinding(
            name="F3",
            statement="Perfect specialisation pays the more, the more rules there are",
            measured="share of tasks in which loss of Monolithic / loss of GT-Modular grows with R",
        ),
        _grows(table, GT, _of_ratio(table, MONOLITHIC, GT)),
    )
    yield by_mean(
        PaperFinding(
            name="F3",
            statement="... and little with few: the gain at most rules is larger than at fewest",
            measured="log of loss of Monolithic / loss of GT-Modular, at most rules less at fewest",
        ),
        list(_from_few_to_many(table)),
    )


def _from_few_to_many(table: SeedTable) -> Iterator[tuple[int, float]]:
    number = _of_ratio(table, MONOLITHIC, GT)
    for family in sorted({setting.family for setting in table.settings}):
        settings = [setting for setting in table.settings if setting.family == family]
        few, many = settings[0], settings[-1]
        for task in sorted(table.by_task(few, GT, IN)) if few != many else ():
            ends = number(few, task), number(many, task)
            if ends[0] is not None and ends[1] is not None:
                yield task, ends[1] - ends[0]


def _distraction(table: SeedTable) -> Iterator[PaperFinding]:
    yield by_share(
        PaperFinding(
            name="F4",
            statement="Modular is distracted by its inputs: Modular-op does better with many rules",
            measured=f"share of settings (R >= {MANY_RULES}) and tasks in which its loss is lower",
        ),
        _lower(table, IN, MODULAR, OP, _many(table)),
    )
    yield by_mean(
        PaperFinding(
            name="F4",
            statement="... for its routing follows the inputs where the rule is the same",
            measured="input_distraction I(m; x | r) of Modular less that of Modular-op, in nats",
        ),
        _less(table, "input_distraction", MODULAR, OP),
    )


def _out_of_distribution(table: SeedTable) -> Iterator[PaperFinding]:
    yield by_share(
        PaperFinding(
            name="F5",
            statement="Perfect specialisation helps out of distribution, above all with many rules",
            measured=f"share of settings (R >= {MANY_RULES}) and tasks in which the loss of "
            "GT-Modular out of distribution is below that of Modular",
        ),
        _lower(table, OUT, MODULAR, GT, _many(table)),
    )
    inside = {
        (setting, task): ratio
        for setting, task, ratio in _log_ratios(table, IN, MODULAR, GT, _many(table))
    }
    outside = _log_ratios(table, OUT, MODULAR, GT, _many(table))
    yield by_mean(
        PaperFinding(
            name="F5",
            role="report",
            statement="(a reading of it) The gap is larger out of distribution than in it",
            measured="log of loss of Modular / loss of GT-Modular, out of distribution less in it "
            f"(R >= {MANY_RULES})",
        ),
        [
            (task, ratio - inside[setting, task])
            for setting, task, ratio in outside
            if (setting, task) in inside
        ],
    )


# --- F6 to F9: routing ---------------------------------------------------------------------------


def _collapse(table: SeedTable) -> Iterator[PaperFinding]:
    for model, title in ((MODULAR, "Modular"), (OP, "Modular-op")):
        yield by_share(
            PaperFinding(
                name="F6",
                statement=f"Collapse of {title} grows with the number of rules",
                measured="share of tasks in which collapse_worst grows with R",
            ),
            _grows(table, model, _of_task(table, model, "collapse_worst")),
        )
    yield _never_collapses(table)
    for metric, role in (("collapse_avg", "finding"), ("collapse_worst", "report")):
        yield by_mean(
            PaperFinding(
                name="F7",
                role="finding" if role == "finding" else "report",
                statement="Modular-op collapses less than Modular"
                if role == "finding"
                else "... and the same of the worst module, which the paper does not say",
                measured=f"{metric} of Modular less that of Modular-op",
            ),
            _less(table, metric, MODULAR, OP),
        )


def _never_collapses(table: SeedTable) -> PaperFinding:
    finding = PaperFinding(
        name="F6",
        statement="GT-Modular does not collapse at all",
        measured="largest collapse_worst of any seed of GT-Modular: 0",
    )
    values = [
        value
        for setting in table.settings
        for value in table.seeds(setting, GT, "collapse_worst").values()
    ]
    if not values:
        return without(finding)
    worst = max(values)
    said = f"exact, of {len(values)} seeds"
    verdict: Verdict = "holds" if worst < 1e-9 else "does not hold"  # noqa: PLR2004 - 0 but for rounding
    return replace(finding, value=worst, verdict=verdict, why=said)


def _specialisation(table: SeedTable) -> Iterator[PaperFinding]:
    for model, title in ((MODULAR, "Modular"), (OP, "Modular-op")):
        yield by_share(
            PaperFinding(
                name="F8",
                statement=f"Specialisation of {title} gets worse with the number of rules",
                measured=f"share of tasks in which {INFORMATION} grows with R",
            ),
            _grows(table, model, _of_task(table, model, INFORMATION)),
        )
    yield by_mean(
        PaperFinding(
            name="F8",
            statement="Modular-op specialises at least as well as Modular",
            measured=f"{DISTANCE} of Modular less that of Modular-op",
        ),
        _less(table, DISTANCE, MODULAR, OP),
    )
    for model, title in ((MODULAR, "Modular"), (OP, "Modular-op")):
        yield by_mean(
            PaperFinding(
                name="F8",
                statement=f"{title} specialises more than random routing",
                measured=f"{DISTANCE} of uniform routing less its own",
            ),
            _below_chance(table, model, DISTANCE),
        )
    yield by_mean(
        PaperFinding(
            name="F8",
            statement="... and all are far from perfect specialisation",
            measured=f"{DISTANCE} of Modular-op less that of GT-Modular",
        ),
        _less(table, DISTANCE, OP, GT),
    )


def _below_chance(table: SeedTable, model: str, metric: str) -> list[tuple[int, float]]:
    return [
        (task, chance - value)
        for setting in table.settings
        if (chance := table.chances.get((setting, model, metric))) is not None
        for task, value in table.by_task(setting, model, metric).items()
    ]


def _basis(table: SeedTable) -> PaperFinding:
    """Say where low alignment is no failure, beside the number that tells: what hardening costs."""
    finding = PaperFinding(
        name="F9",
        role="caution",
        statement="Rules of the linear binary task lie in a space of two dimensions, which two "
        "modules span: low alignment is no failure there",
        measured="hard_gap of Modular on it: loss added when each sample goes to one module",
    )
    linear = [setting for setting in table.settings if _is_linear(setting)]
    values = [
        (task, value)
        for setting in linear
        for task, value in table.by_task(setting, MODULAR, "hard_gap").items()
    ]
    if not linear:
        return without(finding, "no setting of this scorecard is of that task")
    return by_mean(finding, values)


def _is_linear(setting: Setting) -> bool:
    task, objective, _, operation = setting.task
    return (task, objective, operation) == ("binary", "regression", "linear")


def _partly(table: SeedTable) -> PaperFinding:
    finding = PaperFinding(
        name="F11",
        statement="Training end to end specialises modules, but only in part",
        measured="alignment_score of Modular: above 0 (uniform routing), below 1/2",
        ceiling=0.5,
    )
    return by_mean(
        finding,
        [
            (task, value)
            for setting in table.settings
            for task, value in table.by_task(setting, MODULAR, "alignment_score").items()
        ],
    )


def _variants(table: SeedTable) -> Iterator[PaperFinding]:
    """Report what the paper leaves to its appendix: versions of the search, and sizes."""
    for what, split in (("searches", _search), ("sizes of models", _size)):
        finding = PaperFinding(
            name="F12",
            role="report",
            statement=f"Differences between {what}: in the paper's appendix alone",
            measured="alignment_score of Modular",
        )
        kinds = sorted({split(setting) for setting in table.settings} - {""}, key=_natural)
        if len(kinds) < 2:  # noqa: PLR2004
            said = f"all of one kind ({kinds[0]})" if kinds else "none here"
            yield without(finding, f"nothing to compare: {said}")
            continue
        for kind in kinds:
            values = [
                (task, value)
                for setting in table.settings
                if split(setting) == kind
                for task, value in table.by_task(setting, MODULAR, "alignment_score").items()
            ]
            yield by_mean(replace(finding, measured=f"{finding.measured}, {kind}"), values)
    yield decided(
        PaperFinding(
            name="F12",
            role="report",
            statement="Training on little data: future work in the paper",
            measured="",
            why="every step draws fresh samples: nothing here is trained on little data",
        )
    )


def _search(setting: Setting) -> str:
    search = setting.task[2]
    return "" if search == "None" or setting.task[0] != "sets" else f"search {search}"


def _size(setting: Setting) -> str:
    return "x".join(setting.sizes)


def _natural(kind: str) -> tuple[int, str]:
    digits = kind.partition("x")[0]
    return int(digits) if digits.isdecimal() else 0, kind
