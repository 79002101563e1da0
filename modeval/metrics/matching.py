"""Matching: which module belongs to which rule, for thousands of matrices at once.

Solvers give the same assignment, ties included, because each matrix first gets a tiny fixed
preference (:func:`distinct_costs`) that leaves one best assignment.

* on a CPU: ``lapx``, all matrices in one call on several threads; scipy in a loop without it;
* on CUDA: a Triton kernel, one program a matrix; without Triton the same algorithm in torch.
"""

import functools

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics.matching_paths import assign_paths
from modeval.metrics.matching_triton import assign_triton, available

UNMATCHED = -1
TIE_SCALE = 1e-10  # of the largest benefit: far above rounding, far below any printed digit

Tables = Float64[Tensor, "tables rows columns"]
Columns = Int64[Tensor, "tables rows"]


def match(
    benefit: Float[Tensor, "*batch rules modules"],
) -> tuple[Int64[Tensor, "*batch rules"], Float64[Tensor, "*batch"]]:
    """Pair rules with modules, each at most once, so that the summed benefit is largest.

    Args:
        benefit: ``(..., R, M)`` what is gained by pairing a rule with a module; any finite numbers.

    Returns:
        The module of each rule, ``(..., R)``, with -1 for the R - M rules that get none when
        R > M, and the summed benefit, ``(...)``. Ties are broken the same way by every solver.

    Raises:
        TraceError: a benefit is not finite.

    Source: Kuhn 1955 (the Hungarian method); Jonker & Volgenant 1987 (shortest augmenting paths).

    >>> module, value = match(torch.tensor([[0.5, 0.4], [0.6, 0.1]]))
    >>> module.tolist(), round(value.item(), 6)
    ([1, 0], 1.0)
    """
    rules, modules = benefit.shape[-2:]
    exact = benefit.detach().double().reshape(-1, rules, modules)
    largest = _largest(exact)
    if not bool(torch.isfinite(largest).all()):
        raise TraceError(
            "The matrix to match holds a value that is not finite. Score routing in which each "
            "rule has samples and the weights are numbers."
        )
    order = module_order(exact)
    exact = exact.gather(-1, order.unsqueeze(-2).expand_as(exact))
    wide = exact if rules <= modules else exact.transpose(-1, -2)
    column = assign(distinct_costs(wide, largest))
    if rules > modules:
        column = _invert(column, rules)
    picked = exact.gather(-1, column.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    value = picked.masked_fill(column < 0, 0.0).sum(-1)
    column = torch.where(column < 0, column, order.gather(-1, column.clamp(min=0)))
    return column.reshape(benefit.shape[:-1]), value.reshape(benefit.shape[:-2])


def module_order(benefit: Tables) -> Int64[Tensor, "tables columns"]:
    """Return the modules in an order that follows from what they get, not from their numbers.

    By a sum over rules with fixed irrational weights: only modules that get the same of every rule
    tie, and which of those is which changes nothing. Ties in matching are broken in this order,
    so that numbering the modules anew changes no metric.
    """
    rule = torch.arange(1, benefit.shape[-2] + 1, dtype=torch.float64, device=benefit.device)
    key = (benefit * (0.5 + torch.frac(rule * 0.6180339887498949))[:, None]).sum(-2)
    return key.neg().argsort(dim=-1, stable=True)


def distinct_costs(benefit: Tables, largest: Float64[Tensor, "tables"]) -> Tables:
    """Return costs, less being better, of which no two matchings sum to the same.

    To the negative benefit comes a penalty that is the same for all matrices of a size, and zero
    on the diagonal: equal matrices are matched in order.
    """
    rows, columns = benefit.shape[-2:]
    row = torch.arange(rows, dtype=torch.float64, device=benefit.device)[:, None]
    column = torch.arange(columns, dtype=torch.float64, device=benefit.device)
    scatter = torch.frac((row + 1) * 0.754877666 + (column + 1) * (row + 2) * 0.569840296)
    penalty = torch.where(row == column, 0.0, 0.5 + 0.5 * scatter) * TIE_SCALE
    return (penalty * largest[:, None, None]).sub_(benefit)


def assign(cost: Tables) -> Columns:
    """Return the column of each row, ``rows <= columns``, with the best solver for the device."""
    if cost.is_cuda:
        return assign_triton(cost) if available() else assign_paths(cost)
    if cost.device.type != "cpu":
        return assign(cost.cpu()).to(cost.device)
    return assign_lapx(cost) if has_lapx() else assign_scipy(cost)


@functools.cache
def has_lapx() -> bool:
    """Tell whether lapx is there; another package has a module ``lap`` without batches."""
    try:
        from lap import lapjvh_batch  # noqa: PLC0415 - optional: scipy does without
    except ImportError:
        return False
    return callable(lapjvh_batch)


def assign_scipy(cost: Tables) -> Columns:
    """Solve one matrix after another with scipy."""
    # half a second to load, and seldom needed
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

    found = [linear_sum_assignment(table)[1] for table in cost.numpy()]
    return torch.from_numpy(np.array(found, dtype=np.int64).reshape(cost.shape[:2]))


def assign_lapx(cost: Tables) -> Columns:
    """Solve all matrices in one call of lapx, on as many threads as torch uses."""
    from lap import lapjvh_batch  # noqa: PLC0415 - optional: scipy does without

    if cost.shape[0] == 0:
        return torch.zeros(cost.shape[:2], dtype=torch.int64)
    _, columns = lapjvh_batch(
        cost.numpy(), extend_cost=True, return_cost=False, n_threads=torch.get_num_threads()
    )
    return torch.from_numpy(np.stack(columns).astype(np.int64).reshape(cost.shape[:2]))


def _largest(benefit: Tables) -> Float64[Tensor, "tables"]:
    """Return the largest absolute benefit of each matrix; NaN where there is one."""
    low, high = torch.aminmax(benefit.flatten(1), dim=1)
    return torch.maximum(-low, high)


def _invert(column: Columns, count: int) -> Int64[Tensor, "tables count"]:
    """Turn "the rule of each module" into "the module of each rule"."""
    module = torch.full((column.shape[0], count), UNMATCHED, device=column.device)
    numbers = torch.arange(column.shape[1], device=column.device).expand_as(column)
    return module.scatter_(1, column, numbers)
