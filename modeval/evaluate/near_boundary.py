"""Sampling near the decision boundary, where the loss of a good classifier is made.

A network that has learned ``sign(alpha x1 + beta x2)`` errs on a thin strip only. Plain samples
rarely fall on it, and a loss of .003 needs millions of them. So half of the samples are pushed
toward the boundary, by a tenth or a hundredth of their distance z from it, and each sample is
weighed by how much likelier it is without the pushing,

    w(z) = φ(z) / sum_k share_k φ(z / push_k) / push_k,

which keeps every mean what it is. Source: importance sampling with the balance heuristic, Veach &
Guibas 1995.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from modeval.data.tasks import Coefficients
from modeval.types import Batch

PUSHES = (1.0, 0.1, 1.0, 0.01)
"""How far from the boundary samples end, in turn; they are drawn in the same order."""


def push(
    batch: Batch, tasks: Coefficients, scale: float
) -> tuple[Batch, Float[Tensor, "seeds samples"]]:
    """Move samples of the binary task toward the boundary of their rule; say what each weighs.

    The label stays: no sample crosses.

    Args:
        batch: independent samples.
        tasks: rules of each member.
        scale: standard deviation of the inputs.
    """
    direction = torch.stack(
        [each.to(batch.inputs.dtype).gather(1, batch.rule) for each in (tasks.alpha, tasks.beta)],
        -1,
    )
    direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    distance = (batch.inputs * direction).sum(-1)
    pushes = torch.tensor(PUSHES, dtype=distance.dtype, device=distance.device)
    factor = pushes.repeat(-(-distance.shape[1] // len(PUSHES)))[: distance.shape[1]]
    moved = distance * (factor - 1)
    inputs = batch.inputs + moved.unsqueeze(-1) * direction
    square = ((distance + moved) / scale).square()
    density = torch.zeros_like(square)
    for each in PUSHES:
        # φ(z / push) / (push φ(z)), kept relative so that nothing underflows
        density += (0.5 * square * (1 - each**-2)).exp() / each
    return Batch(inputs, batch.rule, batch.target, batch.shown), len(PUSHES) / density
