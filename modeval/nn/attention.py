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

from modeval.nn.aggregation import Readout, present
from modeval.nn.bank import Experts
from modeval.nn.layer import (
    Choices,
    LayeredNetwork,
    ModularLayer,
    Passed,
    reported,
    run_bank,
    shared_readout,
    trunk_of,
)
from modeval.nn.linear import StackedLinear, StackedMLP, bias_of, per_rule, with_bias
from modeval.nn.network import Output, Route
from modeval.nn.prefixes import Prefixes, PromptTokens
from modeval.nn.scorers import Seen, not_seen, weigh
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
        attending: int | None = None,
        prefixes: Prefixes | PromptTokens | None = None,
        experts: Experts,
        choices: Choices,
        layers: tuple[ModularLayer, ...] = (),
    ) -> None:
        super().__init__()
        self.seeds, self.rules, self.module_count = seeds, rules, modules
        self.heads, self.head = heads, head
        self.attending = attending = modules if attending is None else attending
        stream = attending * heads * head
        self.encoder = StackedMLP((seeds,), (features + rules, encoder, encoder))
        self.projections = nn.ModuleDict(
            {
                "query": StackedLinear((seeds,), encoder, stream),
                "key": StackedLinear((seeds,), encoder, stream),
                "value": StackedLinear((seeds,), encoder, stream),
                "position": StackedLinear((seeds,), encoder, attending * head),
            }
        )
        self.prefixes = prefixes
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
        state = self._state_of(flat, flat_rule)
        seen = Seen(flat, flat_rule, not_seen, state, not_seen, not_seen, rule.shape[2])
        decoder = self.decoder
        following = None if self.stitch or self.layers else decoder.hidden
        if self.aggregation == "inputs":
            weighed = weigh(self.scorer, self.gating, seen, chance)
            found = self._found(flat, rule, present(weighed.weight))
            trunk = shared_readout(self.experts.readout, following=following)
            first = Passed(self._read_once(found, trunk), weighed)
        else:
            weight, bias = with_bias(self.experts.hidden.parts(chance.noise))
            before = (self._found(flat, rule) @ weight + bias.unsqueeze(-2)).transpose(1, 2)
            first = run_bank(self.choices, self.experts, before, seen, chance, following=following)
        passed = self.pass_on(first, seen, noise, route)
        last = self.decoded(passed, flat_rule)
        if self.stitch or self.layers:
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

    def _read_once(
        self, found: Float[Tensor, "seeds one n found"], readout: Readout | None
    ) -> Float[Tensor, "seeds n out"]:
        """Return what the modules' trunk makes of what was found, once for all modules."""
        trunk = trunk_of(self.experts.hidden)
        assert trunk is not None  # noqa: S101 - prefixes stand before one trunk
        assert readout is not None  # noqa: S101 - likewise
        weight, bias = with_bias(trunk)
        hidden = F.relu(found @ weight + bias.unsqueeze(-2)).transpose(1, 2)
        return readout.each(hidden).squeeze(2)

    def _found(
        self,
        inputs: Float[Tensor, "seeds n features"],
        rule: Int64[Tensor, "seeds s t"],
        beside: Float[Tensor, "seeds n one_each"] | None = None,
    ) -> Float[Tensor, "seeds modules n found"]:
        """Return, for each module, what its heads found beside a view of the position itself.

        Where modules share the heads there is one for all, unless prefixes tell them apart; and one
        where these stand side by side, as present as ``beside`` says.
        """
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

        stream = self.attending * self.heads * self.head
        *streams, position = projected.split(
            [stream, stream, stream, self.attending * self.head], -1
        )
        query, key, value = (
            stream.view(seeds, samples, positions, -1, self.head).transpose(2, 3)
            for stream in streams
        )
        itself = torch.eye(positions, dtype=torch.bool, device=inputs.device)
        logits = query @ key.mT * self.head**-0.5
        logits = logits.masked_fill(itself, float("-inf"))
        found = logits.softmax(-1) @ value
        if self.prefixes is None:
            found = found.transpose(2, 3).reshape(seeds, samples * positions, self.attending, -1)
            position = position.view(seeds, samples * positions, self.attending, self.head)
            return torch.cat((found, position), -1).transpose(1, 2)
        before, total = self.prefixes.before(self.projections), logits.logsumexp(-1)
        if beside is None:
            found = before.found(query, total, found)  # (S, M, N, A, T, D)
        else:
            shares = beside.view(seeds, samples, positions, -1)
            found = before.together(query, total, found, shares)
        found = found.transpose(3, 4).flatten(2, 3).flatten(3)
        position = position.view(seeds, 1, samples * positions, self.head)
        return torch.cat((found, position.expand(-1, found.shape[1], -1, -1)), -1)
