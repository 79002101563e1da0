"""Columns: modules of which each also reads the hidden units of those before it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modeval.nn.linear import StackedLinear
from modeval.types import Noise


class LateralReadout(StackedLinear):
    """The last layer of a bank of columns: column m reads the units of columns 0 to m.

    The weight is ``(S, M, M H, out)``; what would read a later column is 0 and never learns.
    """

    readable: Tensor

    def __init__(self, seeds: int, modules: int, units: int, outputs: int) -> None:
        super().__init__((seeds, modules), modules * units, outputs)
        earlier = torch.ones(modules, modules).tril().repeat_interleave(units, 1)
        self.register_buffer("readable", earlier.unsqueeze(-1), persistent=False)

    def parts(self, noise: Noise | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias."""
        del noise
        return self.weight * self.readable, self.bias


class ColumnsMLP(nn.Module):
    """A bank of modules of two layers with laterals; see :class:`StackedMLP`.

    >>> bank = ColumnsMLP(seeds=1, modules=3, widths=(4, 5, 2))
    >>> weight, _ = bank.readout.parts()
    >>> [bool((weight[0, 0, 5 * j : 5 * j + 5] == 0).all()) for j in (1, 2)]
    [True, True]
    """

    def __init__(self, seeds: int, modules: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        inputs, units, outputs = widths
        self.hidden = StackedLinear((seeds, modules), inputs, units)
        self.readout = LateralReadout(seeds, modules, units, outputs)

    def rectified(
        self, before: Float[Tensor, "seeds n modules hidden"]
    ) -> Float[Tensor, "seeds n modules units"]:
        """Return for each column the hidden units of all, given what the first layer says."""
        every = before.relu().flatten(2).unsqueeze(2)
        return every.expand(-1, -1, before.shape[2], -1)
