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

from modeval.nn.bank import Experts
from modeval.nn.layer import (
    Choices,
    LayeredNetwork,
    ModularLayer,
    needs_spare,
    reported,
    run_bank,
    trunk_of,
)
from modeval.nn.linear import StackedMLP, bias_of, per_rule, rule_mlp, with_bias
from modeval.nn.network import Output, Route
from modeval.nn.scorers import Seen, not_seen
from modeval.types import Noise


@dataclass(frozen=True, slots=True)
class MergedMLP:
    """The first layer of the modules after all products with the linear layers before it.

    Attributes:
        first: ``(S, 2E, M·H)`` from the rectified encodings of both numbers to the hidden units.
        offset: ``(S, R, M·H)`` what the rule adds to the hidden units before they are rectified.
    """

    first: Float[Tensor, "seeds two_encoder hidden"]
    offset: Float[Tensor, "seeds rules hidden"]

    def __call__(self, numbers: Tensor, rule: Tensor, modules: int) -> Tensor:
        """Return ``(S, N, M, H)``, the hidden units before the rectifier."""
        hidden = numbers @ self.first + per_rule(self.offset, rule)
        return hidden.view(*hidden.shape[:2], modules, -1)


class MLPNetwork(LayeredNetwork):
    """A cohort of MLPs made of modules; Monolithic is the one with a single module."""

    def __init__(
        self,
        seeds: int,
        *,
        rules: int,
        modules: int,
        encoder: int,
        experts: Experts,
        width: int,
        choices: Choices,
        layers: tuple[ModularLayer, ...] = (),
        told: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.seeds, self.rules, self.module_count = seeds, rules, modules
        self.encoder_number = StackedMLP((seeds,), (1, encoder, encoder))
        self.encoder_rule = rule_mlp((seeds,), rules, (encoder, encoder), told)
        self.experts = experts
        self.decoder = StackedMLP((seeds,), (width, encoder, 1))
        self.route_by(choices, layers)

    def merged(
        self,
        encoding: Float[Tensor, "seeds rules encoder"],
        weight: Float[Tensor, "seeds modules three_encoder hidden"],
        bias: Float[Tensor, "seeds modules hidden"],
    ) -> MergedMLP:
        """Multiply adjacent linear layers out."""
        second = self.encoder_number.readout
        # (S, M, 3E, H) -> (S, 3E, M·H): modules side by side
        one, two, rule = weight.transpose(1, 2).flatten(2).split(encoding.shape[-1], 1)
        numbers = torch.cat((second.weight @ one, second.weight @ two), 1)
        constant = bias.flatten(1).unsqueeze(1) + bias_of(second).unsqueeze(1) @ (one + two)
        return MergedMLP(first=numbers, offset=encoding @ rule + constant)

    def forward(
        self,
        inputs: Float[Tensor, "seeds n 2"],
        rule: Int64[Tensor, "seeds n"],
        *,
        noise: Noise | None = None,
        route: Route | None = None,
    ) -> Output:
        """Predict from two numbers and the rule."""
        encoding, layer = self.encoder_rule.table(), self.experts.hidden
        chance = self.chance_of(0, noise, route)
        weight, bias = with_bias(layer.parts(chance.noise))
        merged = self.merged(encoding, weight, bias)
        numbers = inputs.unsqueeze(-1) * self.encoder_number.hidden.weight.unsqueeze(1)
        numbers = F.relu(numbers + bias_of(self.encoder_number.hidden)[:, None, None])
        numbers = numbers.flatten(2)

        def encoded() -> Tensor:
            both = self.encoder_number.readout(numbers.view(len(numbers), -1, encoding.shape[-1]))
            return torch.cat((both.view(*rule.shape, -1), per_rule(encoding, rule)), -1)

        seen = Seen(inputs, rule, lambda: encoding, encoded, not_seen, not_seen)
        trunk, shared = trunk_of(layer) if needs_spare(self.choices) else None, None
        if trunk is not None:
            shared = self.merged(encoding, *with_bias(trunk))(numbers, rule, 1)
        decoder = self.decoder
        first = run_bank(
            self.choices,
            self.experts,
            merged(numbers, rule, weight.shape[1]),
            seen,
            chance,
            following=None if self.stitch or self.layers else decoder.hidden,
            shared_before=shared,
        )
        passed = self.pass_on(first, seen, noise, route)
        state = self.decoded(passed, rule)
        if self.stitch or self.layers:
            state = state @ decoder.hidden.weight
        prediction = decoder.readout(F.relu(state + bias_of(decoder.hidden).unsqueeze(1)))
        return Output(prediction, reported(passed, rule.shape), self.penalty())
