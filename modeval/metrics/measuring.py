"""Measuring: all static metrics of folded routing at once."""

from collections.abc import Iterable

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics.budget import budget_terms
from modeval.metrics.information import check_rules, entropies
from modeval.metrics.matching import match
from modeval.metrics.table import METRICS, STATIC_METRICS
from modeval.types import Prior, RoutingCounts, View


def measure(
    counts: RoutingCounts,
    names: Iterable[str] = STATIC_METRICS,
    *,
    prior: Prior = "uniform",
    view: View = "weight",
) -> dict[str, Float64[Tensor, "*batch"]]:
    """Return static metrics of folded routing by name, blocks pooled, batch kept.

    Args:
        counts: folded routing, batch ``(...)``.
        names: metrics of the joint distribution or of counts that give one number.
        prior: weight of the rules.
        view: routing weights, or each of K chosen modules as 1/K.

    Raises:
        TraceError: a rule has no samples, or a name is not a static metric.
    """
    wanted = tuple(names)
    _check_names(wanted)
    joint = counts.joint(prior, view=view)
    if "inverse_mutual_information" in wanted:
        check_rules(joint)
    single = any(METRICS[name].needs == "counts" for name in wanted)
    softness = counts.softness(prior, view=view) if single else torch.zeros_like(joint[..., 0, 0])
    values = _shared_values(joint, softness, wanted)
    shares = joint.sum(-2, keepdim=True)  # for metrics of p(m) alone, a joint of one row
    for name in wanted:
        if name not in values:
            metric = METRICS[name]
            values[name] = metric.function(shares if metric.usage_only else joint)
    return {name: values[name] for name in wanted}


def _shared_values(joint: Tensor, softness: Tensor, wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the metrics that are made of the same matching or the same entropies."""
    values: dict[str, Tensor] = {}
    matched = [METRICS[name] for name in wanted if "matching" in METRICS[name].made_of]
    if matched:
        module = match(joint)[0]
        values |= {metric.name: metric.function(joint, matching=module) for metric in matched}
    told = [name for name in wanted if METRICS[name].tells == "information"]
    shared_out = [name for name in wanted if METRICS[name].tells == "budget"]
    if told or shared_out:
        parts = entropies(joint)
        terms = budget_terms(parts, softness, joint.shape[-1])
        values |= {name: getattr(parts, name) for name in told}
        values |= {name: getattr(terms, name) for name in shared_out}
    return values


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in STATIC_METRICS:
            kind = "needs more than folded counts" if name in METRICS else "is not a metric"
            raise TraceError(
                f"{name} {kind}, so it cannot be measured here. Measured here: "
                f"{', '.join(STATIC_METRICS)}."
            )
