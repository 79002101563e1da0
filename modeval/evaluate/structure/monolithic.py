"""Monolithic models of all three families as networks of groups of units, member by member.

Linear layers with nothing but linear ones between them are one, so that what is left as units is
what something non-linear happens to:

=============  ===================================================================================
MLP            hidden units of the encoders, of the network and of the decoder
attention      hidden units of the encoder; channels of queries, keys, values and of the view of a
               position itself; hidden units of the network and of the decoder
recurrent      hidden units of the encoder, LSTM cells, hidden units of the decoder
=============  ===================================================================================

A channel of the values is mixed over positions and stays what it is, so it leads on to the layer
after attention; queries and keys lead to no unit, only from some. A cell has four gates: an edge to
it is the sum of the four weights, and cells lead to each other. A unit that is switched off is read
as 0 by whatever reads it, at each position and step; a cell that nothing reads has no effect.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeval.errors import SpecError
from modeval.evaluate.structure.chain import Chain, Edge
from modeval.nn.attention import AttentionNetwork
from modeval.nn.linear import StackedLinear, StackedMLP
from modeval.nn.mlp import MLPNetwork
from modeval.nn.recurrent import RecurrentNetwork

GATES = 4
"""Of an LSTM cell."""


def monolithic_chain(network: nn.Module, seed: int) -> Chain:
    """Return one member of a cohort of Monolithic models as a network that computes the same.

    It takes the inputs with the rule of each sample, or position, beside them, one-hot.

    Args:
        network: a cohort with a single module.
        seed: place of the member.

    Raises:
        SpecError: the network is of another kind.
    """
    if getattr(network, "module_count", 0) == 1 and not len(network.layers):  # type: ignore[arg-type]
        experts: Any = getattr(network, "experts", None)
        if isinstance(network, MLPNetwork) and isinstance(experts, StackedMLP):
            return _mlp(network, experts, seed)
        if isinstance(network, AttentionNetwork) and isinstance(experts, StackedMLP):
            return _attention(network, experts, seed)
        if isinstance(network, RecurrentNetwork) and all(
            isinstance(gates, StackedLinear) for gates in (network.input_gates, network.state_gates)
        ):
            return _recurrent(network, seed)
    raise SpecError(
        "Structure is told of Monolithic models with one layer, and the redundancy of modules of "
        "all others. Train one: modeval train --model monolithic"
    )


# --- binary: an MLP ------------------------------------------------------------------------------


def _mlp(network: MLPNetwork, experts: StackedMLP, seed: int) -> Chain:
    number, rule = network.encoder_number, network.encoder_rule
    parts = (
        *(number.hidden, number.readout, rule.hidden, rule.readout),
        *(experts.hidden, experts.readout, network.decoder.hidden, network.decoder.readout),
    )
    rows = getattr(rule, "rows", None)  # what is told of each rule, where it is not its number
    factors = tuple(_weight(part, seed) for part in parts)
    further, said = _bias(experts.hidden, seed), _bias(experts.readout, seed)
    biases = [
        torch.cat([_bias(part.hidden, seed) for part in (number, number, rule)]),
        torch.cat([_bias(part.readout, seed) for part in (number, number, rule)]) @ factors[4]
        + further,
        said @ factors[6] + _bias(network.decoder.hidden, seed),
        _bias(network.decoder.readout, seed),
    ]
    layers = [_linear(*pair) for pair in zip(_mlp_weights(factors, rows), biases, strict=True)]
    run = [part for layer in layers for part in (layer, nn.ReLU())][:-1]
    return Chain(
        nn.Sequential(*run),
        tuple(layers),
        (layers[0].in_features, *(layer.out_features for layer in layers)),
        tuple((layer,) for layer in layers[1:]),
        factors,
        lambda given: [
            (place, place + 1, weight.abs().double())
            for place, weight in enumerate(_mlp_weights(given, rows))
        ],
    )


def _mlp_weights(factors: Sequence[Tensor], rows: Tensor | None) -> list[Tensor]:
    number, number_out, rule, rule_out, into, out, further, last = factors
    by_rule = rule if rows is None else rows @ rule
    return [
        torch.block_diag(number, number, by_rule),
        torch.block_diag(number_out, number_out, rule_out) @ into,
        out @ further,
        last,
    ]


# --- sets: attention -----------------------------------------------------------------------------

VIEWS = ("query", "key", "value", "position")


def _attention(network: AttentionNetwork, experts: StackedMLP, seed: int) -> Chain:
    projections: Any = network.projections
    parts = (
        *(network.encoder.hidden, network.encoder.readout),
        *(projections[name] for name in VIEWS),
        *(experts.hidden, experts.readout, network.decoder.hidden, network.decoder.readout),
    )
    factors = tuple(_weight(part, seed) for part in parts)
    module = _Attention(network.heads, factors, [_bias(part, seed) for part in parts])
    layers = (
        *(module.first, *module.views.values()),
        *(module.found, module.beside, module.further, module.last),
    )
    stream, head = network.heads * network.head, network.head
    return Chain(
        module,
        layers,  # type: ignore[arg-type]
        (
            *(factors[0].shape[0], factors[0].shape[1], stream, stream, stream, head),
            *(factors[6].shape[1], factors[8].shape[1], factors[9].shape[1]),
        ),
        (
            (*module.views.values(),),
            *((module.read[name],) for name in VIEWS),
            (module.further,),
            (module.last,),
        ),
        factors,
        lambda given: _attention_edges(given, stream),
    )


class _Attention(nn.Module):
    """One member of :class:`~modeval.nn.attention.AttentionNetwork` with a single module."""

    def __init__(self, heads: int, factors: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__()
        self.heads = heads
        first, second, *views, into, out, further, last = factors
        self.first = _linear(first, biases[0])
        self.views = nn.ModuleDict(
            {
                name: _linear(second @ view, biases[1] @ view + bias)
                for name, view, bias in zip(VIEWS, views, biases[2:6], strict=True)
            }
        )
        self.read = nn.ModuleDict({name: nn.Identity() for name in VIEWS})
        stream = views[0].shape[1]
        self.found = _linear(into[:stream], biases[6])
        self.beside = nn.Linear(into.shape[0] - stream, into.shape[1], bias=False)
        with torch.no_grad():
            self.beside.weight.copy_(into[stream:].mT)
        self.further = _linear(out @ further, biases[7] @ further + biases[8])
        self.last = _linear(last, biases[9])

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict at each position of ``(N, T, features + R)``."""
        units = F.relu(self.first(inputs))
        query, key, value, position = (
            self.read[name](view(units)) for name, view in self.views.items()
        )
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        logits = query @ key.mT * query.shape[-1] ** -0.5
        itself = torch.eye(inputs.shape[1], dtype=torch.bool, device=inputs.device)
        found = logits.masked_fill(itself, float("-inf")).softmax(-1) @ value
        hidden = F.relu(self.found(found.transpose(1, 2).flatten(2)) + self.beside(position))
        said: Tensor = self.last(F.relu(self.further(hidden)))
        return said


