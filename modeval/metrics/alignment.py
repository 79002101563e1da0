"""Alignment: does each rule have a module of its own?"""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from modeval.metrics.collapse import Joint, Scalar, exact_zero
from modeval.metrics.matching import match

Matching = Int64[Tensor, "*batch rules"]


class AlignmentBounds(NamedTuple):
    """Alignment distances that a routing can be held against, each ``(...)``."""

    best: Tensor
    chance: Tensor


def alignment_distance(joint: Joint, *, matching: Matching | None = None) -> Scalar:
    """How much routing misses the module that its rule is matched with, at the best matching?

    ``1 - max over matchings π of sum_r J[r, π(r)]``; with a uniform prior,
    ``1 - (1/R) sum_r A[r, π(r)]``. A matching pairs min(R, M) rules with as many modules.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.
        matching: ``(..., R)`` module of each rule from :func:`match`, where that is known already.

    Returns:
        ``(...)``, no unit. From 1 - min(R, M)/R, one-to-one (0 for M >= R), to
        1 - min(R, M)/(R M), which uniform and collapsed routing have. For R = M it is the
        normalised L1 distance from A to the nearest permutation matrix. Not comparable between
        different R: see ``alignment_score``.

    Source: Mittal, Bengio, Lajoie 2022 (arXiv 2206.02713), equation 18.

    >>> alignment_distance(torch.eye(3, dtype=torch.float64)[[2, 0, 1]] / 3).item()
    0.0
    """
    module = match(joint)[0] if matching is None else matching
    distance = 1 - take_matched(joint, module).diagonal(dim1=-2, dim2=-1).sum(-1)
    return exact_zero(distance)


def alignment_bounds(joint: Joint) -> AlignmentBounds:
    """Return the alignment distance of the best routing and of uniform routing, for this prior."""
    rules, modules = joint.shape[-2:]
    matched = joint.sum(-1).topk(min(rules, modules), dim=-1).values.sum(-1)
    return AlignmentBounds(best=1 - matched, chance=1 - matched / modules)


def take_matched(table: Joint, module: Matching) -> Float64[Tensor, "*batch rules rules"]:
    """Return the columns of the modules that the rules are matched with; 0 for unmatched rules."""
    index = module.clamp(min=0).unsqueeze(-2).expand(*table.shape[:-1], -1)
    return table.gather(-1, index).masked_fill(module.unsqueeze(-2) < 0, 0.0)


def alignment_score(joint: Joint, *, matching: Matching | None = None) -> Scalar:
    """How far is the routing on the way from chance to one module for each rule?

    ``(d_chance - d) / (d_chance - d_best)`` with d the alignment distance,
    d_best = 1 - min(R, M)/R and d_chance = 1 - min(R, M)/(R M).

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.
        matching: ``(..., R)`` module of each rule from :func:`match`, where that is known already.

    Returns:
        ``(...)``, no unit, from 0 to 1, comparable between sizes. One-to-one 1, uniform 0,
        collapsed 0 for R = M. A single module has nothing to choose: 1, as it is both.

    Source: this project; the matching is that of equation 18 of arXiv 2206.02713.

    >>> alignment_score(torch.eye(4, dtype=torch.float64) / 4).item()
    1.0
    """
    best, chance = alignment_bounds(joint)
    room = chance - best
    if joint.shape[-1] == 1:
        return torch.ones_like(room)
    return ((chance - alignment_distance(joint, matching=matching)) / room).clamp(min=0, max=1)
