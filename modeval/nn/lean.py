"""The same to rounding in fewer passes over memory, for steps on processors (engine ``lean``).

PyTorch's softmax takes rows of a few numbers one by one, which is a fifth of a step of attention
and more; here all rows are worked on together. And what a mixture of layers says needs no layer's
own answer.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def shares(
    logits: Float[Tensor, "*n few"],
) -> tuple[Float[Tensor, "*n few"], Float[Tensor, "*n"]]:
    """Return ``softmax(logits)`` and ``logsumexp(logits)``, for rows of a few numbers.

    Args:
        logits: minus infinity where there is no share; not in all of a row.

    >>> logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    >>> share, size = shares(logits)
    >>> torch.equal(share, logits.softmax(-1)), torch.equal(size, logits.logsumexp(-1))
    (True, True)
    """
    share, size = _Shares.apply(logits)  # type: ignore[no-untyped-call]
    return share, size.squeeze(-1)


def attend(
    query: Float[Tensor, "*stack n head"],
    key: Float[Tensor, "*stack k head"],
    value: Float[Tensor, "*stack k head"],
    closed: Float[Tensor, "*#stack n k"],
) -> tuple[Float[Tensor, "*stack n head"], Float[Tensor, "*stack n"]]:
    """Return ``softmax(q k / sqrt(head) + closed) v``, and the log of what the softmax divides by.

    Args:
        query: of each position.
        key: of what it looks at.
        value: likewise.
        closed: 0, or minus infinity where nothing is seen; something must be seen by each.

    >>> query, key, value = (torch.randn(2, 3, 4) for _ in range(3))
    >>> found, size = attend(query, key, value, torch.zeros(3, 3))
    >>> expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    >>> torch.allclose(found, expected, atol=1e-6)
    True
    >>> torch.allclose(size, (query @ key.mT / 2).logsumexp(-1), atol=1e-6)
    True
    """
    stack, scale = query.shape[:-2], query.shape[-1] ** -0.5
    query, key, value = (each.reshape(-1, *each.shape[-2:]) for each in (query, key, value))
    closed = closed.expand(*stack, -1, -1).flatten(0, -3)
    share, size = shares(torch.baddbmm(closed, query, key.mT, alpha=scale))
    return (share @ value).unflatten(0, stack), size.unflatten(0, stack)


def mixed_product(
    x: Float[Tensor, "seeds n in"],
    weight: Float[Tensor, "seeds in modules_out"],
    bias: Float[Tensor, "seeds one modules_out"] | None,
    mix: Float[Tensor, "seeds n modules"],
) -> Float[Tensor, "seeds n out"]:
    """Return ``sum_m p_m (x W_m + b_m)`` as ``[p_1 x ... p_M x] W + p b``.

    Args:
        x: what comes in.
        weight: of all modules, side by side.
        bias: likewise.
        mix: the weight of each module for each sample.

    >>> x, weight = torch.tensor([[[2.0]]]), torch.tensor([[[1.0, 10.0]]])
    >>> mixed_product(x, weight, None, torch.tensor([[[0.5, 0.25]]])).item()
    6.0
    """
    modules = mix.shape[-1]
    apart = weight.unflatten(-1, (modules, -1)).transpose(1, 2).flatten(1, 2)  # (S, M in, out)
    each = (mix.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
    if bias is None:
        product: Tensor = each @ apart
        return product
    return torch.baddbmm(mix @ bias.squeeze(1).unflatten(-1, (modules, -1)), each, apart)


class _Shares(torch.autograd.Function):
    """The softmax and its size, and their gradient: ``p (dp - sum(p dp) + d_size)``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        largest = logits.amax(-1, keepdim=True)
        share = (logits - largest).exp_()
        total = share.sum(-1, keepdim=True)
        share.div_(total)
        ctx.save_for_backward(share)
        return share, largest.add_(total.log_())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        """Return the gradient by the logits."""
        (share,) = ctx.saved_tensors
        of_share, of_size = slopes
        rest = (of_share * share).sum(-1, keepdim=True).sub_(of_size)
        slope: Tensor = (of_share - rest).mul_(share)
        return slope
