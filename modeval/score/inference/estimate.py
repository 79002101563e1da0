"""A number with how sure it is, or with the reason why nothing is said of that."""

from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number, corrected for bias where that can be had, and its interval.

    Attributes:
        value: the number to show: ``corrected`` where there is one, else ``plugin``.
        plugin: what the formula gives for the data as they are.
        corrected: the same without the bias of few documents; nothing where none is known.
        low: lower end of the interval; nothing where no interval keeps its promise.
        high: upper end.
        error: standard error of ``value``; nothing where it is unknown.
        freedom: degrees of freedom of the error.
        level: share of such intervals that hold the true value.
        reason: why there is no interval, in words; empty where there is one.
    """

    value: float
    plugin: float
    corrected: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float | None = None
    level: float = LEVEL
    reason: str = ""
