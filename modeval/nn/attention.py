"""The attention family: a set of positions, each with features and a rule (search and retrieve).

Each module has its own heads: queries, keys and values of all modules are computed side by side, a
position never attends to itself, and what the heads of module m found goes, beside a projection of
the position itself, through an MLP of its own. The rest is as in the MLP family.

Source: Mittal, Bengio & Lajoie 2022 (arXiv 2206.02713), section 4 and appendix.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.nn.bank import Experts
from modeval.nn.layer import Choices, LayeredNetwork, ModularLayer, reported, run_bank
from modeval.nn.linear import StackedLinear, StackedMLP, bias_of, per_rule, with_bias
from modeval.nn.network import Output, Route
from modeval.nn.scorers import Seen, not_seen
from modeval.types import Noise


class AttentionNetwork(LayeredNetwork):
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
        experts: Experts,
        choices: Choices,
        layers: tuple[ModularLayer, ...] = (),
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
        self.experts = experts
        self.decoder = StackedMLP((seeds,), (encoder, encoder, 1))
        self.route_by(choices, layers)

    def forward(
        self,
        inputs: Float[Tensor, "seeds n positions features"],
        rule: Int64[Tensor, "seeds n t"],
        *,
        noise: Noise | None = None,
        route: Route | None = None,
    ) -> Output:
        """Predict at each position from the features and rules of all positions."""
        flat, flat_rule = inputs.flatten(1, 2), rule.flatten(1)
        chance = self.chance_of(0, noise, route).flat()
        weight, bias = with_bias(self.experts.hidden.parts(chance.noise))
        before = (self._found(flat, rule) @ weight + bias.unsqueeze(-2)).transpose(1, 2)
        state = self._state_of(flat, flat_rule)
        seen = Seen(flat, flat_rule, not_seen, state, not_seen, not_seen)
        decoder = self.decoder
        first = run_bank(
            self.choices,
            self.experts,
            before,
            seen,
            chance,
            following=None if self.layers else decoder.hidden,
        )
        passed = self.pass_on(first, seen, noise, route)
        last = passed[-1].output
        if self.layers:
            last = last @ decoder.hidden.weight
        prediction = decoder.readout(F.relu(last + bias_of(decoder.hidden).unsqueeze(1)))
        routed = reported(passed, rule.shape)
        return Output(prediction.view(*rule.shape, -1), routed, self.penalty())

    def _state_of(self, inputs: Tensor, rule: Tensor) -> Callable[[], Tensor]:
        """Return what gives the encoding of each position."""

        def encoded() -> Tensor:
            one_hot = F.one_hot(rule, self.rules).to(inputs.dtype)
            return self.encoder(torch.cat((inputs, one_hot), -1))  # type: ignore[no-any-return]

        return encoded

    def _found(
        self, inputs: Float[Tensor, "seeds n features"], rule: Int64[Tensor, "seeds s t"]
    ) -> Float[Tensor, "seeds modules n found"]:
        """Return, for each module, what its heads found beside a view of the position itself."""
        seeds, samples, positions = rule.shape
        first, features = self.encoder.hidden, inputs.shape[-1]
        units = inputs @ first.weight[:, :features] + per_rule(
            first.weight[:, features:], rule.flatten(1)
        )
        units = F.relu(units + bias_of(first).unsqueeze(1))
        layers = [cast("StackedLinear", layer) for layer in self.projections.values()]
        second = self.encoder.readout
        weight = torch.cat([layer.weight for layer in layers], -1)
        bias = torch.cat([bias_of(layer) for layer in layers], -1)
        merged = bias_of(second).unsqueeze(1) @ weight + bias.unsqueeze(1)
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
