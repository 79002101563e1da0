"""The recurrent family: a series of inputs, each with a rule (switching linear dynamics).

At each step every module, an LSTM cell, proposes a next state from the shared one; the proposals
are mixed by the routing weights:

    i, f, o = sigmoid(.), g = tanh(.) of W_m x + U_m h,
    c_m = f c + i g,   h_m = o tanh(c_m),   h = sum_m p_m h_m,   c = sum_m p_m c_m

The inputs of all steps are projected at once; only the product with the state is in the scan.

Source: Mittal, Bengio & Lajoie 2022 (arXiv 2206.02713), section 4 and appendix.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from modeval.nn.aggregation import of_pairs
from modeval.nn.bank import Bank
from modeval.nn.layer import (
    Choices,
    LayeredNetwork,
    ModularLayer,
    Passed,
    needs_spare,
    reported,
    trunk_of,
)
from modeval.nn.lean import mixed_product
from modeval.nn.linear import StackedLinear, StackedMLP, bias_of, per_rule
from modeval.nn.network import Output, Route
from modeval.nn.scorers import Chance, Made, Seen, SharedScorer, Weighed, not_seen, weigh
from modeval.types import Noise

_Gates = tuple[Tensor, Tensor | None]


class RecurrentNetwork(LayeredNetwork):
    """A cohort of recurrent networks made of modules; Monolithic is a single LSTM cell."""

    has_lean = True

    def __init__(
        self,
        seeds: int,
        *,
        rules: int,
        features: int,
        outputs: int,
        modules: int,
        encoder: int,
        state: int,
        gates: tuple[StackedLinear | Bank, StackedLinear | Bank],
        choices: Choices,
        layers: tuple[ModularLayer, ...] = (),
    ) -> None:
        super().__init__()
        self.seeds, self.rules, self.module_count, self.state = seeds, rules, modules, state
        self.encoder = StackedMLP((seeds,), (features + rules, encoder, encoder))
        self.input_gates, self.state_gates = gates
        self.decoder = StackedMLP((seeds,), (state, state, outputs))
        self.route_by(choices, layers)

    def forward(
        self,
        inputs: Float[Tensor, "seeds n positions features"],
        rule: Int64[Tensor, "seeds n t"],
        *,
        noise: Noise | None = None,
        route: Route | None = None,
    ) -> Output:
        """Predict at each position from what came before and the rule of each position."""
        first = self._scan(inputs, rule, self.chance_of(0, noise, route))
        seen = _looked_at(inputs, rule)
        passed = self.pass_on(first, seen, noise, route)
        prediction = self.decoder(passed[-1].output)
        routed = reported(passed, rule.shape)
        return Output(prediction.view(*rule.shape, -1), routed, self.penalty())

    def _scan(self, inputs: Tensor, rule: Tensor, chance: Chance) -> Passed:
        """Run the cells over all positions."""
        seeds, samples, positions = rule.shape
        encoded = self._encoded(inputs, rule)
        layers = (self.input_gates, self.state_gates)
        cells = _Cells(*(_side_by_side(layer, chance.noise) for layer in layers))
        joined = encoded.joined(cells) if self._joins else None
        count = cells.input[0].shape[-1] // (4 * self.state)
        # (S, N, M, 4H) each; an index instead would have a gradient as large as all of them
        projected = () if joined else encoded.onto(cells.input).unbind()
        shared = _shared(self) if needs_spare(self.choices) else None
        shared_input = None if shared is None else encoded.onto(shared.input).unbind()
        ahead = self._routed_ahead(inputs, rule, chance)
        hidden = inputs.new_zeros(seeds, samples, self.state)
        cell = torch.zeros_like(hidden)
        states, routed = [], []
        for step in range(positions):
            here = (inputs[:, :, step], rule[:, :, step])
            if joined is None:
                from_state = cells.from_state(hidden)
                gates = projected[step] + from_state
                at = _Step(*here, (projected[step], from_state), hidden)
            else:
                mixing = self.aggregation == "parameters" and ahead is not None
                mix = of_pairs(ahead[step].weight, count) if mixing and ahead else None
                gates = joined.gates(step, hidden, mix)
                at = _Step(*here, None, hidden)
            if self.aggregation == "parameters":
                weighed = ahead[step] if ahead else self._weighed(at, None, chance.at(step))
                mix = of_pairs(weighed.weight, count)
                gates = gates if joined is not None and ahead else _mixed(gates, mix)
                if shared is not None and shared_input is not None:
                    spare = 1 - mix.sum(-1)[..., None, None]
                    gates = gates + spare * (shared_input[step] + shared.from_state(hidden))
                hidden_each, cell_each = _cell(gates, cell)
                hidden, cell = hidden_each.squeeze(2), cell_each.squeeze(2)
            else:
                hidden_each, cell_each = _cell(gates, cell)
                weighed = ahead[step] if ahead else self._weighed(at, hidden_each, chance.at(step))
                weight = weighed.weight.unsqueeze(-1)
                hidden = (hidden_each * weight).sum(2)
                cell = (cell_each * weight).sum(2)
                if self.value is not None:
                    hidden = hidden @ self.value.weight
            states.append(hidden)
            routed.append(weighed)
        weight = torch.stack([each.weight for each in routed], 2).flatten(1, 2)

        def score() -> Tensor:
            return _stacked(each.score for each in routed)

        load = None if routed[0].load is None else lambda: _stacked(each.load for each in routed)
        gated = [each.gated for each in routed if each.gated is not None]
        free = torch.stack(gated, 2).flatten(1, 2) if gated else None
        return Passed(torch.stack(states, 2).flatten(1, 2), Weighed(weight, score, load, free))

    def _routed_ahead(
        self, inputs: Tensor, rule: Tensor, chance: Chance
    ) -> tuple[Weighed, ...] | None:
        """Return the routing of each step, where it can be known before anything is computed."""
        if self.choices.scorer.looks_at == "module":
            return None
        weighed = weigh(self.choices.scorer, self.gating, _looked_at(inputs, rule), chance.flat())
        weights = weighed.weight.view(*rule.shape, -1).movedim(2, 0)

        def at(part: Callable[[], Tensor], step: int) -> Callable[[], Tensor]:
            return lambda: part().view(*rule.shape, -1)[:, :, step]

        load, gated = weighed.load, weighed.weight if weighed.gated is None else weighed.gated
        free = gated.view(*rule.shape, -1).movedim(2, 0)
        return tuple(
            Weighed(weight, at(weighed.score, step), load and at(load, step), free[step])
            for step, weight in enumerate(weights)
        )

    def _weighed(self, at: "_Step", outputs: Tensor | None, chance: Chance) -> Weighed:
        """Route one step, where routing looks at what modules computed."""
        seen = Seen(
            at.inputs,
            at.rule,
            not_seen,
            state=lambda: at.state,
            # the module's own logit looks at both halves of its gates before they are added
            hidden=lambda: F.relu(torch.cat(at.halves or not_seen(), -1)),
            outputs=not_seen if outputs is None else lambda: Made(outputs),
        )
        return weigh(self.choices.scorer, self.gating, seen, chance)

    @property
    def _joins(self) -> bool:
        """Tell whether what comes in and the state go through one product at each step.

        Not where routing looks at both halves of the gates.
        """
        scorer = self.choices.scorer
        return self.lean and (scorer.looks_at != "module" or isinstance(scorer, SharedScorer))

    def _encoded(self, inputs: Tensor, rule: Tensor) -> "_Encoded":
        """Return the inputs of all steps, after the first layer of their encoder."""
        positions, features = inputs.shape[2:]
        first = self.encoder.hidden
        flat = inputs.movedim(2, 1).flatten(1, 2)
        units = flat @ first.weight[:, :features]
        units = units + per_rule(first.weight[:, features:], rule.transpose(1, 2).flatten(1))
        units = F.relu(units + bias_of(first).unsqueeze(1))
        return _Encoded(units, self.encoder.readout, positions, 4 * self.state)


def _looked_at(inputs: Tensor, rule: Tensor) -> Seen:
    """Return what is known of all positions before anything is computed."""
    nothing = (not_seen, not_seen, not_seen, not_seen)
    return Seen(inputs.flatten(1, 2), rule.flatten(1), *nothing, positions=rule.shape[2])


@dataclass(frozen=True, slots=True)
class _Cells:
    """The gates of all modules side by side: ``(S, in, M·4H)`` and ``(S, 1, M·4H)``."""

    input: _Gates
    state: _Gates

    def from_state(self, hidden: Tensor, mix: Tensor | None = None) -> Tensor:
        """Return what the state adds to the gates of each module, ``(S, N, M, 4H)``.

        Where weights of modules are given, to those of their mixture: ``(S, N, 1, 4H)``.
        """
        weight, bias = self.state
        if mix is not None:
            gates = mixed_product(hidden, weight, bias, mix)
        else:
            gates = hidden @ weight
            gates = gates if bias is None else gates + bias
        return gates.view(*gates.shape[:2], -1, 4 * hidden.shape[-1])


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The inputs of all steps, ``(S, T·N, E)``, before the last layer of their encoder."""

    units: Tensor
    readout: StackedLinear
    positions: int
    gates: int

    def merged(self, layer: _Gates) -> tuple[Tensor, Tensor]:
        """Return that layer and a layer of gates as one: its weight and its bias."""
        weight, bias = layer
        constant = bias_of(self.readout).unsqueeze(1) @ weight
        return self.readout.weight @ weight, constant if bias is None else constant + bias

    def onto(self, layer: _Gates) -> Float[Tensor, "positions seeds n modules gates"]:
        """Return what the inputs add to the gates of each module."""
        weight, added = self.merged(layer)
        gates = self.units @ weight + added
        apart = gates.unflatten(-1, (-1, self.gates)).unflatten(1, (self.positions, -1))
        by_step: Tensor = apart.movedim(1, 0)
        return by_step

    def joined(self, cells: "_Cells") -> "_Joined":
        """Return inputs and states as what comes into one layer."""
        (weight, added), (of_state, bias) = self.merged(cells.input), cells.state
        by_step = self.units.unflatten(1, (self.positions, -1)).unbind(1)
        added = added if bias is None else added + bias
        return _Joined(by_step, torch.cat((weight, of_state), 1), added)


