"""Banks of modules: the parameters that a computation asks for, and what it makes of them."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modeval.nn.linear import StackedLinear, StackedMLP
from modeval.spec.computations import Computation, Compute, Full, Layer, Own


class Bank(nn.Module):
    """A linear layer of modules around a trunk that they share; see :class:`StackedLinear`.

    Args:
        seeds: size of the cohort.
        modules: number of modules.
        layer: where it stands, and its widths.
        computation: what each module has for itself, and how its weight comes about.
    """

    def __init__(self, seeds: int, modules: int, layer: Layer, computation: Compute) -> None:
        super().__init__()
        self.module_count, self.layer, self.computation = modules, layer, computation
        self.shared = StackedLinear((seeds,), layer.inputs, layer.outputs, bias=layer.bias)
        self.shared.requires_grad_(computation.trained)
        self.starts = computation.own(layer)
        for name, own in self.starts.items():
            stack = (seeds, 1 if own.common else modules)
            self.register_parameter(f"own_{name}", nn.Parameter(torch.zeros(*stack, *own.shape)))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start each parameter where its computation says."""
        for name, own in self.starts.items():
            for member, generator in zip(self.own[name], generators, strict=True):
                _start(member, own, generator)

    @property
    def own(self) -> dict[str, Tensor]:
        """Return what each module has for itself."""
        return {name: cast("Tensor", getattr(self, f"own_{name}")) for name in self.starts}

    def parts(
        self,
    ) -> tuple[Float[Tensor, "seeds modules in out"], Float[Tensor, "seeds modules out"] | None]:
        """Return the weight and the bias of each module."""
        trunk = self.shared.bias
        weight, bias = self.computation.made(
            self.layer,
            self.shared.weight.unsqueeze(1),
            None if trunk is None else trunk.unsqueeze(1),
            self.own,
        )
        weight = weight.expand(-1, self.module_count, -1, -1)
        return weight, None if bias is None else bias.expand(-1, self.module_count, -1)


def _start(member: Tensor, own: Own, generator: torch.Generator) -> None:
    if own.bound:
        member.uniform_(own.value - own.bound, own.value + own.bound, generator=generator)
    else:
        member.fill_(own.value)


class BankMLP(nn.Module):
    """A bank of modules of two layers around a trunk that they share; see :class:`StackedMLP`."""

    def __init__(
        self, seeds: int, modules: int, widths: tuple[int, int, int], computation: Compute
    ) -> None:
        super().__init__()
        self.computation = computation
        hidden, readout = Layer("hidden", *widths[:2]), Layer("readout", *widths[1:])
        self.hidden = Bank(seeds, modules, hidden, computation)
        self.readout = Bank(seeds, modules, readout, computation)

    def rectified(
        self, before: Float[Tensor, "seeds n modules hidden"]
    ) -> Float[Tensor, "seeds n modules units"]:
        """Return the hidden units, given what the first layer says."""
        return self.computation.rectified(before, self.hidden.own)


Experts = StackedMLP | BankMLP
"""A bank of modules of two layers, whatever they are made of."""


def mlp_bank(
    seeds: int, modules: int, widths: tuple[int, int, int], computation: Computation
) -> Experts:
    """Make a bank of modules of two layers."""
    if isinstance(computation, Full):
        return StackedMLP((seeds, modules), widths)
    return BankMLP(seeds, modules, widths, computation)


def gates_bank(
    seeds: int, modules: int, inputs: int, outputs: int, computation: Computation, *, bias: bool
) -> StackedLinear | Bank:
    """Make a bank of single layers, for recurrent cells."""
    if isinstance(computation, Full):
        return StackedLinear((seeds, modules), inputs, outputs, bias=bias)
    return Bank(seeds, modules, Layer("gates", inputs, outputs, bias=bias), computation)
