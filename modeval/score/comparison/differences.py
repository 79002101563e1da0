"""Differences between measurements, and the noise that they are held against.

Where both have several seeds, seeds are paired: what a seed's task makes easy or hard cancels,
and the noise is seen in how much the differences differ, one number for each task where there are
several (:mod:`modeval.score.inference.seeds`). Two checks of one model may differ by the samples
that were drawn, too; when all seeds see the same samples this does not show in the spread over
seeds, so it is added, which errs on the side of too much noise. With one pair, as for traces, the
sampling errors are all there is: they tell what another sample would change, not what another
training would.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modeval.score.inference import student
from modeval.score.inference.seeds import (
    SeedEstimate,
    seed_contrast,
    seed_difference,
    seed_mean,
)
from modeval.score.scorecard import LEVEL, Score

BLOCKS_FREEDOM = 31.0
"""Degrees of freedom of sampling errors: they are estimated from at least 32 blocks."""
NORMAL = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much larger one measurement is than another, and how sure that is.

    Attributes:
        value: mean of the differences, of those of each task where there are several.
        error: its standard error; null where nothing tells it, as when all differences are equal.
        freedom: degrees of freedom of that error.
        pairs: number of pairs.
        noise: what the error was judged from: the spread over ``seeds``, or ``samples`` alone.
        low: lower end of the two-sided interval; null where there is none.
        high: upper end.
        reason: why nothing tells the noise, in words; empty where it is known.
    """

    value: float
    error: float | None
    freedom: float
    pairs: int
    noise: Literal["seeds", "samples"]
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def interval(self) -> tuple[float, float] | None:
        """Return the two-sided interval, if there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def p_above(self, limit: float = 0.0) -> float | None:
        """Return the one-sided p value that the difference is no larger than ``limit``.

        It is never 0; nothing where no noise is seen, for equal numbers prove nothing.
        """
        if not self.error or not self.freedom:
            return None
        found = student.below(self.freedom, (limit - self.value) / self.error)
        return max(found, sys.float_info.min)

    def reach(self, level: float) -> float | None:
        """Return how far the one-sided interval of that level reaches above the value."""
        if not self.error or not self.freedom:
            return None
        return self.error * student.quantile(self.freedom, level)


def differences(new: Sequence[Score], old: Sequence[Score], *, sign: int = 1) -> Difference:
    """Compare two measurements, pair by pair: ``mean of sign · (new - old)``.

    Args:
        new: scores whose value is a number.
        old: as many, in the order of their partners.
        sign: -1 turns the difference round.
    """
    values = [sign * (_value(one) - _value(two)) for one, two in zip(new, old, strict=True)]
    errors = [sampling_error(new), sampling_error(old)]
    if len(values) == 1:
        return _of_one(values[0], errors)
    zeros = [0.0] * len(values)
    return _of_seeds(
        seed_difference(values, zeros, tasks_of(new), sampling_error=_together(errors))
    )


def above(scores: Sequence[Score], level: float, *, sign: int = 1) -> Difference:
    """Compare measurements with a fixed number: ``mean of sign · (score - level)``."""
    values = [sign * (_value(each) - level) for each in scores]
    error = sampling_error(scores)
    if len(values) == 1:
        return _of_one(values[0], [error])
    return _of_seeds(seed_mean(values, tasks_of(scores), sampling_error=error))


def separate(new: Sequence[Score], old: Sequence[Score]) -> Difference:
    """Compare the means of two sets of seeds that have no partners (Welch 1947).

    Args:
        new: at least two scores whose value is a number.
        old: likewise.
    """
    return _of_seeds(
        seed_contrast(
            [_value(each) for each in new],
            tasks_of(new),
            [_value(each) for each in old],
            tasks_of(old, first=len(new)),
            sampling_error=_together([sampling_error(new), sampling_error(old)]),
        )
    )


def tasks_of(scores: Sequence[Score], *, first: int = 0) -> list[int]:
    """Return the task seed of each score; scores without a seed are of a task each, from first."""
    return [at if each.seed is None else each.seed[0] for at, each in enumerate(scores, first)]


def _of_one(value: float, errors: Sequence[float | None]) -> Difference:
    known = [error for error in errors if error is not None]
    error = math.hypot(*known) if len(known) == len(errors) else None
    difference = Difference(
        value=value, error=error, freedom=BLOCKS_FREEDOM, pairs=1, noise="samples"
    )
    reach = difference.reach((1 + LEVEL) / 2)
    if reach is None:
        return Difference(
            value=value,
            error=None,
            freedom=BLOCKS_FREEDOM,
            pairs=1,
            noise="samples",
            reason="no sampling error is known",
        )
    return Difference(
        value=value,
        error=error,
        freedom=BLOCKS_FREEDOM,
        pairs=1,
        noise="samples",
        low=value - reach,
        high=value + reach,
    )


def _of_seeds(estimate: SeedEstimate) -> Difference:
    return Difference(
        value=estimate.value,
        error=estimate.error,
        freedom=estimate.freedom,
        pairs=estimate.seeds,
        noise="seeds",
        low=estimate.low,
        high=estimate.high,
        reason=estimate.reason,
    )


def _together(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error]
    return math.hypot(*known) if known else None


def sampling_error(scores: Sequence[Score]) -> float | None:
    """Return the sampling error of the mean of scores: at most the mean of theirs.

    Null as soon as one is unknown. A score that says no error but has an interval over documents
    (seed and seeds say that it is no interval over seeds) gives half of that, over 1.96.
    """
    errors = [_error(each) for each in scores]
    known = [error for error in errors if error is not None]
    return math.fsum(known) / len(known) if len(known) == len(errors) and known else None


def _error(score: Score) -> float | None:
    error = score.error
    if error is None and score.low is not None and score.high is not None and score.seeds == 1:
        error = (score.high - score.low) / (2 * NORMAL)
    return error if error is not None and math.isfinite(error) else None


def _value(score: Score) -> float:
    if score.value is None or not math.isfinite(score.value):
        raise ValueError(f"{score.metric} has no value: check before comparing")  # a bug of ours
    return score.value
