"""Aggregations: what becomes of the modules of a sample.

* ``outputs``: mix what modules say, ``sum_m p_m f_m(x)``;
* ``parameters``: mix the modules themselves and run the mixture once, ``f_(sum_m p_m theta_m)(x)``
  (SMEAR, Polytropon). The weights must be known before a module has computed anything. No mixture
  is ever formed: mixing parameters of a linear layer is mixing its outputs, layer by layer;
* ``inputs``: modules are prompts or prefixes, and those of several stand side by side before one
  input, each as present as its weight is beside the largest of the sample;
* ``attend``: mix outputs, then a value projection ``V`` that starts as the identity: with the
  scorer ``attention``, AdapterFusion.

For linear modules the first two are the same; a rectifier between layers tells them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modeval.nn.linear import StackedLinear


@dataclass(frozen=True, slots=True)
class Readout:
    """The linear last layer of each module: ``output_m = hidden_m @ weight_m + bias_m``.

    Routing weights multiply hidden units *before* it, and products with what follows are formed
    first; the outputs of single modules never exist.
    """

    weight: Float[Tensor, "seeds modules hidden out"]
    bias: Float[Tensor, "seeds modules out"]

    def then(self, following: StackedLinear) -> "Readout":
        """Return this readout followed by a linear layer, as one readout (its bias left out)."""
        return self.times(following.weight)

    def times(self, weight: Float[Tensor, "seeds out wide"]) -> "Readout":
        """Return this readout followed by a product with a matrix, as one readout."""
        seeds, modules, hidden, _ = self.weight.shape
        merged = self.weight.flatten(1, 2) @ weight
        return Readout(merged.view(seeds, modules, hidden, -1), self.bias @ weight)

    def mix(
        self,
        hidden: Float[Tensor, "seeds n #modules hidden"],
        weight: Float[Tensor, "seeds n modules"],
    ) -> Float[Tensor, "seeds n out"]:
        """Return the weighted sum of module outputs as one dense product.

        ``sum_m p_m (h_m W_m + b_m) = [p_1 h_1 ... p_M h_M] W + p b``.
        """
        mixed = (hidden * weight.unsqueeze(-1)).flatten(2) @ self.weight.flatten(1, 2)
        return mixed + weight @ self.bias

    def each(
        self, hidden: Float[Tensor, "seeds n #modules hidden"]
    ) -> Float[Tensor, "seeds n modules out"]:
        """Return the output of each module on its own."""
        outputs = hidden.transpose(1, 2) @ self.weight + self.bias.unsqueeze(2)
        return outputs.transpose(1, 2)


@dataclass(frozen=True, slots=True)
class Spare:
    """What all modules have in common, for weights that do not sum to 1.

    Modules that share a trunk are ``shared + own_m``. Where weights are those of a linear generator
    the trunk counts once, whatever they sum to: ``shared + sum_m a_m own_m``.
    """

    outputs: Float[Tensor, "seeds n out"]

    def add(self, mixed: Tensor, weight: Tensor) -> Tensor:
        """Return a mixture in which the shared part counts exactly once."""
        return mixed + (1 - weight.sum(-1, keepdim=True)) * self.outputs


def mix_hidden(
    before: Float[Tensor, "seeds n modules hidden"],
    weight: Float[Tensor, "seeds n modules"],
    spare: Spare | None = None,
) -> Float[Tensor, "seeds n modules hidden"]:
    """Return the hidden units of the mixture of modules, the same in the place of each module.

    Args:
        before: what each module's first layer gives, before the rectifier.
        weight: routing weights.
        spare: the shared part, where it must count exactly once.

    >>> before = torch.tensor([[[[2.0], [-1.0]]]])
    >>> mix_hidden(before, torch.tensor([[[0.5, 0.5]]])).flatten().tolist()
    [0.5, 0.5]
    """
    mixed = (before * weight.unsqueeze(-1)).sum(2)
    if spare is not None:
        mixed = spare.add(mixed, weight)
    return F.relu(mixed).unsqueeze(2).expand(-1, -1, before.shape[2], -1)


def of_pairs(weight: Float[Tensor, "*n modules"], count: int) -> Float[Tensor, "*n count"]:
    """Return the weight of each part that is mixed: of modules, or of all pairs of them.

    Where the factors of low-rank modules are averaged apart, ``(sum_m p_m A_m)(sum_n p_n B_n)``,
    what is mixed is each ``A_m B_n``, with ``p_m p_n``.

    >>> of_pairs(torch.tensor([0.75, 0.25]), 4).tolist()
    [0.5625, 0.1875, 0.1875, 0.0625]
    >>> of_pairs(torch.tensor([0.75, 0.25]), 2).tolist()
    [0.75, 0.25]
    """
    if weight.shape[-1] == count:
        return weight
    pairs: Tensor = (weight.unsqueeze(-1) * weight.unsqueeze(-2)).flatten(-2)
    return pairs


def present(weight: Float[Tensor, "*n modules"]) -> Float[Tensor, "*n modules"]:
    """Return how present modules are that stand side by side: the one with the most weight wholly.

    >>> present(torch.tensor([[0.5, 0.5, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [[1.0, 1.0, 0.0], [1.0, 0.25, 0.0], [0.0, 0.0, 0.0]]
    """
    return weight / weight.amax(-1, keepdim=True).clamp(min=1e-12)


class Value(StackedLinear):
    """The value projection of ``attend``; starts as the identity, so that nothing is lost.

    Source: Pfeiffer et al. 2021 (AdapterFusion, arXiv 2005.00247), section 3.2.
    """

    def __init__(self, seeds: int, width: int) -> None:
        super().__init__((seeds,), width, width, bias=False)

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start as the identity."""
        del generators
        with torch.no_grad():
            self.weight.copy_(torch.eye(self.weight.shape[-1]).expand_as(self.weight))
