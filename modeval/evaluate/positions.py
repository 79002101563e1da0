"""Routing of a sequence by position: what modules took at each, over many sequences."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.nn.network import Routed
from modeval.types import shares


def by_position(
    routed: Sequence[Routed], blocks: int
) -> Float64[Tensor, "seeds layers blocks positions modules"]:
    """Return what multiplied modules at each position, as shares, in blocks of whole sequences.

    >>> weight = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]]]]).expand(-1, 4, -1, -1)
    >>> by_position([Routed(weight, lambda: weight, weight)], 2).tolist()
    [[[[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]]]]]
    """
    weight = torch.stack([shares(each.weight) for each in routed], 1).double()
    block = torch.arange(weight.shape[2], device=weight.device) * blocks // weight.shape[2]
    empty = weight.new_zeros(*weight.shape[:2], blocks, *weight.shape[3:])
    return empty.index_add_(2, block, weight)
