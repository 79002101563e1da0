"""Levels of metrics that follow from the sizes alone: bounds, the best value, the value of chance.

Each is a function with the text for people beside it. They need neither torch nor data, so that a
scorecard can be checked in no time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

PROBES = 100
INFINITE = math.inf
Ends = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Smallest and largest value of a metric.

    Attributes:
        text: for people, in terms of R, M and K.
        of: the two ends from R and M, when rules weigh alike.
        empirical: the same for rules of any weight, where that is wider.
    """

    text: str
    of: Callable[[int, int], Ends]
    empirical: Callable[[int, int], Ends] | None = None

    def __call__(
        self, rules: int, modules: int, prior: Literal["uniform", "empirical"] = "uniform"
    ) -> Ends:
        """Return both ends.

        >>> UNIT(4, 8)
        (0.0, 1.0)
        """
        wider = self.empirical if prior == "empirical" and self.empirical else self.of
        return wider(rules, modules)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Level:
    """One value of a metric.

    Attributes:
        text: for people, in terms of R, M and K.
        of: the value from R, M and K; nothing where the sizes do not tell it.
    """

    text: str
    of: Callable[[int, int, int], float] | None = None

    def __call__(self, rules: int, modules: int, choices: int = 1) -> float | None:
        """Return the value, or nothing where the sizes do not tell it.

        >>> ONE(4, 8), Level("by permutation")(4, 8)
        (1.0, None)
        """
        return None if self.of is None else self.of(rules, modules, choices)

    def __str__(self) -> str:
        return self.text


# --- bounds --------------------------------------------------------------------------------------


def between(low: float, high: float, text: str) -> Bounds:
    """Return bounds that are the same for all sizes."""
    return Bounds(text, lambda _rules, _modules: (low, high))


def _common(rules: int, modules: int) -> float:
    return math.log(min(rules, modules))


UNIT = between(0.0, 1.0, "[0, 1]")
HALF_OPEN_UNIT = between(0.0, 1.0, "[0, 1)")
FROM_ZERO = between(0.0, INFINITE, "[0, inf)")
ANY = between(-INFINITE, INFINITE, "(-inf, inf)")
UP_TO_LOG_MODULES = Bounds("[0, log M]", lambda _rules, modules: (0.0, math.log(modules)))
UP_TO_COMMON_LOG = Bounds(
    "[0, log min(R,M)]", lambda rules, modules: (0.0, _common(rules, modules))
)
ALL_BUT_ONE = Bounds("[0, 1 - 1/M]", lambda _rules, modules: (0.0, 1 - 1 / modules))
MODULES_IN_USE = Bounds("[1, M]", lambda _rules, modules: (1.0, float(modules)))
SHARE_IN_USE = Bounds("[1/M, 1]", lambda _rules, modules: (1 / modules, 1.0))
VARIATION = Bounds("[0, sqrt(M-1)]", lambda _rules, modules: (0.0, math.sqrt(modules - 1)))
VIOLATION = Bounds("[0, M-1]", lambda _rules, modules: (0.0, modules - 1.0))


LARGEST_SHARE = Bounds("[K/M, 1]", lambda _rules, modules: (1 / modules, 1.0))
AROUND_ZERO = between(-1.0, 1.0, "(-1, 1]")
MILLER_MADOW = Bounds(  # less the bias of chance, which is negative where cells are empty
    "(-inf, log min(R,M) + 1/2)", lambda rules, modules: (-INFINITE, _common(rules, modules) + 0.5)
)
SEMANTIC = Bounds(
    "(-log M, log min(R,M)]",
    lambda rules, modules: (-math.log(modules), _common(rules, modules)),
)


def _matched(rules: int, modules: int) -> float:
    """Return the share of the work that can go to matched modules, rules weighing alike."""
    return min(rules, modules) / rules


def _told(rules: int, modules: int) -> float:
    """Return the share of log R that modules can tell."""
    return _common(rules, modules) / math.log(rules) if rules > 1 else 1.0


ALIGNMENT = Bounds(
    "[1 - min(R,M)/R, 1 - min(R,M)/(R M)]",
    lambda rules, modules: (
        1 - _matched(rules, modules),
        1 - _matched(rules, modules) / modules,
    ),
    lambda rules, modules: (0.0, 1 - _matched(rules, modules) / modules),
)


def carrying(share: float) -> Bounds:
    """Return the bounds of the number of modules that carry a share of the work."""
    return Bounds(f"(0, {share:g} M]", lambda _rules, modules: (0.0, share * modules))


# --- levels --------------------------------------------------------------------------------------

