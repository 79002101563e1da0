"""The attention family: a set of positions, each with features and a rule (search and retrieve).

Each module has its own heads: queries, keys and values of all modules are computed side by side, a
position never attends to itself, and what the heads of module m found goes, beside a projection of
the position itself, through an MLP of its own. The rest is as in the MLP family.

Source: Mittal, Bengio & Lajoie 2022 (arXiv 2206.02713), section 4 and appendix.
"""

import functools
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.nn.aggregation import Readout, present
from modeval.nn.bank import Bank, BankMLP, Experts
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
from modeval.nn.lean import attend
from modeval.nn.linear import StackedLinear, StackedMLP, bias_of, per_rule, with_bias
from modeval.nn.network import Output, Route
from modeval.nn.prefixes import Prefixes, PromptTokens
from modeval.nn.scorers import Chance, FixedScorer, Seen, not_seen, weigh
from modeval.spec.gatings import Fixed
from modeval.types import Noise


class AttentionNetwork(LayeredNetwork):
    """A cohort of attention networks made of modules; Monolithic has a single module."""

    has_lean = True

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
        chosen = self._chosen(chance)
        if chosen or self.aggregation == "inputs":
            weighed = weigh(self.scorer, self.gating, seen, chance)
            beside = None if chosen else present(weighed.weight)
            found = self._found(flat, rule, beside, chosen)
            trunk = shared_readout(self.experts.readout, following=following)
            first = Passed(self._read_once(found, trunk), weighed)
        else:
            weight, bias = with_bias(self._hidden(chance.noise))
            before = (self._found(flat, rule) @ weight + bias.unsqueeze(-2)).transpose(1, 2)
            first = run_bank(self.choices, self.experts, before, seen, chance, following=following)
        passed = self.pass_on(first, seen, noise, route)
        last = self.decoded(passed, flat_rule)
        if self.stitch or self.layers:
            last = last @ decoder.hidden.weight
        prediction = decoder.readout(F.relu(last + bias_of(decoder.hidden).unsqueeze(1)))
        routed = reported(passed, rule.shape)
        return Output(prediction.view(*rule.shape, -1), routed, self.penalty())

    def _chosen(self, chance: Chance) -> tuple[int, ...]:
        """Return the module of each rule where the others need not be computed; else nothing.

        That is where nothing but what stands before the positions tells modules apart.
        """
        apart = self.prefixes is not None and self.aggregation == "outputs"
        if not (self.lean and apart and chance.route is None and self.gating == Fixed()):
            return ()
        # a scorer of another type may weigh what it was given
        return self.scorer.chosen if type(self.scorer) is FixedScorer else ()

    def _hidden(self, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        """Return the first layer of each module, or once what is the same for all of them."""
        layer = self.experts.hidden
        trunk = trunk_of(layer)
        own = isinstance(layer, Bank) and (layer.starts or self.attending > 1 or self.prefixes)
        plain = isinstance(self.experts, BankMLP) and self.experts.is_plain
        if not self.lean or trunk is None or own or not plain or self.aggregation != "outputs":
            return layer.parts(noise)
        return trunk

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
        chosen: Sequence[int] = (),
    ) -> Float[Tensor, "seeds modules n found"]:
        """Return, for each module, what its heads found beside a view of the position itself.

        Where modules share the heads there is one for all, unless prefixes tell them apart; and one
        where these stand side by side, as present as ``beside`` says, or where each position looks
        at that of the module which is ``chosen`` for its rule.
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
        found, size = (_attend_lean if self.lean else _attend)(query, key, value)
        if self.prefixes is None:
            found = found.transpose(2, 3).reshape(seeds, samples * positions, self.attending, -1)
            position = position.view(seeds, samples * positions, self.attending, self.head)
            return torch.cat((found, position), -1).transpose(1, 2)
        before, total = self.prefixes.before(self.projections, lean=self.lean), size()
        if chosen:
            found = before.chosen(query, total, found, torch.tensor(chosen)[rule])
        elif beside is None:
            found = before.found(query, total, found)  # (S, M, N, A, T, D)
        else:
            shares = beside.view(seeds, samples, positions, -1)
            found = before.together(query, total, found, shares)
        found = found.transpose(3, 4).flatten(2, 3).flatten(3)
        position = position.view(seeds, 1, samples * positions, self.head)
        return torch.cat((found, position.expand(-1, found.shape[1], -1, -1)), -1)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """Return what each position finds at the others, and what gives the log of their weights."""
    logits = query @ key.mT * query.shape[-1] ** -0.5
    logits = logits.masked_fill(_itself(query), float("-inf"))
    return logits.softmax(-1) @ value, functools.partial(logits.logsumexp, -1)


def _attend_lean(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    closed = query.new_zeros(query.shape[-2], key.shape[-2])
    found, size = attend(query, key, value, closed.masked_fill(_itself(query), float("-inf")))
    return found, lambda: size


def _itself(query: Tensor) -> Tensor:
    """Return where each position would look at itself."""
    return torch.eye(query.shape[-2], dtype=torch.bool, device=query.device)
