"""The family of composed functions: modules applied one after another, as the rule's layout says.

    v_1 = e(x1),  v_2 = e(x2),  v_k = sum_m p_m(skill at place k) f_m([v_left(k), v_right(k)]),
    y = d(v_last)

A module is a function of two values. At each place of the layout (a sequence or a tree, see
:mod:`modeval.spec.layouts`) routing chooses which, by the skill that stands there; places share
modules and scorer, so that a new arrangement of known skills takes nothing new. What is reported as
layers are the places, in the order in which they are computed.

Source: Andreas et al. 2016 (Neural Module Networks, arXiv 1511.02799), with given layouts.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from modeval.nn.layer import Choices, LayeredNetwork, Passed, reported, run_bank, side_by_side
from modeval.nn.linear import StackedMLP, with_bias
from modeval.nn.network import Output, Route
from modeval.nn.scorers import Seen, not_seen
from modeval.spec.layouts import FIRST, SECOND, Place
from modeval.types import Noise


class ComposedNetwork(LayeredNetwork):
    """A cohort of networks that apply modules along the layout of each rule.

    Attributes:
        places: of the layout, in the order in which they are computed.
        skills: ``(R, K)`` the skill of each rule at each place.
    """

    skills: Tensor

    def __init__(
        self,
        seeds: int,
        *,
        skills: Int64[Tensor, "rules places"],
        modules: int,
        encoder: int,
        experts: StackedMLP,
        choices: Choices,
        places: tuple[Place, ...],
        kinds: int,
    ) -> None:
        super().__init__()
        self.seeds, self.rules, self.module_count = seeds, len(skills), modules
        self.places = places
        self.register_buffer("skills", skills, persistent=False)
        self.encoder_number = StackedMLP((seeds,), (1, encoder, encoder))
        self.encoder_rule = StackedMLP((seeds,), (kinds, encoder, encoder))
        self.experts = experts
        self.decoder = StackedMLP((seeds,), (encoder, encoder, 1))
        self.route_by(choices, ())
        self.layer_count = len(places)
        self.chance *= len(places) if self.chance > 0 else 1

    def forward(
        self,
        inputs: Float[Tensor, "seeds n 2"],
        rule: Int64[Tensor, "seeds n"],
        *,
        noise: Noise | None = None,
        route: Route | None = None,
    ) -> Output:
        """Predict from two numbers and the skills of the rule."""
        used = self.skills[rule]  # (S, N, K)
        values = {
            FIRST: self.encoder_number(inputs[..., :1]),
            SECOND: self.encoder_number(inputs[..., 1:]),
        }
        passed: list[Passed] = []
        for number, place in enumerate(self.places):
            chance = self.chance_of(number, noise, route)
            state = torch.cat((values[place.left], values[place.right]), -1)
            seen = Seen(
                inputs,
                used[..., place.skill],
                self.encoder_rule.table,
                state=lambda state=state: state,  # type: ignore[misc]
                hidden=not_seen,
                outputs=not_seen,
            )
            before = side_by_side(state, *with_bias(self.experts.hidden.parts(chance.noise)))
            passed.append(run_bank(self.choices, self.experts, before, seen, chance))
            values[number] = passed[-1].output
        prediction = self.decoder(F.relu(passed[-1].output))
        return Output(prediction, reported(passed, rule.shape))