def _attention_edges(factors: Sequence[Tensor], stream: int) -> list[Edge]:
    first, second, *views, into, out, further, last = (factor.double() for factor in factors)
    return [
        (0, 1, first.abs()),
        *((1, 2 + place, (second @ view).abs()) for place, view in enumerate(views)),
        (4, 6, into[:stream].abs()),
        (5, 6, into[stream:].abs()),
        (6, 7, (out @ further).abs()),
        (7, 8, last.abs()),
    ]


# --- series: an LSTM -----------------------------------------------------------------------------


def _recurrent(network: RecurrentNetwork, seed: int) -> Chain:
    gates: Any = (network.input_gates, network.state_gates)
    parts = (
        *(network.encoder.hidden, network.encoder.readout),
        *gates,
        *(network.decoder.hidden, network.decoder.readout),
    )
    factors = tuple(_weight(part, seed) for part in parts)
    biases = [torch.zeros(()) if part.bias is None else _bias(part, seed) for part in parts]
    module = _Recurrent(factors, biases)
    return Chain(
        module,
        (module.first, module.into, module.again, module.further, module.last),
        (
            *(factors[0].shape[0], factors[0].shape[1], network.state),
            *(factors[4].shape[1], factors[5].shape[1]),
        ),
        ((module.into,), (module.again, module.further), (module.last,)),
        factors,
        _recurrent_edges,
    )


class _Recurrent(nn.Module):
    """One member of :class:`~modeval.nn.recurrent.RecurrentNetwork` with a single cell."""

    def __init__(self, factors: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__()
        first, second, into, again, further, last = factors
        self.first = _linear(first, biases[0])
        self.into = _linear(second @ into, biases[1] @ into + biases[2] + biases[3])
        self.again = nn.Linear(again.shape[0], again.shape[1], bias=False)
        with torch.no_grad():
            self.again.weight.copy_(again.mT)
        self.further = _linear(further, biases[4])
        self.last = _linear(last, biases[5])

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict at each step of ``(N, T, features + R)``."""
        driven = self.into(F.relu(self.first(inputs)))
        hidden = driven.new_zeros(len(driven), self.again.in_features)
        cell, states = hidden, []
        for step in driven.unbind(1):
            keep_in, forget, out, new = (step + self.again(hidden)).chunk(GATES, -1)
            cell = forget.sigmoid() * cell + keep_in.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            states.append(hidden)
        said: Tensor = self.last(F.relu(self.further(torch.stack(states, 1))))
        return said


def _recurrent_edges(factors: Sequence[Tensor]) -> list[Edge]:
    first, second, into, again, further, last = (factor.double() for factor in factors)
    return [
        (0, 1, first.abs()),
        (1, 2, _over_gates(second @ into)),
        (2, 2, _over_gates(again)),
        (2, 3, further.abs()),
        (3, 4, last.abs()),
    ]


def _over_gates(weight: Tensor) -> Tensor:
    """Return the sum of the sizes of the weights to the four gates of each cell."""
    summed: Tensor = weight.abs().unflatten(1, (GATES, -1)).sum(1)
    return summed


# --- parts ---------------------------------------------------------------------------------------


def _weight(layer: Any, seed: int) -> Tensor:
    weight: Tensor = layer.weight[seed].detach()
    return weight.reshape(weight.shape[-2:])


def _bias(layer: Any, seed: int) -> Tensor:
    bias = layer.bias
    assert bias is not None  # noqa: S101 - encoders, experts and decoders have one
    flat: Tensor = bias[seed].detach().reshape(-1)
    return flat


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    into, out = weight.shape
    layer = nn.Linear(into, out, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight.mT)
        layer.bias.copy_(bias)
    return layer
