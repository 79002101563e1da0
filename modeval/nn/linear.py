"""Linear maps stacked along leading axes: a cohort of seeds, and the modules of each seed."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.types import Noise


class StackedLinear(nn.Module):
    """Independent linear maps, one for each index of ``stack``.

    A cohort is ``stack=(S,)`` and a bank of experts ``stack=(S, M)``. The weight is kept as
    ``(*stack, in, out)``, so that applying it is one batched product.
    """

    def __init__(
        self, stack: Sequence[int], in_features: int, out_features: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.bound = in_features**-0.5
        self.weight = nn.Parameter(torch.zeros(*stack, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(*stack, out_features)) if bias else None

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Draw all parameters uniformly in ``±1/sqrt(fan in)``, as PyTorch's linear layers do."""
        for parameter in self.parameters(recurse=False):
            for member, generator in zip(parameter, generators, strict=True):
                member.uniform_(-self.bound, self.bound, generator=generator)

    def forward(self, x: Float[Tensor, "*stack n in"]) -> Float[Tensor, "*stack n out"]:
        """Map the last axis of ``x``, whose leading axes are the stack."""
        y = x @ self.weight
        return y if self.bias is None else y + self.bias.unsqueeze(-2)

    def parts(self, noise: Noise | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias; chance has no part in them."""
        del noise
        return self.weight, self.bias

    def extra_repr(self) -> str:
        """Show the stack and the widths."""
        *stack, in_features, out_features = self.weight.shape
        return f"{in_features} -> {out_features}, stack={tuple(stack)}"


class StackedMLP(nn.Module):
    """Two stacked linear maps with a rectifier between them."""

    def __init__(
        self,
        stack: Sequence[int],
        widths: tuple[int, int, int],
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.hidden = StackedLinear(stack, widths[0], widths[1], bias=bias)
        self.readout = StackedLinear(stack, widths[1], widths[2], bias=bias)

    def rectified(
        self, before: Float[Tensor, "seeds n modules hidden"]
    ) -> Float[Tensor, "seeds n modules units"]:
        """Return the hidden units of a bank of modules, given what its first layer says."""
        return F.relu(before)

    def forward(self, x: Float[Tensor, "*stack n in"]) -> Float[Tensor, "*stack n out"]:
        """Map the last axis of ``x``, whose leading axes are the stack."""
        return self.readout(F.relu(self.hidden(x)))  # type: ignore[no-any-return]

    def table(self) -> Float[Tensor, "*stack in out"]:
        """Return the outputs for the one-hot inputs, without multiplying by them."""
        hidden: Tensor = self.hidden.weight
        if self.hidden.bias is not None:
            hidden = hidden + self.hidden.bias.unsqueeze(-2)
        return self.readout(F.relu(hidden))  # type: ignore[no-any-return]


class ToldMLP(StackedMLP):
    """An MLP on rules that are told by rows of their own, not by one-hot ones.

    Args:
        rows: ``(R, K)`` what is told of each rule.
    """

    rows: Tensor

    def __init__(
        self,
        stack: Sequence[int],
        widths: tuple[int, int, int],
        rows: Float[Tensor, "rules told"],
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(stack, widths, bias=bias)
        self.register_buffer("rows", rows, persistent=False)

    def table(self) -> Float[Tensor, "*stack rules out"]:
        """Return the output for each rule."""
        stack = self.hidden.weight.shape[:-2]
        return self(self.rows.expand(*stack, -1, -1))  # type: ignore[no-any-return]


def rule_mlp(
    stack: Sequence[int],
    rules: int,
    widths: tuple[int, int],
    told: Float[Tensor, "rules told"] | None,
    *,
    bias: bool = True,
) -> StackedMLP:
    """Return an MLP whose ``table`` has a row for each rule: by its number, or by what is told."""
    if told is None:
        return StackedMLP(stack, (rules, *widths), bias=bias)
    return ToldMLP(stack, (told.shape[1], *widths), told, bias=bias)


@runtime_checkable
class Drawn(Protocol):
    """A part of a network whose parameters start at random, or anywhere but at zero."""

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Set the parameters of each seed, from its own generator alone."""


def initialise(network: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Draw all parameters, those of each seed from its own generator.

    Seed ``s`` of a cohort therefore starts exactly where it starts alone. Parts that do not say how
    they are drawn stay at zero.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Drawn):
                module.draw(generators)


def per_rule(
    table: Float[Tensor, "seeds rules width"], rule: Int64[Tensor, "seeds *n"]
) -> Float[Tensor, "seeds *n width"]:
    """Look up a row for each sample; a product with one-hot rows, so that its gradient is one too.

    Scattered additions are the slow part of an indexed gradient, on processors and on GPUs.
    """
    chosen = F.one_hot(rule.flatten(1), table.shape[1]).to(table.dtype)
    return (chosen @ table).view(*rule.shape, table.shape[-1])


def bias_of(layer: StackedLinear) -> Tensor:
    """Return the bias of a layer that has one."""
    return with_bias(layer.parts())[1]


def with_bias(parts: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a layer that has one."""
    weight, bias = parts
    assert bias is not None  # noqa: S101 - asked for only where layers are built with one
    return weight, bias
