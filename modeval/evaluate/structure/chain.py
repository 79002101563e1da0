"""Dense networks as chains of linear layers, whose hidden units can be switched off."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeval.errors import SpecError
from modeval.nn.linear import StackedLinear, StackedMLP
from modeval.nn.mlp import MLPNetwork

SEVERAL = 2
"""Linear layers that have a hidden unit between them."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Linear layers that follow each other.

    Attributes:
        module: the network, which may do anything between them.
        layers: the layers, from input to output.
        support: of each layer which weights there can be, ``(out, in)``; all where nothing is said.
    """

    module: nn.Module
    layers: tuple[nn.Linear, ...]
    support: tuple[Tensor, ...] = ()

    @property
    def weights(self) -> list[Tensor]:
        """Return the size of each weight, ``(in, out)`` each."""
        return [layer.weight.detach().abs().double().mT for layer in self.layers]

    @property
    def possible(self) -> list[Tensor]:
        """Return which weights there can be, ``(in, out)`` each."""
        if self.support:
            return [each.mT for each in self.support]
        return [torch.ones_like(weight, dtype=torch.bool) for weight in self.weights]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Return the number of hidden units between layers."""
        return tuple(layer.out_features for layer in self.layers[:-1])


def chain_of(module: nn.Module, names: Sequence[str] = ()) -> Chain:
    """Find the linear layers of a network.

    Args:
        module: any module whose ``nn.Linear`` layers follow each other, element by element
            functions between them.
        names: of the layers, in order; all of them, as they are registered, when empty.

    Raises:
        SpecError: there are fewer than two, or one does not fit the next.

    >>> chain_of(nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))).hidden
    (5,)
    """
    found = {name: each for name, each in module.named_modules() if isinstance(each, nn.Linear)}
    missing = [name for name in names if name not in found]
    if missing:
        raise SpecError(
            f"layers {missing[0]!r}: the network has no linear layer of that name. It has "
            f"{', '.join(found) or 'none'}."
        )
    chosen = [(name, found[name]) for name in names or found]
    if len(chosen) < SEVERAL:
        raise SpecError(
            f"{type(module).__name__} has {len(chosen)} linear layers, expected two or more that "
            "follow each other: hidden units lie between them."
        )
    for (name, one), (following, two) in itertools.pairwise(chosen):
        if one.out_features != two.in_features:
            raise SpecError(
                f"{name} gives {one.out_features} numbers and {following} takes "
                f"{two.in_features}, so they do not follow each other. Name those that do: "
                "layers=[...]"
            )
    return Chain(module, tuple(layer for _, layer in chosen))


@contextmanager
def lesioned(chain: Chain, off: Sequence[Tensor]) -> Iterator[None]:
    """Switch hidden units off: the next layer reads 0 of them.

    Args:
        chain: the network.
        off: of each hidden layer which units, ``(units,)`` each.
    """

    def reader(mask: Tensor) -> Any:
        return lambda _layer, inputs: (inputs[0].masked_fill(mask, 0.0), *inputs[1:])

    handles = [
        layer.register_forward_pre_hook(reader(mask))
        for layer, mask in zip(chain.layers[1:], off, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- Monolithic ----------------------------------------------------------------------------------


def monolithic_chain(network: nn.Module, seed: int) -> Chain:
    """Return one member of a cohort of Monolithic MLPs as a chain that computes the same.

    Linear layers without anything between them are one: the encoders' hidden units, those of the
    network and those of the decoder are left. It takes ``(N, 2 + R)``: both numbers and the rule,
    one-hot.

    Args:
        network: of the task ``binary`` with a single module.
        seed: place of the member.

    Raises:
        SpecError: the network is of another kind.
    """
    experts: Any = getattr(network, "experts", None)
    simple = isinstance(network, MLPNetwork) and isinstance(experts, StackedMLP)
    if not simple or getattr(network, "module_count", 0) != 1 or len(network.layers):  # type: ignore[arg-type]
        raise SpecError(
            "Structure is told of Monolithic models on the task binary, with one layer, and the "
            "redundancy of modules of all others. Train one: modeval train --model monolithic"
        )
    assert isinstance(network, MLPNetwork)  # noqa: S101 - as was checked
    number, rule = network.encoder_number, network.encoder_rule
    first = torch.block_diag(*(_weight(part.hidden, seed) for part in (number, number, rule)))
    second = torch.block_diag(*(_weight(part.readout, seed) for part in (number, number, rule)))
    into, out = (_weight(part, seed) for part in (experts.hidden, experts.readout))
    further = _weight(network.decoder.hidden, seed)
    biases = [
        torch.cat([_bias(part.hidden, seed) for part in (number, number, rule)]),
        torch.cat([_bias(part.readout, seed) for part in (number, number, rule)]) @ into
        + _bias(experts.hidden, seed),
        _bias(experts.readout, seed) @ further + _bias(network.decoder.hidden, seed),
        _bias(network.decoder.readout, seed),
    ]
    weights = [first, second @ into, out @ further, _weight(network.decoder.readout, seed)]
    layers = [_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    parts = [part for layer in layers for part in (layer, nn.ReLU())][:-1]
    blocks = (torch.ones_like(_weight(part.hidden, seed)) for part in (number, number, rule))
    support = [torch.block_diag(*blocks).bool().mT]
    support += [torch.ones_like(layer.weight, dtype=torch.bool) for layer in layers[1:]]
    return Chain(nn.Sequential(*parts), tuple(layers), tuple(support))


def _weight(layer: Any, seed: int) -> Tensor:
    weight: Tensor = layer.weight[seed].detach()
    return weight.reshape(weight.shape[-2:])


def _bias(layer: StackedLinear, seed: int) -> Tensor:
    bias = layer.bias
    assert bias is not None  # noqa: S101 - encoders, experts and decoders have one
    return bias[seed].detach().reshape(-1)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    into, out = weight.shape
    layer = nn.Linear(into, out, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight.mT)
        layer.bias.copy_(bias)
    return layer
