"""Sampling errors of static metrics, from replicate blocks and without drawing anything."""

from collections.abc import Callable, Mapping

from jaxtyping import Float64
from torch import Tensor

from modeval.types import RoutingCounts, View

Function = Callable[[Tensor], Tensor]


def jackknife_errors(
    counts: RoutingCounts, functions: Mapping[str, Function], *, view: View = "weight"
) -> dict[str, Float64[Tensor, "*batch"]] | None:
    """How far would each metric move if other samples had been drawn?

    Delete-one jackknife over blocks: ``sqrt((B-1)/B sum_b (t_b - mean t)^2)``, t_b the metric
    without block b. Far cheaper than a bootstrap, because a metric is measured B times, and exact
    for means; for a minimum over modules it is an approximation where two are nearly equal.

    Args:
        counts: folded routing, batch ``(...)``, of B blocks.
        functions: metrics of the joint distribution (uniform prior), ``(..., R, M) -> (...)``.
        view: routing weights, or each of K chosen modules as 1/K.

    Returns:
        The standard error ``(...)`` of each metric, in its unit, at least 0; nothing where fewer
        than two blocks, or a rule that stands in one block alone, leave nothing to compare.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.

    >>> import torch
    >>> from modeval.counting.count import count
    >>> first = count(torch.tensor([0, 0]), torch.eye(2), rules=1, block=torch.tensor(
    ...     [0, 1]), blocks=2)
    >>> jackknife_errors(first, {"share of module 0": lambda joint: joint[..., 0, 0]})
    {'share of module 0': tensor(0.5000, dtype=torch.float64)}
    """
    table = counts.mass if view == "weight" else counts.selections
    blocks, rules = table.shape[-3:-1]
    rest = table.sum(-3, keepdim=True) - table
    total = rest.sum(-1, keepdim=True)
    if blocks < 2 or not bool((total > 0).all()):  # noqa: PLR2004 - one block has no spread
        return None
    joint = rest / (total * rules)
    factor = (blocks - 1) / blocks

    def error(function: Function) -> Tensor:
        values = function(joint)
        spread = (values - values.mean(-1, keepdim=True)).square().sum(-1)
        return (factor * spread).sqrt()

    return {name: error(function) for name, function in functions.items()}
