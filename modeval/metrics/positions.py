"""Positions: how much of the routing of a sequence is about where in it a module is used."""

from jaxtyping import Float64
from torch import Tensor

from modeval.metrics.information import mutual_information


def position_information(
    joint: Float64[Tensor, "*batch positions modules"],
) -> Float64[Tensor, "*batch"]:
    """How much does the module of a position tell of where in the sequence it is?

    ``I(m; t) = sum_{t,m} J[t, m] log(J[t, m] / (p(t) p(m)))``

    Args:
        joint: ``(..., T, M)`` joint distribution of position and module.

    Returns:
        ``(...)`` in nats, from 0 to log min(T, M). 0 where routing does not depend on the position,
        as in tasks whose rules are drawn anew at each position it need not: what is above chance is
        a nuisance beside what modules tell of the rule. Uniform 0, collapsed 0, one routing for a
        whole sequence 0. From N sequences of independent positions, expect (T-1)(M-1)/(2NT).

    Source: Cover & Thomas, Elements of Information Theory, section 2.3.

    >>> import torch
    >>> by_turns = torch.tensor([[0.25, 0.0], [0.0, 0.25], [0.25, 0.0], [0.0, 0.25]]).double()
    >>> round(position_information(by_turns).item(), 4)
    0.6931
    """
    return mutual_information(joint)
