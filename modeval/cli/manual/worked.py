"""What metrics are of four rules over four modules: the examples of ``modeval metrics NAME``.

Computing them takes PyTorch, which is two seconds to load for a page of text; a test computes them
and compares.
"""

EXAMPLE = (
    (0.95, 0.0, 0.0, 0.05),
    (0.0, 0.0, 0.0, 1.0),
    (0.35, 0.1, 0.0, 0.55),
    (0.0, 1.0, 0.0, 0.0),
)
"""Routing of four rules over four modules, one of them dead."""

CASES = ("this routing", "one module a rule", "uniform", "one module takes all")
"""What values are of: the example, and the three routings that everybody knows."""

VALUES: dict[str, tuple[float, float, float, float]] = {
    "collapse_avg": (0.333333, 0.0, 0.0, 1.0),
    "collapse_worst": (1.0, 0.0, 0.0, 1.0),
    "alignment_distance": (0.2625, 0.0, 0.75, 0.75),
    "inverse_mutual_information": (0.418912, 0.0, 1.0, 1.0),
    "adaptation_distance": (0.132995, 0.0, 0.300707, 0.505183),
    "alignment_score": (0.65, 1.0, 0.0, 0.0),
    "matched_adaptation_distance": (0.277055, 0.0, 0.300707, 0.767205),
    "mutual_information": (0.805559, 1.386294, 0.0, 0.0),
    "homogeneity": (0.581088, 1.0, 0.0, 0.0),
    "completeness": (0.741211, 1.0, 0.0, 1.0),
    "v_measure": (0.651454, 1.0, 0.0, 0.0),
    "imbalance": (0.29948, 0.0, 0.0, 1.386294),
    "rule_specialization": (0.805559, 1.386294, 0.0, 0.0),
    "input_distraction": (0.0, 0.0, 0.0, 0.0),
    "softness": (0.281255, 0.0, 1.386294, 0.0),
    "dead_fraction": (0.25, 0.0, 0.0, 0.75),
    "effective_modules": (2.964814, 4.0, 4.0, 1.0),
    "effective_share": (0.741203, 1.0, 1.0, 0.25),
    "load_cv": (0.604152, 0.0, 0.0, 1.732051),
    "load_gini": (0.3125, 0.0, 0.0, 0.75),
    "max_violation": (0.6, 0.0, 0.0, 3.0),
    "imbalance_ratio": (1.6, 1.0, 1.0, 4.0),
    "modules_for_50": (1.307692, 2.0, 2.0, 0.5),
    "modules_for_80": (2.272727, 3.2, 3.2, 0.8),
    "modules_for_95": (2.818182, 3.8, 3.8, 0.95),
    "corrected_mutual_information": (0.804309, 1.390044, -0.01125, 0.0),
    "adjusted_mutual_information": (0.649309, 1.0, -0.00827, 0.0),
}
"""By the name of the metric; those that are not one number of a routing have none."""
