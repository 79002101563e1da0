"""Load: how is the work shared out over the modules? Balance is not specialisation."""

from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics.collapse import Joint, Scalar, exact_zero, usage
from modeval.metrics.information import entropy

DEAD = 0.1  # of a fair share
PERCENTILES = (50, 75, 90, 95)


def dead_fraction(joint: Joint) -> Scalar:
    """Which share of the modules gets next to no work?

    ``(1/M) #{m: p(m) < 0.1/M}``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1 - 1/M. Perfect 0 (M = R), uniform 0, collapsed 1 - 1/M.

    Source: this project.

    >>> dead_fraction(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()
    0.5
    """
    share = usage(joint)
    dead = (share < DEAD / joint.shape[-1]).double()
    return torch.where(share.isnan(), share, dead).mean(-1)  # what is unknown is not alive


def effective_modules(joint: Joint) -> Scalar:
    """How many equally used modules would be as diverse as these?

    ``exp H(m)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)`` in modules, from 1 to M. Perfect M (M = R), uniform M, collapsed 1.

    Source: Hill 1973, Diversity and evenness, order 1.

    >>> round(effective_modules(torch.full((2, 3), 1 / 6, dtype=torch.float64)).item(), 6)
    3.0
    """
    return entropy(usage(joint)).exp()


def effective_share(joint: Joint) -> Scalar:
    """Which share of the modules is in effective use?

    ``exp H(m) / M``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 1/M to 1. Perfect 1 (M = R), uniform 1, collapsed 1/M.

    Source: Hill 1973, Diversity and evenness, order 1.

    >>> round(effective_share(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item(), 6)
    0.5
    """
    return effective_modules(joint) / joint.shape[-1]


def load_cv(joint: Joint) -> Scalar:
    """How much do the modules' shares of work vary?

    ``std(p) / mean(p)``, the standard deviation that of all M modules (divisor M).

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to sqrt(M-1). Perfect 0 (M = R), uniform 0, collapsed sqrt(M-1).

    Source: Shazeer et al. 2017 (arXiv 1701.06538), section 4, whose loss is its square.

    >>> load_cv(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()
    1.0
    """
    return exact_zero(usage(joint).std(-1, correction=0) * joint.shape[-1])


def load_gini(joint: Joint) -> Scalar:
    """How unequal are the modules' shares of work?

    ``sum_i (2 i - M - 1) p_(i) / M``, shares sorted upwards.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1 - 1/M. Perfect 0 (M = R), uniform 0, collapsed 1 - 1/M.

    Source: Gini 1912; Sen 1973, On Economic Inequality, section 2.

    >>> load_gini(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()
    0.5
    """
    modules = joint.shape[-1]
    rank = torch.arange(1, modules + 1, dtype=torch.float64, device=joint.device)
    ordered = usage(joint).sort(-1).values
    return exact_zero((ordered * (2 * rank - modules - 1)).sum(-1) / modules)


def max_violation(joint: Joint) -> Scalar:
    """By how much does the busiest module exceed the mean?

    ``(max_m p(m) - 1/M) / (1/M)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to M - 1. Perfect 0 (M = R), uniform 0, collapsed M - 1.

    Source: Wang et al. 2024 (arXiv 2408.15664), MaxVio, section 4.1.

    >>> max_violation(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()
    1.0
    """
    return exact_zero(imbalance_ratio(joint) - 1)


def imbalance_ratio(joint: Joint) -> Scalar:
    """How many times the mean work does the busiest module do?

    ``M max_m p(m)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 1 to M. Perfect 1 (M = R), uniform 1, collapsed M.

    Source: expert-parallel load balancing (max/mean), for one device a module.

    >>> imbalance_ratio(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()
    2.0
    """
    return usage(joint).amax(-1) * joint.shape[-1]


def over_layers(
    values: Float64[Tensor, "*batch layers"], *, better: str
) -> Mapping[str, Float64[Tensor, "*batch"]]:
    """Sum up one metric over layers: worst, mean and percentiles, each named.

    Layers are never pooled before a metric: that hides collapse.

    >>> summary = over_layers(torch.tensor([0.1, 0.2, 0.9], dtype=torch.float64), better="lower")
    >>> summary["worst"].item(), round(summary["mean"].item(), 2)
    (0.9, 0.4)
    """
    worst = values.amin(-1) if better == "higher" else values.amax(-1)
    points = {
        f"p{percent}": torch.quantile(values, percent / 100, dim=-1) for percent in PERCENTILES
    }
    return {"worst": worst, "mean": values.mean(-1), **points}


def modules_for_50(joint: Joint) -> Scalar:
    """How many modules carry half of the work?

    ``k - (c_k - s) / p_(k)`` with p_(1) >= p_(2) >= ... the shares of the modules, c_k the sum of
    the first k of them, and k the first with c_k >= s, s = 1/2.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)`` in modules, above 0 to M/2. Uniform M/2; collapsed 1/2, half of one module.

    Source: this project; the curve is Lorenz's, read from its other axis.

    >>> modules_for_50(torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64)).item()
    1.0
    """
    return _modules_for(joint, 0.5)


def modules_for_80(joint: Joint) -> Scalar:
    """How many modules carry four fifths of the work?

    ``k - (c_k - s) / p_(k)``, s = 4/5, as in :func:`modules_for_50`.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)`` in modules, above 0 to 4M/5. Uniform 4M/5; collapsed 4/5.

    Source: this project.

    >>> modules_for_80(torch.full((1, 5), 0.2, dtype=torch.float64)).item()
    4.0
    """
    return _modules_for(joint, 0.8)


def modules_for_95(joint: Joint) -> Scalar:
    """How many modules carry all but a twentieth of the work?

    ``k - (c_k - s) / p_(k)``, s = 19/20, as in :func:`modules_for_50`.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)`` in modules, above 0 to 19M/20. Uniform 19M/20; collapsed 19/20.

    Source: this project.

    >>> modules_for_95(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item()
    0.95
    """
    return _modules_for(joint, 0.95)


def _modules_for(joint: Joint, share: float) -> Scalar:
    ordered = usage(joint).sort(-1, descending=True).values
    carried = ordered.cumsum(-1)
    wanted = share * carried[..., -1:]
    whole = (carried < wanted * (1 - 1e-12)).sum(-1, keepdim=True).clamp(max=ordered.shape[-1] - 1)
    before = carried.gather(-1, whole) - ordered.gather(-1, whole)
    part = (wanted - before) / ordered.gather(-1, whole)
    return (whole + part).squeeze(-1)
