"""Columns: a net of each rule, which read each other's layers (cross-stitch and sluice networks).

A column is a module of each layer with a state of its own. After each layer, column i goes on from
a mixture of what all columns say:

    x_i <- sum_j a_ij f_j(x_j)

and a sample is predicted from the column of its rule. The row of that column is the sample's
routing. In a sluice network each column has G subspaces, which mix one by one, and what is decoded
is a learned sum over layers.

Source: Misra et al. 2016 (cross-stitch, arXiv 1604.03539); Ruder et al. 2019 (sluice, arXiv
1705.08142).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.nn.linear import per_rule
from modeval.nn.network import LooksAt, Route
from modeval.nn.scorers import Seen, Weighed

OWN = 0.9
"""What a column starts with of its own; the rest is shared out over the others."""


@dataclass(frozen=True, slots=True)
class Stitch:
    """How columns mix.

    Attributes:
        subspaces: G, parts of a state that mix one by one.
        orthogonality: what the loss is charged for subspaces of a column that are alike.
    """

    subspaces: int = 1
    orthogonality: float = 0.0

    def penalty(self, weight: Float[Tensor, "seeds modules in out"]) -> Float[Tensor, " seeds"]:
        """Return ``c sum_m sum_(g<h) |W_mg' W_mh|²``, W_mg leading to subspace g of column m.

        Source: Ruder et al. 2019, section 3.3; Bousmalis et al. 2016 (arXiv 1608.06019).
        """
        parts = weight.unflatten(-1, (self.subspaces, -1)).movedim(-2, 2)  # (S, M, G, in, W/G)
        alike = torch.einsum("smgiv,smhiw->smghvw", parts, parts).square().flatten(-2).sum(-1)
        total: Tensor = self.orthogonality * alike.triu(1).flatten(1).sum(1)
        return total


class StitchScorer(nn.Module):
    """Free weights of each column, or of its subspaces, that start near its own state."""

    looks_at: ClassVar[LooksAt] = "rule"

    def __init__(self, seeds: int, modules: int, subspaces: int = 1) -> None:
        super().__init__()
        self.module_count, self.subspaces = modules, subspaces
        size = modules * subspaces
        self.alpha = nn.Parameter(torch.zeros(seeds, size, size))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start with :data:`OWN` of its own and equal parts of the others."""
        del generators
        size = self.alpha.shape[-1]
        own = torch.eye(size)
        with torch.no_grad():
            self.alpha.copy_(OWN * own + (1 - own) * (1 - OWN) / max(size - 1, 1))

    def mixing(self) -> Float[Tensor, "seeds modules parts modules2 parts2"]:
        """Return the weights by column and subspace, of the reader and of what is read."""
        parts = (self.module_count, self.subspaces)
        alpha: Tensor = self.alpha
        mixing: Tensor = alpha.unflatten(-1, parts).unflatten(1, parts)
        return mixing

    def forward(self, seen: Seen) -> Float[Tensor, "seeds rules modules"]:
        """Return the weights; of subspaces, their sizes added up and averaged over readers."""
        del seen
        if self.subspaces == 1:
            whole: Tensor = self.alpha
            return whole
        return self.mixing().abs().sum(-1).mean(2)


@dataclass(frozen=True, slots=True)
class Mixed:
    """States of all columns after a layer, and how the samples' own column read."""

    states: Float[Tensor, "seeds n modules width"]
    weighed: Weighed


def mixed(
    rows: Float[Tensor, "seeds rules modules"],
    mixing: Float[Tensor, "seeds rules parts modules parts"],
    outputs: Float[Tensor, "seeds n modules width"],
    rule: Int64[Tensor, "seeds n"],
    route: Callable[[Tensor], Tensor] | None,
) -> Mixed:
    """Return what each column goes on from.

    Args:
        rows: routing weights of each column.
        mixing: what they stand for, subspace by subspace.
        outputs: what each column says.
        rule: whose column a sample is predicted from.
        route: what is done to the weights of each column, if anything.
    """
    samples = outputs.shape[1]
    parts = outputs.unflatten(-1, (mixing.shape[2], -1))
    if route is None:
        states = torch.einsum("sigjh,snjhw->snigw", mixing, parts)
        weight = per_rule(rows, rule)
    else:
        routed = torch.stack(
            [route(row.unsqueeze(1).expand(-1, samples, -1)) for row in rows.unbind(1)], 2
        )  # (S, N, M, M): of each sample, what each column reads of each
        before = rows.unsqueeze(1).expand_as(routed)
        factor = torch.where(before == 0, 0, routed / torch.where(before == 0, 1, before))
        states = torch.einsum("sigjh,snij,snjhw->snigw", mixing, factor, parts)
        new = torch.where(before == 0, routed, 0)  # what was not read at all is read as it is
        states = states + torch.einsum("snij,snjgw->snigw", new, parts)
        weight = own_column(routed, rule)
    return Mixed(states.flatten(-2), Weighed(weight, lambda: per_rule(rows, rule)))


def own_column(
    states: Float[Tensor, "seeds n modules width"], rule: Int64[Tensor, "seeds n"]
) -> Float[Tensor, "seeds n width"]:
    """Return the state of the column of each sample's rule."""
    chosen = F.one_hot(rule, states.shape[2]).to(states.dtype)
    return (states * chosen.unsqueeze(-1)).sum(2)


def routing_of(route: Route | None, layer: int) -> Callable[[Tensor], Tensor] | None:
    """Return the route of one layer."""
    return None if route is None else lambda weight: route(weight, layer)


class Skips(nn.Module):
    """A learned sum over layers for each column, ``sum_l b_cl x_cl``; it starts as their mean."""

    def __init__(self, seeds: int, rules: int, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(seeds, rules, layers))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start as the mean."""
        del generators
        with torch.no_grad():
            self.weight.fill_(1 / self.weight.shape[-1])

    def forward(
        self, states: Sequence[Float[Tensor, "seeds n width"]], rule: Int64[Tensor, "seeds n"]
    ) -> Float[Tensor, "seeds n width"]:
        """Return what is decoded."""
        each = per_rule(self.weight, rule).unsqueeze(-1)
        return (torch.stack(tuple(states), 2) * each).sum(2)
