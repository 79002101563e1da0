"""Judging a limit: is the value, or all of its interval, on the right side?"""

import math
from collections.abc import Sequence
from dataclasses import replace

from modeval.gate.claims import Item
from modeval.gate.policy import On
from modeval.gate.verdicts import (
    Asked,
    JudgedInterval,
    Outcome,
    Verdict,
    few_words,
    figure,
    flatters,
    interval_of,
    measured,
    more_noise,
    more_samples,
    slanders,
    value_of,
    verdict_of,
)
from modeval.metrics.table import METRICS
from modeval.score.scorecard import LEVEL, Score

MANY = 1000


def decide(on: On, beyond: float, ends: tuple[float, float] | None) -> Outcome:
    """Return the outcome of a limit: the table of :mod:`modeval.gate.gate`.

    Args:
        on: whether the value decides or its interval.
        beyond: how far the value is on the wrong side of the limit; 0 is on the right side.
        ends: likewise of the good and the bad end of its interval; null where there is none to
            rely on.

    >>> decide("value", 0.0, (-0.1, 0.1)), decide("bound", 0.0, (-0.1, 0.1))
    ('pass', 'inconclusive')
    """
    if on == "value":
        return "pass" if beyond <= 0 else "fail"
    if ends is None:
        return "inconclusive"
    good, bad = ends
    return "pass" if bad <= 0 else "fail" if good > 0 else "inconclusive"


def within_limit(asked: Asked, items: Sequence[Item]) -> list[Verdict]:
    """Judge a ``max`` or a ``min`` for each item."""
    return [_judge(asked, item) for item in items]


def _judge(asked: Asked, item: Item) -> Verdict:
    requirement, score = asked.requirement, measured(item)
    limit = requirement.limit or 0.0
    sign = 1 if requirement.comparison == "max" else -1
    beyond = sign * (value_of(score) - limit)
    interval = interval_of(asked, item)
    ends = _ends(interval, limit, sign)
    outcome = decide(requirement.on, beyond, None if interval.reason else ends)
    relation = "keeps to" if beyond <= 0 else "is above" if sign > 0 else "is below"
    facts = f"{figure(value_of(score), limit)} {relation} {figure(limit)}"
    # few samples shift a score one way: an outcome that it was shifted to is none
    if (outcome == "pass" and flatters(score)) or (outcome == "fail" and slanders(score)):
        outcome = "inconclusive"
        why, advice = f"{facts}, but {few_words(score)}", more_samples(asked)
    else:
        why = facts + _about_interval(asked, interval, ends, outcome)
        advice = _advice(asked, score, outcome, beyond, None if interval.reason else ends)
    return replace(
        verdict_of(asked, item, outcome, why, advice),
        distance=beyond if requirement.on == "value" or ends is None else ends[1],
        narrow=outcome == "pass" and ends is not None and ends[1] > 0,
    )


def _ends(interval: JudgedInterval, limit: float, sign: int) -> tuple[float, float] | None:
    """Return how far the good and the bad end are beyond the limit."""
    if interval.low is None or interval.high is None:
        return None
    low, high = sign * (interval.low - limit), sign * (interval.high - limit)
    return min(low, high), max(low, high)


def _about_interval(
    asked: Asked, interval: JudgedInterval, ends: tuple[float, float] | None, outcome: Outcome
) -> str:
    """Say what the interval has to do with it."""
    limit, by_value = asked.requirement.limit, asked.requirement.on == "value"
    if interval.reason or ends is None or interval.low is None or interval.high is None:
        return "" if by_value else f", but {interval.reason}"
    words = (
        f"its {LEVEL:.0%} interval over {interval.over}, "
        f"{figure(interval.low, limit)} to {figure(interval.high, limit)},"
    )
    good, bad = ends
    if by_value:
        if good <= 0 < bad:
            side = "past the limit" if outcome == "pass" else "back to the limit"
            return f", though {words} reaches {side}"
        return ""
    if outcome == "inconclusive":
        return f", but {words} lies on both sides of the limit"
    return f", and so {'does' if outcome == 'pass' else 'is'} all of {words.rstrip(',')}"


def _advice(
    asked: Asked,
    score: Score,
    outcome: Outcome,
    beyond: float,
    relied: tuple[float, float] | None,
) -> str:
    if outcome == "pass":
        return ""
    if outcome == "fail":
        explained = score.metric in METRICS
        return f"modeval metrics {score.metric} says what it means." if explained else ""
    if relied is None:
        return f'{more_noise(asked)}, or let the value decide: on = "value".'
    reach = relied[1] - beyond if beyond <= 0 else beyond - relied[0]
    return how_many(asked, score, reach=reach, gap=beyond)


def how_many(asked: Asked, score: Score, *, reach: float, gap: float) -> str:
    """Say how much more data would decide, if noise shrinks with its square root.

    Args:
        asked: what is asked.
        score: what was measured.
        reach: from the value to the end of its interval that is on the other side of the limit.
        gap: from the value to the limit.
    """
    if gap == 0:
        return "The value lies on the limit: no number of samples decides it. Move the limit."
    factor = (reach / abs(gap)) ** 2
    if score.seeds > 1:
        wanted = math.ceil(score.seeds * factor)
        if wanted > MANY:
            return f"The value is too near the limit: more than {MANY} seeds would be needed."
        return f"About {wanted} seeds in place of {score.seeds} would tell."
    if factor > MANY:
        return f"The value is too near the limit: more than {MANY} times the samples are needed."
    what = "documents" if asked.traced else "samples (lower --precision)"
    return f"About {factor:.1f} times the {what} would tell."
