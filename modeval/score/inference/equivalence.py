"""May it be said that there is nothing? Absence of proof is no proof of absence."""

from dataclasses import dataclass
from typing import Literal

from modeval.score.inference import student
from modeval.score.inference.estimate import Estimate

Answer = Literal["nothing", "something", "unproven"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Whether a number is as good as zero.

    Attributes:
        answer: ``nothing``: it is below the margin, proven; ``something``: it is above zero,
            proven; ``unproven``: neither.
        margin: what still counts as nothing, in the unit of the number.
        p_nothing: one-sided p value that it is the margin or more; nothing where there is no error.
        p_something: p value that it is chance; nothing where there is no test.
        reason: why it is unproven, in words.
    """

    answer: Answer
    margin: float
    p_nothing: float | None = None
    p_something: float | None = None
    reason: str = ""


def equivalence(
    estimate: Estimate,
    margin: float,
    *,
    p_something: float | None,
    level: float = 0.05,
) -> Equivalence:
    """Tell whether a number that cannot be negative is nothing, something, or unproven.

    *Something* is what the test against permuted labels rejects. *Nothing* is what the second of
    two one-sided tests says: the corrected value lies significantly below the margin (Student's
    t with the degrees of freedom of its error). Both may hold of a real but tiny effect: the
    margin decides, and it is told as something that is below the margin.

    Args:
        estimate: corrected value with its error.
        margin: what still counts as nothing, above 0.
        p_something: p value against permuted labels, corrected for the number of layers.
        level: of both tests.

    Source: Schuirmann 1987, the two one-sided tests procedure.

    >>> equivalence(
    ...     Estimate(value=0.001, plugin=0.004, error=0.002, freedom=30.0), 0.02, p_something=0.4
    ... ).answer
    'nothing'
    """
    below = None
    if estimate.error is not None and estimate.freedom is not None and estimate.error > 0:
        below = student.below(estimate.freedom, (estimate.value - margin) / estimate.error)
    sure = below is not None and below <= level
    seen = p_something is not None and p_something <= level
    if seen:
        return Equivalence(
            answer="something", margin=margin, p_nothing=below, p_something=p_something
        )
    reason = ""
    if not sure:
        reason = (
            estimate.reason
            if below is None
            else f"{estimate.value:.3g} may still be {margin:.3g} or more, and may be nothing"
        )
    return Equivalence(
        answer="nothing" if sure else "unproven",
        margin=margin,
        p_nothing=below,
        p_something=p_something,
        reason=reason,
    )
