"""Adaptation: when the rules shift, does the use of the modules shift as much?"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics.alignment import Matching, take_matched
from modeval.metrics.collapse import Joint, Scalar, conditional
from modeval.metrics.levels import PROBES, rule_probe_rows
from modeval.metrics.matching import match

HELD = 1 << 20  # module shares held at a time on a CPU: fresh memory costs more than sorting
HELD_ELSEWHERE = 1 << 26  # and on a device that wants much to do at once
THREADED = 1 << 18  # numbers from which sorting is worth several threads


@lru_cache(maxsize=64)
def _probes(rules: int, probes: int) -> Tensor:
    return torch.tensor(rule_probe_rows(rules, probes), dtype=torch.float64)


def rule_probes(rules: int, probes: int = PROBES) -> Float64[Tensor, "probes rules"]:
    """Return the shifted rule distributions of the reference: probe i is Dirichlet draw i.

    Probe i is ``numpy.random.RandomState(i).dirichlet(ones(R))``, so that numbers are comparable
    with published ones.
    """
    return _probes(rules, probes).clone()


def adaptation_distance(joint: Joint) -> Scalar:
    """When the shares of the rules change, how differently do the shares of the modules change?

    ``mean over p ~ Dirichlet(1, ..., 1) of 1/2 sum_i |sort(p)_i - sort(p A)_i|``, the shorter
    vector padded with zeros. The modules' shares under p are got by *reweighting*: exact when the
    weights depend on a sample's own rule and input only, and the input not on the rule.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module, or A itself.

    Returns:
        ``(...)``, no unit, from 0 to below 1. Perfect 0; uniform and collapsed depend on R (.2567
        and .2433 at R = M = 2). It sorts, so it does not see *which* module moved: see
        ``matched_adaptation_distance``.

    Source: Mittal, Bengio, Lajoie 2022 (arXiv 2206.02713), equation 20 (the printed equation has
    no 1/2; the plotted numbers do).

    >>> round(adaptation_distance(torch.full((2, 2), 0.25, dtype=torch.float64)).item(), 6)
    0.256662
    """
    rules, modules = joint.shape[-2:]
    probes = _probes(rules, PROBES).to(joint.device)
    tables = conditional(joint).reshape(-1, rules, modules)
    held = HELD if joint.device.type == "cpu" else HELD_ELSEWHERE
    size = max(1, held // (PROBES * modules))
    room = tables.new_empty(min(size, len(tables)), PROBES, modules)
    parts = [
        _distance(probes, torch.matmul(probes, part, out=room[: len(part)]))
        for part in tables.detach().split(size)
    ]
    return torch.cat(parts).view(joint.shape[:-2])


def matched_adaptation_distance(joint: Joint, *, matching: Matching | None = None) -> Scalar:
    """When a rule becomes more frequent, is it the module of that rule that gets the work?

    ``mean over p ~ Dirichlet(1, ..., 1) of TV(p, q after π)``, q = p A, with π the matching of
    ``alignment_distance`` (found once, under the joint given). Work of unmatched modules and
    rules without a module count as error.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module, or A itself.
        matching: ``(..., R)`` module of each rule from :func:`match`, where that is known already.

    Returns:
        ``(...)``, no unit, from 0 to below 1. Perfect 0; uniform (1/2 E sum|p - 1/R|) and
        collapsed (1 - 1/R) by R. Never below ``adaptation_distance``.

    Source: this project; the probes are those of ``adaptation_distance``.

    >>> swapped = torch.eye(2, dtype=torch.float64).flip(0) / 2
    >>> matched_adaptation_distance(swapped).item()
    0.0
    """
    probes = _probes(joint.shape[-2], PROBES).to(joint.device)
    module = match(joint)[0] if matching is None else matching
    found = probes @ take_matched(conditional(joint), module)
    return (probes - found).clamp(min=0).sum(-1).mean(-1)


def adaptation_from_marginals(
    rule_distributions: Float64[Tensor, "*#batch probes rules"],
    module_marginals: Float64[Tensor, "*batch probes modules"],
) -> Scalar:
    """Return the adaptation distance from module shares that were measured under each probe.

    The *regenerate* way: run the model on data drawn under each probe.

    Args:
        rule_distributions: ``(..., P, R)`` the **realised** rule frequencies of each probe (the
            wanted ones leave a sampling floor of .003 to .017 at 10,000 samples).
        module_marginals: ``(..., P, M)`` the modules' shares under each probe.

    Returns:
        ``(...)``, as :func:`adaptation_distance`.
    """
    return _distance(rule_distributions, module_marginals.clone())


def _distance(wanted: Tensor, shares: Tensor) -> Tensor:
    """Return the adaptation distance; what it gets as shares is scratch paper afterwards."""
    rules, modules = wanted.shape[-1], shares.shape[-1]
    shared = min(rules, modules)
    excess = wanted.sort(-1).values[..., -shared:] - _largest(shares, shared)
    if rules > shared:
        excess = -excess
    # Both sum to 1, so half the sum of the differences is the sum of the positive ones; and where
    # the shorter vector is padded with zeros, none of them is positive.
    return excess.clamp_(min=0).sum(-1).mean(-1)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return the largest values of the last axis, sorted upwards, perhaps in place.

    On a CPU numpy's vectorised sort of whole rows is several times faster than torch's partial
    one; rows are halved between threads.
    """
    if values.device.type != "cpu":
        return values.topk(count, dim=-1).values.flip(-1)
    rows = values.detach().view(-1, values.shape[-1]).numpy()
    threads = torch.get_num_threads() if rows.size > THREADED else 1
    if threads == 1:
        rows.sort(axis=-1)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: part.sort(axis=-1), np.array_split(rows, threads)))
    return values[..., -count:]
