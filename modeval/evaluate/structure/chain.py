"""Dense networks as chains of linear layers, whose hidden units can be switched off."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modeval.errors import SpecError

SEVERAL = 2
"""Linear layers that have a hidden unit between them."""


Edge = tuple[int, int, Tensor]
"""From which group of units to which, and the size of each weight between them, ``(in, out)``."""
Wired = Callable[[Sequence[Tensor]], list[Edge]]
"""Makes the edges of a graph from the weights of a network's layers."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A dense network: groups of units, and linear layers between them.

    Attributes:
        module: the network, which may do anything between its layers.
        layers: the linear layers, from input to output.
        sizes: units of each group: inputs first, then hidden ones, outputs last.
        readers: of each hidden group the modules that are called with its units.
        factors: the weights of the network as it was trained, which are what is shuffled; layers
            may be products of several.
        wired: makes the edges between groups from them.
    """

    module: nn.Module
    layers: tuple[nn.Linear, ...]
    sizes: tuple[int, ...]
    readers: tuple[tuple[nn.Module, ...], ...]
    factors: tuple[Tensor, ...]
    wired: Wired

    @property
    def hidden(self) -> tuple[int, ...]:
        """Return the number of units of each hidden group."""
        return self.sizes[1:-1]

    def edges(self, factors: Sequence[Tensor] | None = None) -> list[Edge]:
        """Return the edges between units, of the network or of one with other weights."""
        return self.wired(self.factors if factors is None else factors)


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
    layers = tuple(layer for _, layer in chosen)
    return Chain(
        module,
        layers,
        (layers[0].in_features, *(layer.out_features for layer in layers)),
        tuple((layer,) for layer in layers[1:]),
        tuple(layer.weight.detach().abs().double().mT for layer in layers),
        in_a_row,
    )


def in_a_row(weights: Sequence[Tensor]) -> list[Edge]:
    """Return the edges of layers that follow each other."""
    return [(place, place + 1, weight.abs()) for place, weight in enumerate(weights)]


@contextmanager
def lesioned(chain: Chain, off: Sequence[Tensor]) -> Iterator[None]:
    """Switch hidden units off: whatever reads them reads 0.

    Args:
        chain: the network.
        off: of each hidden layer which units, ``(units,)`` each.
    """

    def reader(mask: Tensor) -> Any:
        return lambda _layer, inputs: (inputs[0].masked_fill(mask, 0.0), *inputs[1:])

    handles = [
        layer.register_forward_pre_hook(reader(mask))
        for layers, mask in zip(chain.readers, off, strict=True)
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
