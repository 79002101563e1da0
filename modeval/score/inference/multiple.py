"""Several tests at once: what each p value is worth when many were looked at."""

import torch
from jaxtyping import Float64
from torch import Tensor


def holm(p_values: Float64[Tensor, "*batch claims"]) -> Float64[Tensor, "*batch claims"]:
    """Adjust p values for a claim about *some* of several layers or modules.

    Sorted upwards, ``max over j <= i of (n - j + 1) p_(j)``, at most 1: the chance that any true
    null is rejected stays below the level, whatever their dependence.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm(torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)).tolist()
    [0.03, 0.06, 0.06]
    """
    ordered, order = p_values.sort(-1)
    count = p_values.shape[-1]
    factor = torch.arange(count, 0, -1, dtype=torch.float64, device=p_values.device)
    adjusted = (ordered * factor).cummax(-1).values.clamp(max=1)
    return torch.empty_like(p_values).scatter_(-1, order, adjusted)


def every(p_values: Float64[Tensor, "*batch claims"]) -> Float64[Tensor, "*batch"]:
    """Return the p value of the claim that *all* hold, as "even the worst layer is above chance".

    The largest of the p values: the claim is false as soon as one is, and then that one test
    rejects too often with no more than its own level.

    Source: Berger 1982, Multiparameter hypothesis testing and acceptance sampling.

    >>> every(torch.tensor([0.01, 0.2], dtype=torch.float64)).item()
    0.2
    """
    return p_values.amax(-1)


def false_discovery(p_values: Float64[Tensor, "*batch claims"]) -> Float64[Tensor, "*batch claims"]:
    """Adjust p values so that of the claims made at a level, at most that share are wrong.

    Sorted upwards, ``min over j >= i of n p_(j) / j``, at most 1, for tests that are independent
    or positively dependent.

    Source: Benjamini & Hochberg 1995, JRSS B 57.

    >>> false_discovery(torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)).tolist()
    [0.03, 0.04, 0.04]
    """
    ordered, order = p_values.sort(-1, descending=True)
    count = p_values.shape[-1]
    rank = torch.arange(count, 0, -1, dtype=torch.float64, device=p_values.device)
    adjusted = (ordered * count / rank).cummin(-1).values.clamp(max=1)
    return torch.empty_like(p_values).scatter_(-1, order, adjusted)
