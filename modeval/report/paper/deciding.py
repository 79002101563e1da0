"""What decides a finding: one number, its interval over tasks, and the side on which it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modeval.report.paper.winners import Wins, counted
from modeval.score.inference.seeds import SeedEstimate, seed_mean

Verdict = Literal["holds", "does not hold", "cannot be told", "reported"]
Role = Literal["finding", "caution", "report"]
HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFinding:
    """A statement of the paper, and what this scorecard says of it.

    Attributes:
        name: F1 to F12.
        statement: what the paper says.
        measured: what the number is.
        role: a finding is decided; a caution says how not to read the others, and a report is a
            number that the paper makes no claim of: neither has a verdict.
        value: the number; nothing where the scorecard has not what it takes.
        low: lower end of its interval.
        high: upper end.
        boundary: value above which the statement is true.
        ceiling: value below which it must lie besides; nothing where there is none.
        verdict: which of them.
        why: what is missing, or what to know when reading it.
    """

    name: str
    statement: str
    measured: str
    role: Role = "finding"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    boundary: float = 0.0
    ceiling: float | None = None
    verdict: Verdict = "cannot be told"
    why: str = ""


def decided(finding: PaperFinding) -> PaperFinding:
    """Return a finding with its verdict: all of its interval must lie on one side.

    >>> open_ = PaperFinding(name="F", statement="", measured="", value=1.0, low=0.5, high=1.5)
    >>> [decided(replace(open_, boundary=b)).verdict for b in (0.0, 1.0, 2.0)]
    ['holds', 'cannot be told', 'does not hold']
    >>> decided(replace(open_, ceiling=2.0)).verdict, decided(replace(open_, ceiling=0.4)).verdict
    ('holds', 'does not hold')
    """
    low, high = finding.low, finding.high
    if finding.role != "finding":
        return replace(finding, verdict="reported")
    if low is None or high is None:
        return finding
    top = float("inf") if finding.ceiling is None else finding.ceiling
    verdict: Verdict = "cannot be told"
    if low > finding.boundary and high < top:
        verdict = "holds"
    elif high < finding.boundary or low > top:
        verdict = "does not hold"
    return replace(finding, verdict=verdict)


def by_share(finding: PaperFinding, parts: Mapping[object, Sequence[float]]) -> PaperFinding:
    """Decide by a share of tasks, with Wilson's interval; it must be more than half."""
    return by_wins(finding, counted(parts) if parts else None)


def by_wins(finding: PaperFinding, found: Wins | None) -> PaperFinding:
    """Decide by a count that was made; likewise."""
    finding = replace(finding, boundary=HALF)
    if found is None:
        return without(finding)
    return decided(
        replace(finding, value=found.share, low=found.low, high=found.high, why=found.said)
    )


def by_mean(finding: PaperFinding, values: Sequence[tuple[int, float]]) -> PaperFinding:
    """Decide by a mean over tasks, with its interval; several numbers of a task count as one."""
    if not values:
        return without(finding)
    found = seed_mean([value for _, value in values], [task for task, _ in values])
    told = replace(finding, value=found.value, low=found.low, high=found.high)
    return decided(replace(told, why=_why(found)))


def _why(found: SeedEstimate) -> str:
    if found.low is None:
        return found.reason
    return "over one task" if found.tasks == 1 else f"over {found.tasks} tasks"


def without(finding: PaperFinding, why: str = "") -> PaperFinding:
    """Return a finding of which the scorecard has not what it takes."""
    known = why or "the scorecard has not the models or numbers of rules that it takes"
    return decided(replace(finding, why=known))
