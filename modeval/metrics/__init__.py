"""The metrics: pure functions ``(..., R, M) -> (...)`` and the table that names them."""

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
from modeval.metrics.chance import (
    ChanceLevels,
    chance_levels,
    hash_joints,
    shared_choice_chance,
    uniform_joint,
)
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
from modeval.metrics.measure import measure
from modeval.metrics.selections import coactivation, domain_specialization
from modeval.metrics.table import METRICS, PAPER_METRICS, STATIC_METRICS, Metric
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

__all__ = [
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
    "mutual_information",
    "over_layers",
    "router_margin",
    "rule_probes",
    "rule_specialization",
    "saturation",
    "semantic_information",
    "semantic_information_null",
    "shared_choice_chance",
    "softness",
    "temporal_persistence",
    "uniform_joint",
    "usage",
    "v_measure",
    "verdicts",
    "vocabulary_specialization",
    "weight_entropy",
]