NONE = Level("none")
ZERO = Level("0", lambda *_: 0.0)
ONE = Level("1", lambda *_: 1.0)
ALL_MODULES = Level("M", lambda _rules, modules, _choices: float(modules))
NO_INFORMATION = Level("0; (R-1)(M-1)/(2N) from N samples", lambda *_: 0.0)
COMMON_LOG = Level("log R", lambda rules, modules, _choices: _common(rules, modules))
BEST_ALIGNMENT = Level("0", lambda rules, modules, _choices: 1 - _matched(rules, modules))
UNIFORM_ALIGNMENT = Level(
    "1 - min(R,M)/(R M)",
    lambda rules, modules, _choices: 1 - _matched(rules, modules) / modules,
)
UNIFORM_ALIGNMENT_SCORE = Level(  # a single module has nothing to choose: it is chance and ideal
    "0", lambda _rules, modules, _choices: float(modules == 1)
)
MOST_HOMOGENEOUS = Level("1", lambda rules, modules, _choices: _told(rules, modules))
LEAST_INVERSE = Level("0", lambda rules, modules, _choices: 1 - _told(rules, modules))
MOST_V_MEASURE = Level(
    "1",
    lambda rules, modules, _choices: 2 / (1 + 1 / _told(rules, modules)) if modules > 1 else 0.0,
)
UNIFORM_HOMOGENEITY = Level(  # a single rule is told by whatever happens
    "0", lambda rules, _modules, _choices: float(rules == 1)
)
UNIFORM_COMPLETENESS = Level("0", lambda _rules, modules, _choices: float(modules == 1))
UNIFORM_V_MEASURE = Level("0", lambda rules, modules, _choices: float(rules == 1 and modules == 1))


def modules_carrying(share: float) -> Level:
    """Return the number of modules that carry a share of the work when all do the same."""
    return Level(f"{share:g} M", lambda _rules, modules, _choices: share * modules)


CHOSEN_SHARE = Level("K/M", lambda _rules, modules, choices: choices / modules)
CHOSEN_WITH_IT = Level(
    "(K-1)/(M-1)",
    lambda _rules, modules, choices: (choices - 1) / (modules - 1) if modules > 1 else 0.0,
)


def shared_choice_chance(modules: int, ranks: int = 1) -> float:
    """Return the chance that two uniform draws of ``ranks`` different modules share one.

    The chance level of ``temporal_persistence``: 1/M, and 1 - (M-2)(M-3)/(M(M-1)) for two ranks.

    >>> round(shared_choice_chance(8, 2), 3)
    0.464
    """
    return 1 - math.comb(modules - ranks, ranks) / math.comb(modules, ranks)


REPEATED = Level(
    "1/M; first or second 1 - (M-2)(M-3)/(M(M-1))",
    lambda _rules, modules, choices: shared_choice_chance(modules, min(choices, modules)),
)


@lru_cache(maxsize=64)
def rule_probe_rows(rules: int, probes: int = PROBES) -> tuple[tuple[float, ...], ...]:
    """Return the shifted rule distributions of the reference: row i is Dirichlet draw i.

    Row i is ``numpy.random.RandomState(i).dirichlet(ones(R))``.
    """
    import numpy as np  # noqa: PLC0415 - not needed to read the table

    ones = np.ones(rules)
    draws = (np.random.RandomState(probe).dirichlet(ones) for probe in range(probes))
    return tuple(tuple(draw.tolist()) for draw in draws)


@lru_cache(maxsize=256)
def uniform_adaptation(rules: int, modules: int) -> float:
    """Return the adaptation distance of uniform routing: mean over probes of TV(sort(p), 1/M).

    >>> round(uniform_adaptation(2, 2), 4), round(uniform_adaptation(16, 16), 4)
    (0.2567, 0.354)
    """
    shared = min(rules, modules)

    def distance(probe: tuple[float, ...]) -> float:
        largest = sorted(probe, reverse=True)[:shared]
        parts = sum(abs(share - 1 / modules) for share in largest)
        rest = (1 - sum(largest)) + (modules - shared) / modules
        return (parts + rest) / 2

    rows = rule_probe_rows(rules)
    return sum(map(distance, rows)) / len(rows)


@lru_cache(maxsize=256)
def uniform_matched_adaptation(rules: int, modules: int) -> float:
    """Return the same for modules that keep their rules; ties are matched in order."""

    def distance(probe: tuple[float, ...]) -> float:
        excess = (max(share - 1 / modules, 0.0) for share in probe[:modules])
        return sum(excess) + sum(probe[modules:])

    rows = rule_probe_rows(rules)
    return sum(map(distance, rows)) / len(rows)


UNIFORM_ADAPTATION = Level(
    "depends on R and M: .2567 at 2, .3540 at 16",
    lambda rules, modules, _choices: uniform_adaptation(rules, modules),
)
UNIFORM_MATCHED_ADAPTATION = Level(
    "1/2 E sum|p - 1/R| at M = R",
    lambda rules, modules, _choices: uniform_matched_adaptation(rules, modules),
)
