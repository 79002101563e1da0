"""Rows for numbers that exist for each rule or each module of a layer."""

from dataclasses import dataclass
from typing import Literal

from modeval.metrics.levels import FROM_ZERO, MODULES_IN_USE, UNIT, Bounds
from modeval.metrics.metric import Better, Bias


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileMetric:
    """One number for each rule or module, and how it is read.

    Attributes:
        name: key in :data:`PROFILES`, in scorecards and in gates.
        axis: what there is a number for each of.
        better: the direction.
        bounds: smallest and largest value, ``bounds(R, M)``.
        few_samples: which way too few samples shift it.
    """

    name: str
    axis: Literal["rule", "module"]
    better: Better = "neither"
    bounds: Bounds = FROM_ZERO
    few_samples: Bias = "neither"


RULE_NUMBER = Bounds("0 to R - 1", lambda rules, _modules: (0.0, rules - 1.0))
MODULE_NUMBER = Bounds("0 to M - 1", lambda _rules, modules: (0.0, modules - 1.0))

_ROWS = (
    ProfileMetric(name="module_share", axis="module", bounds=UNIT),
    ProfileMetric(name="module_tokens", axis="module", better="higher"),
    ProfileMetric(name="module_selections", axis="module"),
    ProfileMetric(name="module_main_rule", axis="module", bounds=RULE_NUMBER),
    ProfileMetric(
        name="module_specialization",
        axis="module",
        better="higher",
        bounds=UNIT,
        few_samples="better",
    ),
    ProfileMetric(name="module_information", axis="module", better="higher", few_samples="better"),
    ProfileMetric(name="rule_samples", axis="rule"),
    ProfileMetric(name="rule_main_module", axis="rule", bounds=MODULE_NUMBER),
    ProfileMetric(name="rule_main_share", axis="rule", bounds=UNIT),
    ProfileMetric(name="rule_effective_modules", axis="rule", bounds=MODULES_IN_USE),
    ProfileMetric(name="rule_information", axis="rule", better="higher", few_samples="better"),
)

PROFILES: dict[str, ProfileMetric] = {row.name: row for row in _ROWS}
"""Every number for each rule or module, by name."""
