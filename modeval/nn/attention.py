"""The attention family: a set of positions, each with features and a rule (search and retrieve).

Each module has its own heads: queries, keys and values of all modules are computed side by side, a
position never attends to itself, and what the heads of module m found goes, beside a projection of
the position itself, through an MLP of its own. The rest is as in the MLP family.

Source: Mittal, Bengio & Lajoie 2022 (arXiv 2206.02713), section 4 and appendix.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.nn.linear import StackedLinear, StackedMLP, per_rule
from modeval.nn.network import Network, Output
from modeval.nn.routing import (
    FixedScorer,
    Gating,
    Readout,
    Scorer,
    SharedScorer,
    TableScorer,
)


class AttentionNetwork(Network):
    """A cohort of attention networks made of modules; Monolithic has a single module."""

    def __init__(
        self,
        seeds: int,
        *,
        rules: int,
        features: int,
        modules: int,
        encoder: int,
        heads: int,
        head: int,
        hidden: int,
        scorer: Scorer,
        gating: Gating,
    ) -> None:
        super().__init__()
        self.seeds, self.rules, self.module_count = seeds, rules, modules
        self.heads, self.head = heads, head
        stream = modules * heads * head
        self.encoder = StackedMLP((seeds,), (features + rules, encoder, encoder))
        self.projections = nn.ModuleDict(
            {
                "query": StackedLinear((seeds,), encoder, stream),
                "key": StackedLinear((seeds,), encoder, stream),
                "value": StackedLinear((seeds,), encoder, stream),
                "position": StackedLinear((seeds,), encoder, modules * head),
            }
        )
        self.experts = StackedMLP((seeds, modules), (head * (heads + 1), hidden, encoder))
        self.decoder = StackedMLP((seeds,), (encoder, encoder, 1))
        self.scorer = scorer
        self.gating = gating

    def forward(
        self, inputs: Float[Tensor, "seeds n positions features"], rule: Int64[Tensor, "seeds n t"]
    ) -> Output:
        """Predict at each position from the features and rules of all positions."""
        shape, flat, flat_rule = rule.shape, inputs.flatten(1, 2), rule.flatten(1)
        hidden = self._hidden(self._found(flat, rule))
        readout = Readout(self.experts.readout.weight, _bias(self.experts.readout))
        weight = self._weight(readout, hidden, flat, flat_rule)
        mixed = readout.then(self.decoder.hidden).mix(hidden, weight)
        prediction = self.decoder.readout(F.relu(mixed + _bias(self.decoder.hidden).unsqueeze(1)))
        return Output(prediction.view(*shape, -1), weight.view(*shape, -1))

    def _found(
        self, inputs: Float[Tensor, "seeds n features"], rule: Int64[Tensor, "seeds s t"]
    ) -> Float[Tensor, "seeds modules n found"]:
        """Return, for each module, what its heads found beside a view of the position itself."""
        seeds, samples, positions = rule.shape
        first, features = self.encoder.hidden, inputs.shape[-1]
        units = inputs @ first.weight[:, :features] + per_rule(
            first.weight[:, features:], rule.flatten(1)
        )
        units = F.relu(units + _bias(first).unsqueeze(1))
        layers = [cast("StackedLinear", layer) for layer in self.projections.values()]
        second = self.encoder.readout
        weight = torch.cat([layer.weight for layer in layers], -1)
        bias = torch.cat([_bias(layer) for layer in layers], -1)
        merged = _bias(second).unsqueeze(1) @ weight + bias.unsqueeze(1)
        projected = units @ (second.weight @ weight) + merged

        stream = self.module_count * self.heads * self.head
        *streams, position = projected.split(
            [stream, stream, stream, self.module_count * self.head], -1
        )
        query, key, value = (
            stream.view(seeds, samples, positions, -1, self.head).transpose(2, 3)
            for stream in streams
        )
        itself = torch.eye(positions, dtype=torch.bool, device=inputs.device)
        logits = query @ key.mT * self.head**-0.5
        found = logits.masked_fill(itself, float("-inf")).softmax(-1) @ value
        found = found.transpose(2, 3).reshape(seeds, samples * positions, self.module_count, -1)
        position = position.view(seeds, samples * positions, self.module_count, self.head)
        return torch.cat((found, position), -1).transpose(1, 2)

    def _hidden(self, found: Tensor) -> Float[Tensor, "seeds n modules hidden"]:
        return F.relu(self.experts.hidden(found)).transpose(1, 2)

    def _weight(self, readout: Readout, hidden: Tensor, inputs: Tensor, rule: Tensor) -> Tensor:
        if isinstance(self.scorer, TableScorer | FixedScorer):
            return per_rule(self.gating(self.scorer(None)), rule)
        if isinstance(self.scorer, SharedScorer):
            return self.gating(self.scorer(hidden, readout, inputs, rule))
        return self.gating(self.scorer(hidden))


def _bias(layer: StackedLinear) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - every layer of this family has one
    return layer.bias
