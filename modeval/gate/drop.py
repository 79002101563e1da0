"""Judging ``max_drop``: did it get worse than the baseline, beyond margin and noise?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.special import stdtrit

from modeval.gate.claims import Item, claims
from modeval.gate.limits import MANY
from modeval.gate.policy import On
from modeval.gate.verdicts import (
    Asked,
    Judged,
    Outcome,
    few_samples,
    figure,
    holm_adjusted,
    measured,
    more_noise,
    more_samples,
    value_of,
    verdict_of,
)
from modeval.score.differences import Difference, differences
from modeval.score.partners import comparable, partner, same_seeds


def against_baseline(asked: Asked, items: Sequence[Item]) -> list[Judged]:
    """Judge ``max_drop``, paired by seed and layer, corrected for the number of items."""
    baseline = asked.baseline
    if baseline is None:
        raise ValueError("require_possible has seen to it that a policy with max_drop has one")
    record = partner(asked.model, baseline)
    faults = comparable(
        *(asked.card, asked.model, baseline, record),
        metric=asked.requirement.metric,
        axis=asked.requirement.place.axis,
    )
    if faults or record is None:
        return [_incomparable(asked, item, "; ".join(faults)) for item in items]
    others = {
        (other.layer, other.rule, other.module, other.seed): other
        for each in claims(baseline, record, asked.requirement)
        for other in each.items
    }
    compared = [
        _compare(item, others.get((item.layer, item.rule, item.module, item.seed)))
        for item in items
    ]
    tests = holm_adjusted(
        [None if isinstance(each, str) else each.drop.p_above() for each in compared]
    )
    return [
        _incomparable(asked, item, each)
        if isinstance(each, str)
        else _judge(asked, item, each, p_value, many=len(items) > 1)
        for item, each, p_value in zip(items, compared, tests, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Compared:
    """The drop of one item, the values that it is between, and their marks of few samples."""

    drop: Difference
    new: float
    old: float
    unpaired: int
    few: str = ""
    few_before: str = ""


def _compare(item: Item, other: Item | None) -> "_Compared | str":
    """Return the drop of an item against its partner, or why there is none."""
    if other is None or other.score is None:
        return f"the baseline has no {measured(item).metric} there"
    new, old, unpaired = same_seeds(item.seeds, other.seeds)
    if not new:
        return (
            "the baseline has no seed in common with this scorecard, or no number for those it has"
        )
    sign = -1 if measured(item).better == "higher" else 1
    drop = differences(new, old, sign=sign)
    values = [math.fsum(value_of(each) for each in part) / len(part) for part in (new, old)]
    few, before = (each.note if few_samples(each) else "" for each in (measured(item), other.score))
    marked = f"of the baseline: {before}" if before else ""
    return _Compared(drop, values[0], values[1], unpaired, few, marked)


def _incomparable(asked: Asked, item: Item, reason: str) -> Judged:
    verdict = verdict_of(
        asked,
        item,
        "error",
        f"it cannot be compared with the baseline: {reason}",
        "Score a baseline of the same task and model, with the same seeds: modeval score RUN "
        "--json main.json",
    )
    return Judged(verdict, 0.0)


def decide_drop(
    on: On, drop: Difference, margin: float, p_value: float | None, *, size: float
) -> Outcome:
    """Return the outcome of a drop: the table of :mod:`modeval.gate.gate`.

    Args:
        on: whether a drop must be shown (``value``), or ruled out (``bound``).
        drop: how much worse it got.
        margin: how much worse it may get.
        p_value: that there is no drop; null where nothing tells the noise.
        size: of the tests.
    """
    if drop.value > margin and p_value is not None and p_value <= size:
        return "fail"
    if drop.value > margin and p_value is None:
        return "inconclusive"
    if on == "value":
        return "pass"
    reach = _reach(drop, 1 - size)
    ruled_out = reach is not None and drop.value + reach <= margin
    return "pass" if ruled_out else "inconclusive"


def _reach(drop: Difference, level: float) -> float | None:
    """Return how far the one-sided interval reaches above the drop."""
    return None if drop.error is None else drop.error * float(stdtrit(drop.freedom, level))


def _judge(
    asked: Asked, item: Item, found: _Compared, p_value: float | None, *, many: bool
) -> Judged:
    requirement, drop = asked.requirement, found.drop
    margin = requirement.limit or 0.0
    facts = _facts(found, margin, p_value, many=many)
    outcome = decide_drop(requirement.on, drop, margin, p_value, size=asked.size)
    # Few samples flatter: they hide a drop here, and make one where the baseline has few.
    few = {"pass": found.few, "fail": found.few_before}.get(outcome, "")
    if few:
        outcome = "inconclusive"
        why, advice = f"{facts}, but {few}", more_samples(asked)
    else:
        why = facts + _because(asked, drop, margin, p_value, outcome)
        advice = _advice(asked, drop, margin, p_value, outcome)
    verdict = replace(
        verdict_of(asked, item, outcome, why, advice),
        p_value=p_value,
        baseline=found.old,
        drop=drop.value,
        noise=drop.error,
        pairs=drop.pairs,
    )
    return Judged(verdict, drop.value)


def _facts(found: _Compared, margin: float, p_value: float | None, *, many: bool) -> str:
    drop = found.drop
    change = "the same"
    if drop.value:
        change = f"{figure(abs(drop.value), margin)} {'worse' if drop.value > 0 else 'better'}"
    pairs = f" over {drop.pairs} pairs of seeds" if drop.noise == "seeds" else ""
    left = f", {found.unpaired} without a partner left out" if found.unpaired else ""
    noise = "noise unknown"
    if drop.error is not None and p_value is not None:
        corrected = ", corrected for several" if many else ""
        noise = f"noise ±{figure(drop.error)}, p = {p_value:.2g}{corrected}"
    return (
        f"{figure(found.new)} against {figure(found.old)} of the baseline: {change}{pairs}{left} "
        f"({noise})"
    )


def _because(
    asked: Asked, drop: Difference, margin: float, p_value: float | None, outcome: Outcome
) -> str:
    if outcome == "fail":
        alone = drop.noise == "samples" and not asked.traced
        of_samples = " of the samples (one seed tells nothing of training)" if alone else ""
        return f": beyond the margin and beyond the noise{of_samples}"
    if outcome == "pass" and asked.requirement.on == "bound":
        return ": all of its interval is within the margin"
    if outcome == "pass":
        return ": beyond the margin, but not beyond the noise" if drop.value > margin else ""
    if p_value is None:
        return ": nothing tells the noise"
    return ": a drop beyond the margin cannot be ruled out"


def _advice(
    asked: Asked, drop: Difference, margin: float, p_value: float | None, outcome: Outcome
) -> str:
    if outcome == "pass":
        return ""
    if outcome == "fail":
        return "Look at what changed since the baseline: modeval compare BASELINE SCORECARD."
    if p_value is None:
        return f"{more_noise(asked)}, for both."
    gap, reach = abs(margin - drop.value), _reach(drop, 1 - asked.size)
    if not gap or reach is None:
        return "Train more seeds, or widen the margin."
    factor = (reach / gap) ** 2
    if drop.noise == "samples":
        return f"About {factor:.1f} times the samples would tell."
    return f"About {min(math.ceil(drop.pairs * factor), MANY)} seeds would tell."