@dataclass(frozen=True, slots=True)
class _Joined:
    """What comes in at each step, and the gates of all modules for it beside the state."""

    units: tuple[Tensor, ...]
    weight: Tensor
    bias: Tensor

    def gates(self, step: int, hidden: Tensor, mix: Tensor | None) -> Tensor:
        """Return the gates of each module, ``(S, N, M, 4H)``; with weights, of their mixture."""
        seen = torch.cat((self.units[step], hidden), -1)
        if mix is None:
            flat = torch.baddbmm(self.bias, seen, self.weight)
        else:
            flat = mixed_product(seen, self.weight, self.bias, mix)
        return flat.view(*flat.shape[:2], -1, 4 * hidden.shape[-1])


@dataclass(frozen=True, slots=True)
class _Step:
    """What one step of the scan knows before it is routed."""

    inputs: Tensor
    rule: Tensor
    halves: tuple[Tensor, Tensor] | None
    state: Tensor


def _cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden and cell state that each module proposes."""
    state = cell.shape[-1]
    opening, proposal = gates.split([3 * state, state], -1)
    keep_in, forget, out = opening.sigmoid().split(state, -1)
    next_cell = forget * cell.unsqueeze(2) + keep_in * proposal.tanh()
    return out * next_cell.tanh(), next_cell


def _stacked(parts: Iterable[Callable[[], Tensor] | None]) -> Tensor:
    """Return what each step gives, positions beside their samples."""
    return torch.stack([part() for part in parts if part is not None], 2).flatten(1, 2)


def _mixed(gates: Tensor, weight: Tensor) -> Tensor:
    """Return the gates of the mixture of modules, as those of a single one."""
    return (gates * weight.unsqueeze(-1)).sum(2, keepdim=True)


def _side_by_side(layer: StackedLinear | Bank, noise: Noise | None) -> _Gates:
    """Return a bank's weight as ``(S, in, M·out)`` and its bias as ``(S, 1, M·out)``."""
    weight, bias = layer.parts(noise)
    flat = weight.transpose(1, 2).flatten(2)
    return flat, None if bias is None else bias.flatten(1).unsqueeze(1)


def _shared(network: RecurrentNetwork) -> _Cells | None:
    """Return the gates that all modules share, as those of a single module."""
    first, second = trunk_of(network.input_gates), trunk_of(network.state_gates)
    if first is None or second is None:
        return None
    # a single module lies side by side as it is, and a bias as a row
    return _Cells((first[0].squeeze(1), first[1]), (second[0].squeeze(1), second[1]))
