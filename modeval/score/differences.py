"""Differences between measurements, and the noise that they are held against.

Where both have several seeds, seeds are paired: what a seed's task makes easy or hard cancels,
and the noise is seen in how much the differences differ. Two checks of one model may differ by
the samples that were drawn, too; when all seeds see the same samples this does not show in the
spread over seeds, so it is added, which errs on the side of too much noise. With one pair, as for
traces, the sampling errors are all there is: they tell what another sample would change, not what
another training would.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr, stdtrit

from modeval.score.scorecard import Score

BLOCKS_FREEDOM = 31.0
"""Degrees of freedom of sampling errors: they are estimated from at least 32 blocks."""
NORMAL = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much larger one measurement is than another, and how sure that is.

    Attributes:
        value: mean of the differences.
        error: its standard error; null where nothing tells it.
        freedom: degrees of freedom of that error.
        pairs: number of pairs.
        noise: what the error was judged from: the spread over ``seeds``, or ``samples`` alone.
    """

    value: float
    error: float | None
    freedom: float
    pairs: int
    noise: Literal["seeds", "samples"]

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the two-sided interval (Student's t), if the error is known."""
        if self.error is None:
            return None
        reach = self.error * float(stdtrit(self.freedom, (1 + level) / 2))
        return self.value - reach, self.value + reach

    def p_above(self, limit: float = 0.0) -> float | None:
        """Return the one-sided p value that the difference is no larger than ``limit``."""
        if self.error is None:
            return None
        above = self.value - limit
        if self.error == 0:
            return 0.0 if above > 0 else 1.0
        return float(stdtr(self.freedom, -above / self.error))


def differences(new: Sequence[Score], old: Sequence[Score], *, sign: int = 1) -> Difference:
    """Compare two measurements, pair by pair: ``mean of sign · (new - old)``.

    With n > 1 pairs the squared error is ``s²/n + e_new² + e_old²``, s being the standard
    deviation of the differences and e the mean sampling error of each side; its degrees of freedom
    are those of Welch and Satterthwaite.

    Args:
        new: scores whose value is a number.
        old: as many, in the order of their partners.
        sign: -1 turns the difference round.
    """
    values = [sign * (_value(one) - _value(two)) for one, two in zip(new, old, strict=True)]
    return _judged(values, [sampling_error(new), sampling_error(old)])


def above(scores: Sequence[Score], level: float, *, sign: int = 1) -> Difference:
    """Compare measurements with a fixed number: ``mean of sign · (score - level)``."""
    return _judged([sign * (_value(each) - level) for each in scores], [sampling_error(scores)])


def _judged(values: Sequence[float], errors: Sequence[float | None]) -> Difference:
    count = len(values)
    mean = math.fsum(values) / count
    known = [error for error in errors if error is not None]
    if count == 1:
        error = math.hypot(*known) if len(known) == len(errors) else None
        return Difference(value=mean, error=error, freedom=BLOCKS_FREEDOM, pairs=1, noise="samples")
    spread = math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count
    sampled = math.fsum(error**2 for error in known)
    return Difference(
        value=mean,
        error=math.sqrt(spread + sampled),
        freedom=_freedom(spread, sampled, count),
        pairs=count,
        noise="seeds",
    )


def _freedom(spread: float, sampled: float, count: int) -> float:
    """Return the degrees of freedom of a sum of two variances (Welch 1947; Satterthwaite 1946)."""
    whole = spread + sampled
    if whole == 0:
        return float(count - 1)
    # by shares, which neither overflow nor underflow
    return 1 / ((spread / whole) ** 2 / (count - 1) + (sampled / whole) ** 2 / BLOCKS_FREEDOM)


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


def separate(new: Sequence[Score], old: Sequence[Score]) -> Difference:
    """Compare the means of two sets of seeds that have no partners (Welch 1947).

    The squared error is ``s_new²/n_new + s_old²/n_old + e_new² + e_old²``.

    Args:
        new: at least two scores whose value is a number.
        old: likewise.
    """
    sides = [[_value(each) for each in side] for side in (new, old)]
    means = [math.fsum(side) / len(side) for side in sides]
    parts = [
        (math.fsum((value - mean) ** 2 for value in side) / (len(side) - 1) / len(side))
        for side, mean in zip(sides, means, strict=True)
    ]
    errors = [sampling_error(side) for side in (new, old)]
    sampled = math.fsum(error**2 for error in errors if error is not None)
    whole = math.fsum(parts) + sampled
    fewest = min(len(side) for side in sides)
    freedom = float(fewest - 1)
    if whole > 0:
        terms = [
            (part / whole) ** 2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True)
        ]
        freedom = 1 / (math.fsum(terms) + (sampled / whole) ** 2 / BLOCKS_FREEDOM)
    return Difference(
        value=means[0] - means[1],
        error=math.sqrt(whole),
        freedom=freedom,
        pairs=fewest,
        noise="seeds",
    )
