"""The MLP family: two numbers and a rule in, one number out (binary operations).

    z = [e(x1), e(x2), e_c(c)],  f_m(z) = W2_m relu(W1_m z + b1_m) + b2_m,  y = d(sum_m p_m f_m(z))

Everything linear that meets something linear is multiplied out first, on weights instead of on
samples (see :class:`MergedMLP`). With S seeds, N samples, E units of an encoder, H hidden units of
each of M modules, a sample then costs ``2E·MH + MH·E`` multiplications, whatever the routing.

Source: Mittal, Bengio & Lajoie 2022 (arXiv 2206.02713), section 4 and appendix.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from modeval.nn.linear import StackedLinear, StackedMLP, per_rule
from modeval.nn.network import Network, Output
from modeval.nn.routing import (
    FixedScorer,
    Gating,
    ModuleScorer,
    Readout,
    Scorer,
    SharedScorer,
    TableScorer,
)


@dataclass(frozen=True, slots=True)
class MergedMLP:
    """The network after all products of adjacent linear layers.

    Attributes:
        first: ``(S, 2E, M·H)`` from the rectified encodings of both numbers to the hidden units.
        offset: ``(S, R, M·H)`` what the rule adds to the hidden units before they are rectified.
        readout: from hidden units to the decoder's hidden units.
        table: ``(S, R, M)`` routing weights of each rule, where routing looks at nothing else.
    """

    first: Float[Tensor, "seeds two_encoder hidden"]
    offset: Float[Tensor, "seeds rules hidden"]
    readout: Readout
    table: Float[Tensor, "seeds rules modules"] | None


class MLPNetwork(Network):
    """A cohort of MLPs made of modules; Monolithic is the one with a single module."""

    def __init__(
        self,
        seeds: int,
        *,
        rules: int,
        modules: int,
        encoder: int,
        width: int,
        hidden: int,
        scorer: Scorer,
        gating: Gating,
    ) -> None:
        super().__init__()
        self.seeds, self.rules, self.module_count = seeds, rules, modules
        self.encoder_number = StackedMLP((seeds,), (1, encoder, encoder))
        self.encoder_rule = StackedMLP((seeds,), (rules, encoder, encoder))
        self.experts = StackedMLP((seeds, modules), (3 * encoder, hidden, width))
        self.decoder = StackedMLP((seeds,), (width, encoder, 1))
        self.scorer = scorer
        self.gating = gating

    def merged(self) -> MergedMLP:
        """Multiply adjacent linear layers out."""
        second = self.encoder_number.readout
        encoding = self.encoder_rule.table()
        encoder = encoding.shape[-1]
        # (S, M, 3E, H) -> (S, 3E, M·H): modules side by side
        first = self.experts.hidden.weight.transpose(1, 2).flatten(2)
        one, two, rule = first.split(encoder, 1)
        bias = _bias(self.experts.hidden).flatten(1).unsqueeze(1)
        numbers = torch.cat((second.weight @ one, second.weight @ two), 1)
        constant = bias + _bias(second).unsqueeze(1) @ (one + two)
        table = None
        if isinstance(self.scorer, TableScorer | FixedScorer):
            table = self.gating(self.scorer(encoding))
        return MergedMLP(
            first=numbers,
            offset=encoding @ rule + constant,
            readout=self.readout().then(self.decoder.hidden),
            table=table,
        )

    def readout(self) -> Readout:
        """Return the modules' last layer."""
        return Readout(self.experts.readout.weight, _bias(self.experts.readout))

    def forward(self, inputs: Float[Tensor, "seeds n 2"], rule: Int64[Tensor, "seeds n"]) -> Output:
        """Predict from two numbers and the rule."""
        merged = self.merged()
        numbers = inputs.unsqueeze(-1) * self.encoder_number.hidden.weight.unsqueeze(1)
        numbers = F.relu(numbers + _bias(self.encoder_number.hidden)[:, None, None])
        hidden = F.relu(numbers.flatten(2) @ merged.first + per_rule(merged.offset, rule))
        hidden = hidden.unflatten(2, (self.module_count, -1))
        weight = self._weight(merged, hidden, inputs, rule)
        mixed = merged.readout.mix(hidden, weight) + _bias(self.decoder.hidden).unsqueeze(1)
        return Output(self.decoder.readout(F.relu(mixed)), weight)

    def _weight(self, merged: MergedMLP, hidden: Tensor, inputs: Tensor, rule: Tensor) -> Tensor:
        if merged.table is not None:
            return per_rule(merged.table, rule)
        if isinstance(self.scorer, SharedScorer):
            return self.gating(self.scorer(hidden, self.readout(), inputs, rule))
        assert isinstance(self.scorer, ModuleScorer)  # noqa: S101 - the last of the four
        return self.gating(self.scorer(hidden))


def _bias(layer: StackedLinear) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - every layer of this family has one
    return layer.bias
