"""How sure is a mean over seeds, and a difference of two? Tasks are random, seeds nested in them.

Models that were trained on one task share its difficulty: they are no independent witnesses of what
other tasks would give. With two or more tasks each counts as one number, the mean of its seeds;
with one task each model seed does, and the claim is about that task alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeval.score.inference import student
from modeval.score.inference.estimate import LEVEL

Scope = Literal["tasks", "one task", "one seed"]
"""What a claim is about: tasks like these; the one task that was trained on; one model."""
MANY = 1e6
"""Degrees of freedom beyond which there is no difference."""
EQUAL = 1e-12
"""Spread, as a share of the mean, below which values count as equal."""
WIDER = 0.8
"""Share of the promised error that is given away to skewed values, and"""
SKEWED = 1.25
"""how much further an end reaches on the side of the long tail: chosen by simulation, so that
normal and exponential values are covered in .92 to .97 from 3 to 25 seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedEstimate:
    """A mean over seeds, or a mean difference, and how sure it is.

    Attributes:
        value: mean over tasks of the means over their seeds.
        low: lower end of the interval; nothing where none can be given.
        high: upper end.
        error: standard error of the value; nothing where no spread is seen.
        freedom: degrees of freedom of the error, one less than the numbers that vary.
        seeds: number of seeds.
        tasks: number of tasks among them.
        scope: what the interval is about.
        level: share of such intervals that hold the true mean.
        reason: why there is no interval, in words; empty where there is one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float = 0.0
    seeds: int
    tasks: int
    scope: Scope
    level: float = LEVEL
    reason: str = ""

    def p_above(self, limit: float = 0.0) -> float | None:
        """Return the one-sided p value that the true mean is no larger than ``limit``.

        Student's t; never 0, and nothing where no spread is seen: equal values prove nothing.
        """
        if self.error is None or not self.freedom:
            return None
        found = student.below(self.freedom, (limit - self.value) / self.error)
        return max(found, float(np.finfo(float).tiny))


def seed_mean(
    values: Sequence[float],
    tasks: Sequence[int],
    *,
    sampling_error: float | None = None,
    level: float = LEVEL,
) -> SeedEstimate:
    """Return the mean over seeds with its interval.

    One number for each task, the mean of its seeds (with one task, one for each seed); Student's t
    interval of their mean, n - 1 degrees of freedom. Skewed values are covered too rarely by it,
    so it is that of a level (1 + 4 level) / 5, and its end on the side of the longer tail lies
    ``1 + 1.25 g / sqrt(n)`` times as far, g the skewness of the numbers.
    A rare kind of task that was not drawn cannot be covered by anything: where one task in five
    is of another kind, .8^5 = .33 of all sets of five tasks hold none of it, and intervals over
    five held the mean over all in .68. The claim is about tasks like those drawn, and
    :func:`unseen_share` tells what else there may be.

    Args:
        values: one finite number for each seed.
        tasks: its task seed.
        sampling_error: standard error of the mean for what all seeds have in common (the samples
            on which they were scored), which no spread between them shows.
        level: promised coverage.

    Returns:
        No interval with one seed, with two numbers that are equal or fewer than two, and where all
        are equal; ``reason`` says which.

    >>> found = seed_mean([0.5, 0.5, 0.9, 0.9], [0, 0, 1, 1])
    >>> round(found.value, 6), found.tasks, found.freedom, found.scope
    (0.7, 2, 1.0, 'tasks')
    """
    numbers, count, scope = _numbers(np.asarray(values, dtype=np.float64), tasks)
    mean = float(numbers.mean())
    known = SeedEstimate(value=mean, seeds=len(values), tasks=count, scope=scope, level=level)
    if len(numbers) < 2:  # noqa: PLR2004 - one number has no spread
        return replace(known, reason="one seed says nothing of others")
    known = replace(known, freedom=len(numbers) - 1.0)
    spread = float(numbers.std(ddof=1))
    if spread <= EQUAL * max(1.0, abs(mean)):
        reason = f"all {len(numbers)} values are equal, so nothing tells how others would differ"
        return replace(known, reason=reason)
    own = spread / math.sqrt(len(numbers))
    error, freedom = _with_sampling(own, known.freedom, sampling_error)
    reach = error * student.quantile(freedom, 1 - WIDER * (1 - level) / 2)
    low, high = _ends(numbers, reach)
    return replace(known, low=low, high=high, error=error, freedom=freedom)


def unseen_share(tasks: int, *, level: float = LEVEL) -> float:
    """Return how many of all tasks may be of a kind that none of those drawn is.

    ``1 - (1 - level)^(1 / T)``: a kind that is more frequent would be among T tasks with the
    promised probability.

    >>> [round(unseen_share(tasks), 2) for tasks in (2, 5, 10, 25)]
    [0.78, 0.45, 0.26, 0.11]
    """
    return float(1 - (1 - level) ** (1 / tasks))


def seed_difference(
    new: Sequence[float],
    old: Sequence[float],
    tasks: Sequence[int],
    *,
    sampling_error: float | None = None,
    level: float = LEVEL,
) -> SeedEstimate:
    """Return how much larger the new values are than the old ones of the same seeds.

    Pairs share their task and model seed; one mean difference for each task (with one task, one
    for each pair), and Student's t of those as in :func:`seed_mean`. Five pairs whose
    differences have a standard deviation of s show a drop of 0.1, tested at 5 %, in .98 of all
    cases where s is .05, in .92 at .06, .83 at .07 (models that vary by .05 each, trained apart)
    and .58 at .1; ten pairs still in .90 at .1. That is all that so few can tell.

    Args:
        new: one finite number for each seed.
        old: that of its partner.
        tasks: the task seed of each pair.
        sampling_error: standard error of the difference for what all pairs have in common.
        level: promised coverage.
    """
    pairs = [one - two for one, two in zip(new, old, strict=True)]
    return seed_mean(pairs, tasks, sampling_error=sampling_error, level=level)


def seed_contrast(
    new: Sequence[float],
    new_tasks: Sequence[int],
    old: Sequence[float],
    old_tasks: Sequence[int],
    *,
    sampling_error: float | None = None,
    level: float = LEVEL,
) -> SeedEstimate:
    """Return how much larger the mean of new seeds is than that of old ones without partners.

    Where they share tasks, one difference of means for each shared task; else the two means over
    tasks are independent (Welch's t, degrees of freedom the smaller of both, which errs on the
    side of caution).

    Args:
        new: one finite number for each seed.
        new_tasks: its task seed.
        old: the other side.
        old_tasks: its task seeds.
        sampling_error: standard error of the difference for what all seeds have in common.
        level: promised coverage.
    """
    one, two = np.asarray(new, dtype=np.float64), np.asarray(old, dtype=np.float64)
    shared = sorted({*new_tasks} & {*old_tasks})
    if len(shared) > 1:
        differences = [
            one[np.asarray(new_tasks) == task].mean() - two[np.asarray(old_tasks) == task].mean()
            for task in shared
        ]
        return seed_mean(differences, shared, sampling_error=sampling_error, level=level)
    sides = [_numbers(one, new_tasks), _numbers(two, old_tasks)]
    parts = [side.var(ddof=1) / len(side) if len(side) > 1 else math.nan for side, _, _ in sides]
    value = float(sides[0][0].mean() - sides[1][0].mean())
    fewest = min(len(side) for side, _, _ in sides)
    known = SeedEstimate(
        value=value,
        seeds=min(len(new), len(old)),
        tasks=min(count for _, count, _ in sides),
        scope=sides[0][2] if len(sides[0][0]) == fewest else sides[1][2],
        level=level,
    )
    variance = float(sum(parts))
    if not variance > EQUAL**2:
        reason = "a side has one value, or all are equal, so nothing tells how others would differ"
        return replace(known, reason=reason)
    error, freedom = _with_sampling(math.sqrt(variance), fewest - 1.0, sampling_error)
    reach = error * student.quantile(freedom, 1 - WIDER * (1 - level) / 2)
    return replace(known, low=value - reach, high=value + reach, error=error, freedom=freedom)


def _numbers(
    values: NDArray[np.float64], tasks: Sequence[int]
) -> tuple[NDArray[np.float64], int, Scope]:
    """Return the numbers that vary independently: means of tasks, or seeds of the one task."""
    task = np.asarray(tasks)
    present = np.unique(task)
    if len(present) == 1:
        return values, 1, "one task" if len(values) > 1 else "one seed"
    means = np.array([values[task == number].mean() for number in present])
    return means, len(present), "tasks"


def _with_sampling(own: float, freedom: float, sampling: float | None) -> tuple[float, float]:
    """Add an error that all numbers share; its degrees of freedom are many (Satterthwaite 1946)."""
    if not sampling:
        return own, freedom
    whole = math.hypot(own, sampling)
    return whole, min(freedom * (whole / own) ** 4, MANY)


def _ends(numbers: NDArray[np.float64], reach: float) -> tuple[float, float]:
    centred = numbers - numbers.mean()
    skewness = float((centred**3).mean() / (centred**2).mean() ** 1.5)
    stretch = SKEWED * skewness / math.sqrt(len(numbers))
    mean = float(numbers.mean())
    return mean - reach * (1 + max(-stretch, 0)), mean + reach * (1 + max(stretch, 0))
