"""Which hidden unit of one model is which of another: they may have learned the same in any order.

    h = relu(x W_in + b),  y = h W_out

Any order of the units gives the same function. Two models are compared after the second's units are
put in the order that makes its weights most like the first's: the assignment that maximises the sum
of products of what comes into a unit and what goes out of it. Source: Ainsworth et al. 2023
(git re-basin, arXiv 2209.04836), section 3.2; exact where hidden layers do not meet.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Units:
    """One hidden layer of a model, with any number of leading axes (seeds, modules).

    Attributes:
        into: ``(..., in, H)`` what comes into each unit.
        out: ``(..., H, out)`` what goes out of it; everything that reads the units, side by side.
        bias: ``(..., H)``.
    """

    into: Float[Tensor, "*stack inputs units"]
    out: Float[Tensor, "*stack units outputs"]
    bias: Float[Tensor, "*stack units"]


def match_units(one: Units, two: Units) -> Int64[Tensor, "*stack units"]:
    """Return for each unit of ``one`` the unit of ``two`` that is most like it.

    >>> into = torch.tensor([[1.0, 0.0, 2.0]])
    >>> layer = Units(into, torch.eye(3), torch.zeros(3))
    >>> order = torch.tensor([2, 0, 1])
    >>> match_units(layer, permute_units(layer, order)).tolist()
    [1, 2, 0]
    """
    alike = (
        one.into.mT @ two.into
        + one.out @ two.out.mT
        + one.bias.unsqueeze(-1) * two.bias.unsqueeze(-2)
    )
    flat = alike.detach().double().cpu().flatten(0, -3) if alike.dim() > 2 else alike.detach()[None]  # noqa: PLR2004
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow, and seldom needed

    orders = [torch.from_numpy(linear_sum_assignment(-each.numpy())[1]) for each in flat]
    return torch.stack(orders).view(*alike.shape[:-1]).to(torch.int64)


def permute_units(layer: Units, order: Int64[Tensor, "*stack units"]) -> Units:
    """Return the same layer with its units in another order: unit i is what ``order[i]`` was."""
    return Units(
        into=layer.into.gather(-1, order.unsqueeze(-2).expand_as(layer.into)),
        out=layer.out.gather(-2, order.unsqueeze(-1).expand_as(layer.out)),
        bias=layer.bias.gather(-1, order),
    )
