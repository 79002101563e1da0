"""Banks of modules: the parameters that a computation asks for, and what it makes of them."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modeval.nn.laterals import ColumnsMLP
from modeval.nn.linear import StackedLinear, StackedMLP
from modeval.spec.computing.computations import Computation, Full
from modeval.spec.computing.compute import (
    Apart,
    Compute,
    Drawing,
    Layer,
    Own,
    Penalised,
    Turning,
    rectifier,
)
from modeval.spec.continual import Columns
from modeval.types import Noise


class Bank(nn.Module):
    """A linear layer of modules around a trunk that they share; see :class:`StackedLinear`.

    Args:
        seeds: size of the cohort.
        modules: number of modules.
        layer: where it stands, and its widths.
        computation: what each module has for itself, and how its weight comes about.
        number: tells banks of one modular layer apart, for what is drawn.
        beside: whether modules stand side by side, so that each is read by weights of its own.

    Attributes:
        shared: the trunk; none where modules have this layer for themselves.
    """

    shared: StackedLinear | None

    def __init__(
        self,
        seeds: int,
        modules: int,
        layer: Layer,
        computation: Compute,
        *,
        number: int = 0,
        beside: bool = False,
    ) -> None:
        super().__init__()
        self.module_count, self.layer, self.computation = modules, layer, computation
        self.number = number
        alone = isinstance(computation, Apart) and computation.apart(layer)
        self.shared = None
        if not alone:
            self.shared = StackedLinear((seeds,), layer.inputs, layer.outputs, bias=layer.bias)
            self.shared.requires_grad_(computation.trained)
        self.starts = computation.own(layer)
        for name, own in self.starts.items():
            start = torch.zeros(seeds, 1 if own.common and not beside else modules, *own.shape)
            if own.learns:
                self.register_parameter(f"own_{name}", nn.Parameter(start))
            else:
                self.register_buffer(f"own_{name}", start)

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
        self, noise: Noise | None = None
    ) -> tuple[Float[Tensor, "seeds modules in out"], Float[Tensor, "seeds modules out"] | None]:
        """Return the weight and the bias of each module."""
        trunk, own = self.trunk(), self.own
        if trunk is None:
            trunk = own["weight"], own.get("bias")
        if noise is not None and isinstance(self.computation, Drawing):
            own = own | self._drawn(self.computation.drawn, noise)
        weight, bias = self.computation.made(self.layer, *trunk, own)
        # of all pairs of modules, M², where factors are averaged apart
        count = max(self.module_count, weight.shape[1])
        weight = weight.expand(-1, count, -1, -1)
        return weight, None if bias is None else bias.expand(-1, count, -1)

    def trunk(
        self,
    ) -> tuple[Float[Tensor, "seeds one in out"], Float[Tensor, "seeds one out"] | None] | None:
        """Return what all modules share, as the weight and the bias of one module."""
        if self.shared is None:
            return None
        bias = self.shared.bias
        return self.shared.weight.unsqueeze(1), None if bias is None else bias.unsqueeze(1)

    def penalty(self) -> Float[Tensor, " seeds"] | None:
        """Return what the loss of each seed has added to it."""
        if isinstance(self.computation, Penalised):
            return self.computation.penalty(self.layer, self.own)
        return None

    def turn(self) -> None:
        """Begin another phase of training."""
        if isinstance(self.computation, Turning):
            with torch.no_grad():
                for name, value in self.computation.turned(self.layer, self.own).items():
                    self.own[name].copy_(value)

    def _drawn(self, names: Sequence[str], noise: Noise) -> dict[str, Tensor]:
        """Return a uniform number for each number of some parameters."""
        drawn = {}
        for index, name in enumerate(name for name in names if name in self.starts):
            parameter = self.own[name]
            salt = self.number * len(names) + index
            drawn[f"{name}.uniform"] = noise.more(*parameter.shape[1:], salt=salt).to(parameter)
        return drawn


def _start(member: Tensor, own: Own, generator: torch.Generator) -> None:
    if own.bound:
        member.uniform_(own.value - own.bound, own.value + own.bound, generator=generator)
    else:
        member.fill_(own.value)


class BankMLP(nn.Module):
    """A bank of modules of two layers around a trunk that they share; see :class:`StackedMLP`."""

    def __init__(
        self,
        seeds: int,
        modules: int,
        widths: tuple[int, int, int],
        computation: Compute,
        *,
        beside: bool = False,
    ) -> None:
        super().__init__()
        self.computation = computation
        hidden, readout = Layer("hidden", *widths[:2]), Layer("readout", *widths[1:])
        self.hidden = Bank(seeds, modules, hidden, computation, beside=beside)
        self.readout = Bank(seeds, modules, readout, computation, number=1, beside=beside)

    @property
    def is_plain(self) -> bool:
        """Tell whether hidden units are rectified, and nothing else."""
        return type(self.computation).rectified is rectifier

    def rectified(
        self, before: Float[Tensor, "seeds n modules hidden"]
    ) -> Float[Tensor, "seeds n modules units"]:
        """Return the hidden units, given what the first layer says."""
        return self.computation.rectified(before, self.hidden.own)


Experts = StackedMLP | BankMLP | ColumnsMLP
"""A bank of modules of two layers, whatever they are made of."""


def mlp_bank(
    seeds: int,
    modules: int,
    widths: tuple[int, int, int],
    computation: Computation,
    *,
    beside: bool = False,
) -> Experts:
    """Make a bank of modules of two layers."""
    if isinstance(computation, Full):
        return StackedMLP((seeds, modules), widths)
    if isinstance(computation, Columns):
        return ColumnsMLP(seeds, modules, widths)
    return BankMLP(seeds, modules, widths, computation, beside=beside)


def gates_bank(
    seeds: int,
    modules: int,
    inputs: int,
    outputs: int,
    computation: Computation,
    *,
    bias: bool,
    number: int = 0,
) -> StackedLinear | Bank:
    """Make a bank of single layers, for recurrent cells."""
    if isinstance(computation, Full | Columns):  # columns need two layers, and are refused here
        return StackedLinear((seeds, modules), inputs, outputs, bias=bias)
    layer = Layer("gates", inputs, outputs, bias=bias)
    return Bank(seeds, modules, layer, computation, number=number)
