"""The recurrent family: a series of inputs, each with a rule (switching linear dynamics).

At each step every module, an LSTM cell, proposes a next state from the shared one; the proposals
are mixed by the routing weights:

    i, f, o = sigmoid(.), g = tanh(.) of W_m x + U_m h,
    c_m = f c + i g,   h_m = o tanh(c_m),   h = sum_m p_m h_m,   c = sum_m p_m c_m

The inputs of all steps are projected at once; only the product with the state is in the scan.

Source: Mittal, Bengio & Lajoie 2022 (arXiv 2206.02713), section 4 and appendix.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from modeval.nn.linear import StackedLinear, StackedMLP, per_rule
from modeval.nn.network import Network, Output
from modeval.nn.routing import FixedScorer, Gating, ModuleScorer, Scorer, SharedScorer, TableScorer


class RecurrentNetwork(Network):
    """A cohort of recurrent networks made of modules; Monolithic is a single LSTM cell."""

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
        bias: bool,
        scorer: Scorer,
        gating: Gating,
    ) -> None:
        super().__init__()
        self.seeds, self.rules, self.module_count, self.state = seeds, rules, modules, state
        self.encoder = StackedMLP((seeds,), (features + rules, encoder, encoder))
        self.input_gates = StackedLinear((seeds, modules), encoder, 4 * state, bias=bias)
        self.state_gates = StackedLinear((seeds, modules), state, 4 * state, bias=bias)
        self.decoder = StackedMLP((seeds,), (state, state, outputs))
        self.scorer = scorer
        self.gating = gating

    def forward(
        self, inputs: Float[Tensor, "seeds n positions features"], rule: Int64[Tensor, "seeds n t"]
    ) -> Output:
        """Predict at each position from what came before and the rule of each position."""
        seeds, samples, positions = rule.shape
        projected = self._project(inputs, rule)  # (T, S, N, M, 4H)
        table = None
        if isinstance(self.scorer, TableScorer | FixedScorer):
            rows = per_rule(self.gating(self.scorer(None)), rule.flatten(1))
            table = rows.view(seeds, samples, positions, -1).movedim(2, 0)
        recurrent, bias = _side_by_side(self.state_gates)
        hidden = inputs.new_zeros(seeds, samples, self.state)
        cell = torch.zeros_like(hidden)
        states, weights = [], []
        for step in range(positions):
            from_state = hidden @ recurrent
            if bias is not None:
                from_state = from_state + bias
            from_state = from_state.view(seeds, samples, self.module_count, -1)
            hidden_each, cell_each = _cell(projected[step], from_state, cell)
            if table is not None:
                weight = table[step]
            elif isinstance(self.scorer, ModuleScorer):
                # the module's own logit looks at both halves of its gates before they are added
                seen = F.relu(torch.cat((projected[step], from_state), -1))
                weight = self.gating(self.scorer(seen))
            else:
                weight = self._shared(hidden_each, inputs[:, :, step], rule[:, :, step])
            hidden = (hidden_each * weight.unsqueeze(-1)).sum(2)
            cell = (cell_each * weight.unsqueeze(-1)).sum(2)
            states.append(hidden)
            weights.append(weight)
        prediction = self.decoder(torch.stack(states, 2).flatten(1, 2))
        return Output(prediction.view(seeds, samples, positions, -1), torch.stack(weights, 2))

    def _project(self, inputs: Tensor, rule: Tensor) -> Tensor:
        """Return what the inputs of all steps add to the gates of all modules."""
        seeds, samples, positions, features = inputs.shape
        first, second = self.encoder.hidden, self.encoder.readout
        flat = inputs.movedim(2, 1).flatten(1, 2)
        units = flat @ first.weight[:, :features]
        units = units + per_rule(first.weight[:, features:], rule.transpose(1, 2).flatten(1))
        units = F.relu(units + _bias(first).unsqueeze(1))
        weight, bias = _side_by_side(self.input_gates)
        constant = _bias(second).unsqueeze(1) @ weight
        gates = units @ (second.weight @ weight) + (constant if bias is None else constant + bias)
        return gates.view(seeds, positions, samples, self.module_count, -1).movedim(1, 0)

    def _shared(self, outputs: Tensor, inputs: Tensor, rule: Tensor) -> Tensor:
        assert isinstance(self.scorer, SharedScorer)  # noqa: S101 - the last of the four
        return self.gating(self.scorer.on_outputs(outputs, inputs, rule))


def _cell(from_input: Tensor, from_state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden and cell state that each module proposes."""
    state = cell.shape[-1]
    gates = from_input + from_state
    keep_in, forget, out = gates[..., : 3 * state].sigmoid().split(state, -1)
    proposal = gates[..., 3 * state :].tanh()
    next_cell = forget * cell.unsqueeze(2) + keep_in * proposal
    return out * next_cell.tanh(), next_cell


def _side_by_side(layer: StackedLinear) -> tuple[Tensor, Tensor | None]:
    """Return a bank's weight as ``(S, in, M·out)`` and its bias as ``(S, 1, M·out)``."""
    weight = layer.weight.transpose(1, 2).flatten(2)
    return weight, None if layer.bias is None else layer.bias.flatten(1).unsqueeze(1)


def _bias(layer: StackedLinear) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - encoders have one
    return layer.bias
