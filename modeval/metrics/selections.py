"""What was selected: tables of rules and modules, and of modules together."""

from jaxtyping import Float64
from torch import Tensor

from modeval.types import RoutingCounts


def domain_specialization(
    counts: RoutingCounts,
) -> Float64[Tensor, "*batch rules modules"]:
    """Which share of a rule's samples chooses each module?

    ``D[r, m] = #{samples of r that choose m} / #{samples of r}``

    Args:
        counts: folded routing, batch ``(...)``.

    Returns:
        ``(..., R, M)``, no unit, from 0 to 1; each row sums to K. Perfect: one 1 in each row (K =
        1); uniform K/M; collapsed: the same K ones in each row.

    Raises:
        TraceError: a rule has no samples.

    Source: Muennighoff et al. 2024, OLMoE (arXiv 2409.02060), equation 10.

    >>> import torch
    >>> chosen = torch.tensor([[0, 1], [0, 2]])
    >>> from modeval.counting.count import count_choices
    >>> counts = count_choices(torch.tensor([0, 0]), chosen, rules=1, modules=4)
    >>> domain_specialization(counts).tolist()
    [[1.0, 0.5, 0.5, 0.0]]
    """
    share = counts.conditional(view="assignment")
    chosen = counts.selections.sum((-3, -1)) / counts.samples.sum(-2)
    return share * chosen.unsqueeze(-1)


def coactivation(counts: RoutingCounts) -> Float64[Tensor, "*batch modules modules"]:
    """When one module is chosen, how often is another chosen with it?

    ``C[i, j] = N_ij / N_i`` over all pairs of a sample's K choices.

    Args:
        counts: folded routing, batch ``(...)``.

    Returns:
        ``(..., M, M)``, no unit, from 0 to 1, diagonal 1; rows of modules that were never chosen
        are 0. Top-1 routing 0 off the diagonal; uniform (K-1)/(M-1); collapsed: 1 between the K
        modules that are always chosen.

    Source: Muennighoff et al. 2024, OLMoE (arXiv 2409.02060), equation 9, over all pairs.

    >>> import torch
    >>> chosen = torch.tensor([[0, 1], [0, 2]])
    >>> from modeval.counting.count import count_choices
    >>> counts = count_choices(torch.tensor([0, 0]), chosen, rules=1, modules=3)
    >>> coactivation(counts).tolist()
    [[1.0, 0.5, 0.5], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    own = counts.coactivation.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return counts.coactivation / own.clamp(min=1)


def unrouted_share(counts: RoutingCounts, *, choices: int = 0) -> Float64[Tensor, "*batch"]:
    """Which share of the routing that samples ask for does not take place?

    ``1 - sum of selections / (K N)`` for samples that choose K modules each, as when modules drop
    what is beyond their capacity; ``1 - sum of weights / N`` where the choices are soft.

    Args:
        counts: folded routing, batch ``(...)``.
        choices: modules that a sample chooses; 0 where they are soft or unknown.

    Returns:
        ``(...)``, no unit, from 0, where all is routed, to 1, where nothing is.

    Source: this project; the share of dropped tokens of Fedus et al. 2022 (arXiv 2101.03961).

    >>> import torch
    >>> from modeval.counting.count import count_choices
    >>> chosen = torch.tensor([[0, 1], [0, -1]])
    >>> unrouted_share(count_choices(torch.tensor([0, 0]), chosen, rules=1, modules=2), choices=2)
    tensor(0.2500, dtype=torch.float64)
    """
    table = counts.selections if choices else counts.mass
    wanted = counts.samples.sum((-2, -1)) * max(choices, 1)
    return (1 - table.sum((-3, -2, -1)) / wanted).clamp(0, 1)
