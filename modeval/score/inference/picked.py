"""Metrics that pick: the best matching, the busiest module. What is picked looks better than it is.

The best of several nearly equal things is best by luck in part: the plug-in value lies above the
true one, however it is resampled. Picked by one half of the documents and judged by the other, it
lies below: what was picked is the best by luck no more, and not always the best. The truth lies
between both.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.counting.units import Units
from modeval.metrics.collapse import usage
from modeval.metrics.matching import match
from modeval.metrics.table import METRICS
from modeval.types import Prior, View

SPLITS = 20
"""Halvings of the documents, each used both ways round."""
Joint = Float64[Tensor, "*batch rules modules"]


def _largest(picked: Joint, judged: Joint) -> Tensor:
    """Return M times the share of the module that is busiest by the other half."""
    share = usage(judged)
    return share.shape[-1] * share.gather(-1, usage(picked).argmax(-1, keepdim=True))[..., 0]


def _smallest(picked: Joint, judged: Joint) -> Tensor:
    share = usage(judged)
    return share.shape[-1] * share.gather(-1, usage(picked).argmin(-1, keepdim=True))[..., 0]


EXTREMES: dict[str, Callable[[Joint, Joint], Tensor]] = {
    "imbalance_ratio": _largest,
    "max_violation": lambda picked, judged: _largest(picked, judged) - 1,
    "collapse_worst": lambda picked, judged: 1 - _smallest(picked, judged),
}
"""Metrics of the busiest or idlest module, from two halves."""


def cross_fitted(
    units: Units, names: Sequence[str], *, prior: Prior = "uniform", view: View = "weight"
) -> dict[str, Float64[Tensor, "*batch"]]:
    """Return metrics that pick, picked by one half of the documents and judged by the other.

    Args:
        units: documents, batch ``(...)``.
        names: metrics; those that pick nothing are left out.
        prior: weight of the rules.
        view: routing weights, or each of K chosen modules as 1/K.

    Returns:
        The mean over halvings, both ways round; halves have the same labels as the whole.
    """
    matched = [name for name in names if "matching" in METRICS[name].made_of]
    extreme = [name for name in names if name in EXTREMES]
    if not matched and not extreme:
        return {}
    first, second = _halves(units, prior, view)
    found: dict[str, list[Tensor]] = {name: [] for name in (*matched, *extreme)}
    for picked, judged in ((first, second), (second, first)):
        module = match(picked)[0] if matched else None
        for name in matched:
            found[name].append(METRICS[name].function(judged, matching=module))
        for name in extreme:
            found[name].append(EXTREMES[name](picked, judged))
    return {name: torch.stack(values).mean((0, 1)) for name, values in found.items()}


def _halves(
    units: Units, prior: Prior, view: View
) -> tuple[Float64[Tensor, "splits *batch rules modules"], Tensor]:
    """Return the joint of both halves of each halving; a document is in one of them."""
    generator = torch.Generator().manual_seed(0)
    clusters = int(units.cluster.max()) + 1
    label = units.label.new_zeros(clusters).scatter_(0, units.cluster, units.label)
    chosen = torch.zeros(SPLITS, clusters, dtype=torch.float64)
    for rule in label.unique():
        members = (label == rule).nonzero()[:, 0]
        order = torch.rand(SPLITS, len(members), generator=generator).argsort(-1).argsort(-1)
        chosen[:, members] = (order % 2).double()
    weight = chosen[:, units.cluster]
    member = torch.nn.functional.one_hot(units.label, units.rules).double().T  # (R, U)
    cells, size = units.table(view).movedim(-2, 0), units.samples.movedim(-1, 0)

    def joint(weight: Tensor) -> Tensor:
        mixing = (weight[:, None] * member).flatten(0, 1)
        table = (mixing @ cells.flatten(1)).unflatten(-1, cells.shape[1:])
        table = table.unflatten(0, (len(weight), -1)).movedim(1, -2)
        total = table.sum(-1, keepdim=True)
        share = torch.full_like(total, 1 / units.rules)
        if prior == "empirical":
            samples = (mixing @ size.flatten(1)).unflatten(-1, size.shape[1:])
            share = samples.unflatten(0, (len(weight), -1)).movedim(1, -1).unsqueeze(-1)
            share = share / share.sum(-2, keepdim=True).clamp(min=TINY)
        found: Tensor = table * share / total.clamp(min=TINY)
        return found.contiguous()

    return joint(weight), joint(1 - weight)


TINY = torch.finfo(torch.float64).tiny


def dead_ends(
    units: Units, *, prior: Prior = "uniform", view: View = "weight", reach: float = 2.5
) -> tuple[Float64[Tensor, "*batch"], Float64[Tensor, "*batch"]]:
    """Return which share of the modules is surely dead, and which may be.

    A module is dead when its share is below 0.1/M. Surely: ``reach`` standard errors of its
    logarithm above it still are; perhaps: as many below it are. In logarithms, since a share that
    few documents make is skewed. The error is that of a ratio of sums over documents
    (Cochran 1977, section 6.4).
    """
    table = units.table(view)
    member = torch.nn.functional.one_hot(units.label, units.rules).double()
    size = table.sum(-1)
    total = (size @ member).clamp(min=TINY)
    share = (member.T @ table) / total.unsqueeze(-1)
    weight = torch.full_like(total, 1 / units.rules)
    if prior == "empirical":
        samples = units.samples @ member
        weight = samples / samples.sum(-1, keepdim=True).clamp(min=TINY)
    residual = table - size.unsqueeze(-1) * share[..., units.label, :]
    residual = residual * (weight / total)[..., units.label].unsqueeze(-1)
    clusters = int(units.cluster.max()) + 1
    shape = (*residual.shape[:-2], clusters, residual.shape[-1])
    summed = residual.new_zeros(shape).index_add_(-2, units.cluster, residual)
    error = summed.square().sum(-2).sqrt()
    used = (share * weight.unsqueeze(-1)).sum(-2)
    limit = 0.1 / used.shape[-1]
    factor = (reach * error / used.clamp(min=TINY)).clamp(max=50).exp()
    sure = (used * factor < limit).double().mean(-1)
    perhaps = (used / factor < limit).double().mean(-1)
    return sure, perhaps
