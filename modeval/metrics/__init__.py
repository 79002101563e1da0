"""The metrics: pure functions ``(..., R, M) -> (...)`` and the table that names them.

Only the table is loaded at once, and it is light; each function brings torch when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modeval.metrics.levels import shared_choice_chance
from modeval.metrics.losses import LOSSES
from modeval.metrics.metric import Metric
from modeval.metrics.table import METRICS, PAPER_METRICS, STATIC_METRICS, metric_of, shown_in

if TYPE_CHECKING:
    from modeval.metrics.adaptation import (
        adaptation_distance,
        adaptation_from_marginals,
        matched_adaptation_distance,
        rule_probes,
    )
    from modeval.metrics.alignment import alignment_bounds, alignment_distance, alignment_score
    from modeval.metrics.budget import (
        EntropyBudget,
        budget_terms,
        entropy_budget,
        imbalance,
        input_distraction,
        rule_specialization,
        softness,
    )
    from modeval.metrics.chance import ChanceLevels, chance_levels, hash_joints, uniform_joint
    from modeval.metrics.collapse import collapse_avg, collapse_worst, conditional, usage
    from modeval.metrics.expected import expected_information
    from modeval.metrics.finding import Thresholds, verdicts
    from modeval.metrics.information import (
        adjusted_mutual_information,
        completeness,
        corrected_mutual_information,
        entropy,
        homogeneity,
        information_bias,
        inverse_mutual_information,
        mutual_information,
        v_measure,
    )
    from modeval.metrics.load import (
        dead_fraction,
        effective_modules,
        effective_share,
        imbalance_ratio,
        load_cv,
        load_gini,
        max_violation,
        over_layers,
    )
    from modeval.metrics.matching import match
    from modeval.metrics.measuring import measure
    from modeval.metrics.selections import coactivation, domain_specialization
    from modeval.metrics.tokens import (
        cross_layer_nmi,
        lexical_information,
        router_margin,
        saturation,
        semantic_information,
        semantic_information_null,
        temporal_persistence,
        vocabulary_specialization,
        weight_entropy,
    )

_HOMES = {
    "adaptation": (
        "adaptation_distance",
        "adaptation_from_marginals",
        "matched_adaptation_distance",
        "rule_probes",
    ),
    "alignment": (
        "alignment_bounds",
        "alignment_distance",
        "alignment_score",
    ),
    "budget": (
        "EntropyBudget",
        "budget_terms",
        "entropy_budget",
        "imbalance",
        "input_distraction",
        "rule_specialization",
        "softness",
    ),
    "chance": (
        "ChanceLevels",
        "chance_levels",
        "hash_joints",
        "uniform_joint",
    ),
    "collapse": (
        "collapse_avg",
        "collapse_worst",
        "conditional",
        "usage",
    ),
    "expected": ("expected_information",),
    "finding": (
        "Thresholds",
        "verdicts",
    ),
    "information": (
        "adjusted_mutual_information",
        "completeness",
        "corrected_mutual_information",
        "entropy",
        "homogeneity",
        "information_bias",
        "inverse_mutual_information",
        "mutual_information",
        "v_measure",
    ),
    "load": (
        "dead_fraction",
        "effective_modules",
        "effective_share",
        "imbalance_ratio",
        "load_cv",
        "load_gini",
        "max_violation",
        "over_layers",
    ),
    "matching": ("match",),
    "measuring": ("measure",),
    "selections": (
        "coactivation",
        "domain_specialization",
    ),
    "tokens": (
        "cross_layer_nmi",
        "lexical_information",
        "router_margin",
        "saturation",
        "semantic_information",
        "semantic_information_null",
        "temporal_persistence",
        "vocabulary_specialization",
        "weight_entropy",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LOSSES",
    "METRICS",
    "PAPER_METRICS",
    "STATIC_METRICS",
    "ChanceLevels",
    "EntropyBudget",
    "Metric",
    "Thresholds",
    "adaptation_distance",
    "adaptation_from_marginals",
    "adjusted_mutual_information",
    "alignment_bounds",
    "alignment_distance",
    "alignment_score",
    "budget_terms",
    "chance_levels",
    "coactivation",
    "collapse_avg",
    "collapse_worst",
    "completeness",
    "conditional",
    "corrected_mutual_information",
    "cross_layer_nmi",
    "dead_fraction",
    "domain_specialization",
    "effective_modules",
    "effective_share",
    "entropy",
    "entropy_budget",
    "expected_information",
    "hash_joints",
    "homogeneity",
    "imbalance",
    "imbalance_ratio",
    "information_bias",
    "input_distraction",
    "inverse_mutual_information",
    "lexical_information",
    "load_cv",
    "load_gini",
    "match",
    "matched_adaptation_distance",
    "max_violation",
    "measure",
    "metric_of",
    "mutual_information",
    "over_layers",
    "router_margin",
    "rule_probes",
    "rule_specialization",
    "saturation",
    "semantic_information",
    "semantic_information_null",
    "shared_choice_chance",
    "shown_in",
    "softness",
    "temporal_persistence",
    "uniform_joint",
    "usage",
    "v_measure",
    "verdicts",
    "vocabulary_specialization",
    "weight_entropy",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
