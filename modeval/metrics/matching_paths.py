"""Matching by shortest augmenting paths, all matrices in step: the algorithm of the CUDA kernel.

One row after another looks for the cheapest way to a free column, over columns that earlier rows
hold, and the rows on that way move over. Only the columns' prices are kept: a row's own price is
what complementary slackness says, its cost at the column it holds less that column's price.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

Tables = Float64[Tensor, "tables rows columns"]
NONE = -1


def assign_paths(cost: Tables) -> Int64[Tensor, "tables rows"]:
    """Return the column of each row at the least summed cost; ``rows <= columns``.

    Source: Jonker & Volgenant 1987; Crouse 2016, the algorithm of scipy.

    >>> assign_paths(torch.tensor([[[1.0, 2.0], [1.0, 3.0]]], dtype=torch.float64)).tolist()
    [[1, 0]]
    """
    tables, rows, columns = cost.shape
    price = cost.new_zeros(tables, columns)
    owner = torch.full((tables, columns), NONE, device=cost.device)
    for row in range(rows):
        sink, least, distance, via, reached = _search(cost, price, owner, row)
        price = torch.where(reached, price + distance - least, price)
        _augment(owner, via, sink, row)
    numbers = torch.arange(columns, device=cost.device).expand_as(owner)
    found = torch.zeros(tables, rows + 1, dtype=torch.int64, device=cost.device)
    return found.scatter_(1, owner + 1, numbers)[:, 1:]


def _search(
    cost: Tables, price: Tensor, owner: Tensor, row: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Find for each matrix the nearest free column, as Dijkstra does."""
    every = torch.arange(cost.shape[0], device=cost.device)
    distance = cost[:, row] - price
    via = torch.full_like(owner, NONE)
    reached = torch.zeros_like(owner, dtype=torch.bool)
    sink = torch.full_like(every, NONE)
    least = distance.new_zeros(len(every), 1)
    while bool((searching := sink < 0).any()):
        near, column = distance.masked_fill(reached, torch.inf).min(-1, keepdim=True)
        least = torch.where(searching[:, None], near, least)
        holder = owner.gather(1, column)
        onward = searching[:, None] & (holder >= 0)
        sink = torch.where(searching & (holder[:, 0] < 0), column[:, 0], sink)
        reached |= torch.zeros_like(reached).scatter_(1, column, onward)
        reduced = cost[every, holder.clamp(min=0)[:, 0]] - price
        through = reduced - reduced.gather(1, column) + least
        better = onward & ~reached & (through < distance)
        distance = torch.where(better, through, distance)
        via = torch.where(better, column, via)
    return sink, least, distance, via, reached


def _augment(owner: Tensor, via: Tensor, sink: Tensor, row: int) -> None:
    """Move the rows on the way from ``row`` to ``sink`` over by one column, in place."""
    column = sink[:, None]
    while bool((moving := column >= 0).any()):
        here = column.clamp(min=0)
        before = torch.where(moving, via.gather(1, here), NONE)
        mover = torch.where(before < 0, row, owner.gather(1, before.clamp(min=0)))
        owner.scatter_(1, here, torch.where(moving, mover, owner.gather(1, here)))
        column = before
