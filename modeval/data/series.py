"""Switching linear dynamics: the rule of a position says how the state moves on."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ROWS = 2**15
"""Rows whose matrices are gathered at once: what bounds the working space on a device."""


def follow(
    weights: Float[Tensor, "seeds rules history states"],
    inputs: Float[Tensor, "seeds samples positions states"],
    rule: Int64[Tensor, "seeds samples positions"],
) -> Float[Tensor, "seeds samples positions states"]:
    """Through which states does each series go?

    ``s_n = s_{n-1} A_{c,1} + ... + s_{n-order} A_{c,order} + x_n B_c`` with c the rule of position
    n, from states of zero, in row vectors. ``weights`` hold ``A_1``, ..., ``A_order`` and ``B``
    over each other.
    """
    if inputs.device.type != "cpu":
        return follow_gathered(weights, inputs, rule)
    states = torch.empty_like(inputs)
    # Member by member: the sizes of the products, and with them the last bits of their results,
    # then do not depend on who else is in the cohort.
    for member in range(len(weights)):
        follow_grouped(weights[member], inputs[member], rule[member], out=states[member])
    return states


def follow_gathered(
    weights: Float[Tensor, "seeds rules history states"],
    inputs: Float[Tensor, "seeds samples positions states"],
    rule: Int64[Tensor, "seeds samples positions"],
) -> Float[Tensor, "seeds samples positions states"]:
    """Follow every series with a matrix of its own for each row: fixed shapes, no host."""
    seeds, rules, history, size = weights.shape
    owner = torch.arange(seeds, device=rule.device).view(-1, 1, 1) * rules
    matrix = (rule + owner).flatten(0, 1)
    by_rule = weights.flatten(0, 1)
    states = torch.empty_like(inputs)
    for out, rows, chosen in zip(
        torch.split(states.flatten(0, 1), ROWS),
        torch.split(inputs.flatten(0, 1), ROWS),
        torch.split(matrix, ROWS),
        strict=True,
    ):
        past = [rows.new_zeros(len(rows), size)] * (history // size - 1)
        for step in range(rows.shape[1]):
            row = torch.cat([*past, rows[:, step]], dim=-1).unsqueeze(1)
            state = torch.bmm(row, by_rule.index_select(0, chosen[:, step])).squeeze(1)
            out[:, step] = state
            past = [state, *past[:-1]]
    return states


def follow_grouped(
    weights: Float[Tensor, "rules history states"],
    inputs: Float[Tensor, "samples positions states"],
    rule: Int64[Tensor, "samples positions"],
    *,
    out: Float[Tensor, "samples positions states"],
) -> None:
    """Follow the series of one member with one product for each rule and step.

    The rows of a rule are put side by side into a block as long as the largest rule's, so that a
    step is one batched product of about as many rows as there are samples, and not of R times as
    many.
    """
    rules, history, size = weights.shape
    places, capacity = slots(rule.T.contiguous(), rules)
    rows = inputs.new_zeros(rules * capacity, history)
    past = [inputs.new_zeros(len(inputs), size)] * (history // size - 1)
    for step, place in enumerate(places):
        # Places that this step leaves free keep old rows, whose products nobody reads.
        rows.index_copy_(0, place, torch.cat([*past, inputs[:, step]], dim=-1))
        moved = torch.bmm(rows.view(rules, capacity, history), weights).view(-1, size)
        state = moved.index_select(0, place)
        out[:, step] = state
        past = [state, *past[:-1]]


def slots(
    rule: Int64[Tensor, "steps samples"], rules: int
) -> tuple[Int64[Tensor, "steps samples"], int]:
    """Give each sample of a step a place in its rule's block; return the places and block size.

    >>> slots(torch.tensor([[1, 0, 1]]), 2)
    (tensor([[2, 0, 3]]), 2)
    """
    steps, samples = rule.shape
    group = (rule + torch.arange(steps, device=rule.device).unsqueeze(-1) * rules).flatten()
    order = group.argsort(stable=True)
    count = torch.bincount(group, minlength=steps * rules)
    capacity = int(count.max())
    start = count.cumsum(0) - count
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(group), device=rule.device) - start[group[order]]
    return rank.view(steps, samples) + rule * capacity, capacity
