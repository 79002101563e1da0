"""Operations on two numbers, a different one for each rule."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def weighted_sum(
    pair: Float[Tensor, "*batch 2"],
    alpha: Float[Tensor, "*batch"],
    beta: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 1"]:
    """Weigh two numbers: ``y = alpha * x1 + beta * x2``."""
    return (alpha * pair[..., 0] + beta * pair[..., 1]).unsqueeze(-1)


def along(
    pair: Float[Tensor, "*batch 2"],
    alpha: Float[Tensor, "*batch"],
    beta: Float[Tensor, "*batch"],
    share: float,
) -> Float[Tensor, "*batch 2"]:
    """Take away ``share`` of what a weighted sum does not read: ``x - share (x - (x . u) u)``.

    ``u`` is the direction of (alpha, beta). The sum stays what it was, and the numbers tell which
    sum it is.

    >>> along(torch.tensor([[2.0, 1.0]]), torch.tensor([3.0]), torch.tensor([0.0]), 0.5).tolist()
    [[2.0, 0.5]]
    """
    weights = torch.stack((alpha, beta), -1)
    unit = weights / weights.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(pair.dtype).tiny)
    read = (pair * unit).sum(-1, keepdim=True) * unit
    kept: Tensor = pair - share * (pair - read)
    return kept


def named_operations(
    pair: Float[Tensor, "*batch 2"], rule: Int64[Tensor, "*batch"]
) -> Float[Tensor, "*batch 1"]:
    """Apply to each pair the operation of its rule, in the order of ``NAMED_OPERATIONS``.

    >>> named_operations(torch.tensor([[2.0, 3.0]] * 5), torch.arange(5)).flatten()
    tensor([ 5., -1.,  6.,  2.,  3.])
    """
    first, second = pair.unbind(-1)
    results = torch.stack(
        [
            first + second,
            first - second,
            first * second,
            torch.minimum(first, second),
            torch.maximum(first, second),
        ],
        dim=-1,
    )
    return results.gather(-1, rule.unsqueeze(-1))
