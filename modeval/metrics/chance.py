"""Chance: what routing that knows nothing of the rules would score."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor


class ChanceLevels(NamedTuple):
    """What a metric gives for routing without knowledge of the rules."""

    uniform: float
    hash_mean: float
    hash_low: float
    hash_high: float


def uniform_joint(rules: int, modules: int) -> Float64[Tensor, "rules modules"]:
    """Return the joint distribution of a router that gives every module the same weight."""
    return torch.full((rules, modules), 1 / (rules * modules), dtype=torch.float64)


def hash_joints(
    rules: int, modules: int, *, draws: int, generator: torch.Generator, choices: int = 1
) -> Float64[Tensor, "draws rules modules"]:
    """Return joint distributions of routers that send each rule to K modules drawn at random."""
    keys = torch.rand(draws, rules, modules, generator=generator)
    chosen = keys.topk(choices, dim=-1).indices
    empty = torch.zeros(draws, rules, modules, dtype=torch.float64)
    return empty.scatter_(-1, chosen, 1 / (choices * rules))


def chance_levels(
    function: Callable[[Tensor], Tensor],
    rules: int,
    modules: int,
    *,
    generator: torch.Generator,
    draws: int = 1000,
    level: float = 0.95,
) -> ChanceLevels:
    """Return what uniform routing and random hash maps score on a metric of the joint.

    Args:
        function: metric of the joint distribution, ``(..., R, M) -> (...)``.
        rules: number of rules R.
        modules: number of modules M.
        generator: draws the hash maps, on the CPU.
        draws: number of hash maps.
        level: share of the hash maps between ``hash_low`` and ``hash_high``.

    >>> from modeval.metrics.alignment import alignment_distance
    >>> generator = torch.Generator().manual_seed(0)
    >>> chance_levels(alignment_distance, 4, 4, generator=generator).uniform
    0.75
    """
    values = function(hash_joints(rules, modules, draws=draws, generator=generator))
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return ChanceLevels(
        uniform=float(function(uniform_joint(rules, modules))),
        hash_mean=float(values.mean()),
        hash_low=float(low),
        hash_high=float(high),
    )


def hash_alignment_distance(rules: int, modules: int) -> float:
    """Return the mean alignment distance of random hash maps: 1 - M (1 - (1 - 1/M)^R) / R."""
    return 1 - modules * (1 - (1 - 1 / modules) ** rules) / rules


def hash_collapse_avg(rules: int, modules: int) -> float:
    """Return the mean of ``collapse_avg`` over random hash maps: M^2/(M-1) E[(1/M - X/R)+]."""
    if modules == 1:
        return 0.0
    missing = sum(
        chance * max(0.0, 1 / modules - count / rules)
        for count, chance in enumerate(_rules_of_a_module(rules, modules))
    )
    return missing * modules**2 / (modules - 1)


def hash_inverse_mutual_information(rules: int, modules: int) -> float:
    """Return the mean inverse mutual information of random hash maps: 1 - E[H(m)]/log R."""
    held = sum(
        -chance * count / rules * math.log(count / rules)
        for count, chance in enumerate(_rules_of_a_module(rules, modules))
        if count
    )
    return 1 - modules * held / math.log(rules)


def _rules_of_a_module(rules: int, modules: int) -> list[float]:
    """Return the binomial chances that a module is given 0, 1, ..., R rules."""
    hit = 1 / modules
    return [
        math.comb(rules, count) * hit**count * (1 - hit) ** (rules - count)
        for count in range(rules + 1)
    ]
