"""Judging ``max_drop`` and ``max_change``: is it worse, or other, than the baseline?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modeval.gate.claims import Item, claims
from modeval.gate.limits import MANY
from modeval.gate.missing import missing_from
from modeval.gate.policy import On
from modeval.gate.policy_check import sizes_of
from modeval.gate.verdicts import (
    SIZE,
    Asked,
    Outcome,
    Verdict,
    few_words,
    figure,
    flatters,
    holm_adjusted,
    measured,
    more_noise,
    more_samples,
    p_words,
    slanders,
    value_of,
    verdict_of,
)
from modeval.metrics.table import metric_of
from modeval.score.comparison.differences import Difference, differences
from modeval.score.comparison.partners import comparable, named_partner, partner, same_seeds
from modeval.score.scorecard import ModelRecord, Score, Seed

ALIKE = 1.05
"""Ratio of numbers of samples up to which they count as the same."""


def against_baseline(asked: Asked, items: Sequence[Item]) -> list[Verdict]:
    """Judge ``max_drop`` or ``max_change``, paired by seed and layer, corrected for several."""
    baseline = asked.baseline
    if baseline is None:
        raise ValueError("require_possible has seen to it that a policy with max_drop has one")
    record = baseline_of(asked)
    faults = comparable(
        *(asked.card, asked.model, baseline, record),
        metric=asked.requirement.metric,
        axis=asked.requirement.scope.axis,
    )
    if faults or record is None:
        return [_incomparable(asked, item, "; ".join(faults)) for item in items]
    theirs = replace(asked, card=baseline, model=record)
    ignore = asked.policy.failed_seeds == "ignore"
    others = {
        other.key: other
        for claim in claims(baseline, record, asked.requirement, ignore_failed=ignore)
        for other in claim
    }
    compared = [_compare(asked, item, others.get(item.key)) for item in items]
    changes = asked.requirement.comparison == "max_change"
    idle = "" if changes else _idle(asked, [each for each in compared if not isinstance(each, str)])
    if idle:
        advice = "Allow a smaller drop, or give the number itself a limit: --min or --max."
        return [verdict_of(asked, item, "error", idle, advice) for item in items]
    margin = asked.requirement.limit or 0.0
    tests = holm_adjusted(
        [
            None
            if isinstance(each, str)
            else _size_of(each.drop).p_above(margin)
            if changes
            else each.drop.p_above()
            for each in compared
        ]
    )
    judge = _judge_change if changes else _judge
    return [
        _incomparable(asked, item, each)
        if isinstance(each, str)
        else _without_gaps(theirs, item, judge(asked, item, each, p_value, many=len(items) > 1))
        for item, each, p_value in zip(items, compared, tests, strict=True)
    ]


def baseline_of(asked: Asked) -> ModelRecord | None:
    """Return the model of the baseline that this one is held against."""
    if asked.baseline is None:
        return None
    if asked.policy.baseline_model is not None:
        return named_partner(asked.policy.baseline_model, asked.baseline)
    return partner(asked.model, asked.baseline, alone=False)


@dataclass(frozen=True, slots=True)
class _Compared:
    """The drop of one item, and what it is between.

    Attributes:
        drop: how much worse it got, over pairs.
        new: mean of the new values, as far as they have partners.
        old: mean of their partners.
        extra: seeds of the new side without a partner.
        absent: seeds of the baseline without a partner.
        level: what was taken off both sides, in words; empty for nothing.
        new_score: the measurement.
        old_score: that of the baseline.
        unlike: why the two are of unlike numbers of samples that nothing makes up for.
    """

    drop: Difference
    new: float
    old: float
    extra: int
    absent: tuple[Seed, ...]
    level: str
    new_score: Score
    old_score: Score
    unlike: str = ""


def _compare(asked: Asked, item: Item, other: Item | None) -> "_Compared | str":
    """Return the drop of an item against its partner, or why there is none."""
    score = measured(item)
    if other is None or other.score is None:
        return f"the baseline has no {score.metric} there"
    new, old = same_seeds(item.singles, other.singles)
    if not new:
        return (
            "the baseline has no seed in common with this scorecard, or no number for those it has"
        )
    ignored = _failed(asked.model) if asked.policy.failed_seeds == "ignore" else set()
    shared = {each.seed for each in new}
    absent = {each.seed for each in other.singles} | {*other.missing}
    absent -= shared | ignored
    sign = -1 if score.better == "higher" else 1
    fair = _alike(new, old)
    values = [math.fsum(value_of(each) for each in side) / len(side) for side in (new, old)]
    return _Compared(
        drop=differences(*fair.sides, sign=sign),
        new=values[0],
        old=values[1],
        extra=len({each.seed for each in item.singles} - shared),
        absent=tuple(sorted(seed for seed in absent if seed is not None)),
        level=fair.level,
        new_score=score,
        old_score=other.score,
        unlike=fair.unlike,
    )


def _idle(asked: Asked, compared: Sequence[_Compared]) -> str:
    """Say that no drop from this baseline can be so large; empty where one can be."""
    row, margin = metric_of(asked.requirement.metric), asked.requirement.limit or 0.0
    if row is None or not compared or asked.requirement.scope.axis:
        return ""
    ends = [row.bounds(*size, asked.model.prior) for size in sizes_of(asked.model)]
    if not ends:
        return ""
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    up = row.better == "higher"
    if any((each.old - low if up else high - each.old) > margin for each in compared):
        return ""
    best = (max if up else min)(each.old for each in compared)
    return (
        f"the baseline has {figure(best)} and the worst there is is {figure(low if up else high)}, "
        f"so a drop of {margin:g} can never be exceeded"
    )


def _failed(model: ModelRecord) -> set[Seed | None]:
    return {member.seed for member in model.members if member.status == "failed"}


# --- traces of unlike size -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fair:
    """Two sides that few samples shift alike, what was done for that, and what could not be."""

    sides: tuple[list[Score], list[Score]]
    level: str = ""
    unlike: str = ""


def _alike(new: list[Score], old: list[Score]) -> _Fair:
    """Take off what chance gives with so many samples, where the two sides have unlike numbers.

    A router that did not change scores better on few documents than on many. Values that are
    corrected for that can be compared as they are; others can where permuted labels tell how much
    chance gives on each side.
    """
    row = metric_of(new[0].metric)
    pairs = [*zip(new, old, strict=True)]
    if row is None or all(each.plug_in is not None for pair in pairs for each in pair):
        return _Fair((new, old))
    plain = (
        [_plain(each) for each in new],
        [_plain(each) for each in old],
    )  # as an older baseline is
    if row.few_samples == "neither" or all(_same_size(one, two) for one, two in pairs):
        return _Fair(plain)
    sides = [_above_chance(each) for each in plain[0]], [_above_chance(each) for each in plain[1]]
    if all(each.value is not None for side in sides for each in side):
        return _Fair(sides, level=", each without what permuted labels give")
    counts = [sum(each.samples or 0 for each in side) for side in (new, old)]
    return _Fair(
        plain,
        unlike=f"they are of unlike numbers of samples, {counts[0]:,} and {counts[1]:,}, and "
        f"{row.title.lower()} seems {row.few_samples} on fewer",
    )


def _plain(score: Score) -> Score:
    """Return a score as its formula gives it, not corrected for few samples."""
    return score if score.plug_in is None else replace(score, value=score.plug_in, plug_in=None)


def _same_size(one: Score, two: Score) -> bool:
    if not one.samples or not two.samples:
        return one.samples == two.samples
    return max(one.samples, two.samples) <= ALIKE * min(one.samples, two.samples)


def _above_chance(score: Score) -> Score:
    """Return a score without what chance gives; without a value where that is not known."""
    if score.chance_permuted is None or score.chance is None or score.value is None:
        return replace(score, value=None)
    return replace(score, value=score.value - (score.chance_permuted - score.chance))


# --- outcomes ------------------------------------------------------------------------------------


def _incomparable(asked: Asked, item: Item, reason: str) -> Verdict:
    return verdict_of(
        asked,
        item,
        "error",
        f"it cannot be compared with the baseline: {reason}",
        "Score a baseline of the same task and model, with the same seeds: modeval score RUN "
        "--json main.json",
    )


def _without_gaps(theirs: Asked, item: Item, verdict: Verdict) -> Verdict:
    """Let nothing pass against a baseline of which something was left out."""
    gap = missing_from(theirs, item.layer)
    if not gap or verdict.outcome == "fail":
        return verdict
    why = f"{verdict.why}, but of the baseline {gap}"
    return replace(verdict, outcome="error", why=why, advice="Score the baseline again, all of it.")


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
    reach = drop.reach(1 - size)
    ruled_out = reach is not None and drop.value + reach <= margin
    return "pass" if ruled_out else "inconclusive"


def decide_change(
    drop: Difference, margin: float, p_value: float | None, *, size: float
) -> Outcome:
    """Return the outcome of a change: is it shown to be smaller than the margin, either way?

    Two one-sided tests, each of the same size: both ends of the interval of level ``1 - 2 size``
    lie within the margin. Source: Schuirmann 1987.

    Args:
        drop: how much worse it got (or larger, where the metric has no direction).
        margin: how much other it may be.
        p_value: that it is no further off than the margin; null where nothing tells the noise.
        size: of each test.

    >>> change = Difference(value=0.01, error=0.01, freedom=30.0, pairs=31, noise="seeds")
    >>> [decide_change(change, margin, 0.5, size=0.05) for margin in (0.05, 0.02)]
    ['pass', 'inconclusive']
    """
    reach = drop.reach(1 - size)
    if reach is not None and abs(drop.value) + reach < margin:
        return "pass"
    return "fail" if p_value is not None and p_value <= size else "inconclusive"


def _size_of(drop: Difference) -> Difference:
    return replace(drop, value=abs(drop.value))


def _judge_change(
    asked: Asked, item: Item, compared: _Compared, p_value: float | None, *, many: bool
) -> Verdict:
    drop, margin = compared.drop, asked.requirement.limit or 0.0
    outcome = decide_change(drop, margin, p_value, size=SIZE)
    reach = drop.reach(1 - SIZE)
    if reach is None:
        because = f": {drop.reason or 'nothing tells the noise'}"
        advice = f"{more_noise(asked)}, for both."
    else:
        ends = f"{figure(drop.value - reach, margin)} to {figure(drop.value + reach, margin)}"
        because = {
            "pass": f": the change lies within {ends}, all of it smaller than the margin",
            "fail": ": shown to be larger than the margin",
        }.get(outcome, f": the change lies within {ends}, and a larger one cannot be ruled out")
        advice = "" if outcome == "pass" else _advice(asked, _size_of(drop), margin, 1.0, outcome)
    sides = (compared.new_score, compared.old_score)
    few = next((few_words(each) for each in sides if flatters(each) or slanders(each)), "")
    doubt = few or compared.unlike
    if doubt and outcome != "inconclusive":
        outcome, because, advice = "inconclusive", f", but {doubt}", more_samples(asked)
    said = _Said(outcome, because, advice)
    distance = abs(drop.value) + (reach or 0.0) - margin
    return _concluded(asked, item, compared, said, p_value, many=many, distance=distance)


def _judge(
    asked: Asked, item: Item, compared: _Compared, p_value: float | None, *, many: bool
) -> Verdict:
    requirement, drop = asked.requirement, compared.drop
    margin = requirement.limit or 0.0
    outcome = decide_drop(requirement.on, drop, margin, p_value, size=SIZE)
    because = _because(asked, drop, margin, p_value, outcome)
    advice = _advice(asked, drop, margin, p_value, outcome)
    doubt = _doubt(compared, outcome)
    if doubt:
        outcome, because, advice = "inconclusive", f", but {doubt}", more_samples(asked)
    return _concluded(
        *(asked, item, compared, _Said(outcome, because, advice), p_value),
        many=many,
        distance=drop.value,
        narrow=outcome == "pass" and drop.value > margin,
    )


@dataclass(frozen=True, slots=True)
class _Said:
    """What became of a requirement, why beside the facts, and what to do."""

    outcome: Outcome
    because: str
    advice: str


def _concluded(
    asked: Asked,
    item: Item,
    compared: _Compared,
    said: _Said,
    p_value: float | None,
    *,
    many: bool,
    distance: float,
    narrow: bool = False,
) -> Verdict:
    """Return the verdict, which no seed of the baseline that is not here lets pass."""
    if compared.absent and said.outcome != "fail":
        many_seeds = "s of the baseline are" if len(compared.absent) > 1 else " of the baseline is"
        said = _Said(
            "error",
            f", but {len(compared.absent)} seed{many_seeds} not here",
            "Train and score them, or leave them out on purpose, marked as failed, with "
            "--failed-seeds ignore.",
        )
    drop, margin = compared.drop, asked.requirement.limit or 0.0
    facts = _facts(compared, margin, p_value, many=many)
    return replace(
        verdict_of(asked, item, said.outcome, facts + said.because, said.advice),
        p_value=p_value,
        baseline=compared.old,
        drop=drop.value,
        noise=drop.error,
        pairs=drop.pairs,
        distance=distance,
        narrow=narrow and said.outcome == "pass",
    )


def _doubt(compared: _Compared, outcome: Outcome) -> str:
    """Say which side has too few samples, or unlike ones, for an outcome that they could make.

    What makes the new side look better, or the old one worse, hides a drop; the other way round
    it makes one.
    """
    new, old = compared.new_score, compared.old_score
    if outcome == "pass" and flatters(new):
        return few_words(new)
    if outcome == "pass" and slanders(old):
        return f"of the baseline: {few_words(old)}"
    if outcome == "fail" and slanders(new):
        return few_words(new)
    if outcome == "fail" and flatters(old):
        return f"of the baseline: {few_words(old)}"
    return compared.unlike if outcome in ("pass", "fail") else ""


def _facts(compared: _Compared, margin: float, p_value: float | None, *, many: bool) -> str:
    drop = compared.drop
    change = "the same"
    if drop.value:
        words = ("worse", "better") if compared.new_score.better else ("higher", "lower")
        change = f"{figure(abs(drop.value), margin)} {words[drop.value < 0]}"
    pairs = f" over {drop.pairs} pairs of seeds" if drop.noise == "seeds" else ""
    left = f", {compared.extra} without a partner left out" if compared.extra else ""
    noise = "noise unknown"
    if drop.error is not None and p_value is not None:
        corrected = ", corrected for several" if many else ""
        noise = f"noise ±{figure(drop.error)}, {p_words(p_value)}{corrected}"
    return (
        f"{figure(compared.new)} against {figure(compared.old)} of the baseline{compared.level}: "
        f"{change}{pairs}{left} ({noise})"
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
        return f": {drop.reason or 'nothing tells the noise'}"
    return ": a drop beyond the margin cannot be ruled out"


def _advice(
    asked: Asked, drop: Difference, margin: float, p_value: float | None, outcome: Outcome
) -> str:
    if outcome == "pass":
        return ""
    if outcome == "fail":
        files = f"{asked.policy.baseline or 'BASELINE'} {asked.source or 'SCORECARD'}"
        return f"Look at what changed since the baseline: modeval compare {files}"
    if p_value is None:
        return f"{more_noise(asked)}, for both."
    gap, reach = abs(margin - drop.value), drop.reach(1 - SIZE)
    if not gap or reach is None:
        return "Train more seeds, or widen the margin."
    factor = (reach / gap) ** 2
    if drop.noise == "samples":
        return f"About {factor:.1f} times the samples would tell."
    return f"About {min(math.ceil(drop.pairs * factor), MANY)} seeds would tell."
