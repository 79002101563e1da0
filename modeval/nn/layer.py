"""A modular layer: modules, a scorer, a gating and an aggregation, whatever each of them is.

    x -> modules -> (scorer -> gating -> route) -> aggregation -> Routed(output, weight, logits)

:func:`run_bank` is the layer itself, on hidden units that the families of networks compute each in
their own way; :class:`ModularLayer` is a layer that stands by itself, after the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modeval.nn.aggregation import Readout, Spare, Value, mix_hidden, of_pairs, present
from modeval.nn.bank import Bank, Experts
from modeval.nn.columns import Skips, Stitch, StitchScorer, mixed, own_column, routing_of
from modeval.nn.linear import StackedLinear, with_bias
from modeval.nn.network import LooksAt, Network, Route, Routed
from modeval.nn.scorers import (
    Chance,
    EmbeddingScorer,
    Read,
    SameScorer,
    Scorer,
    Seen,
    Weighed,
    weigh,
)
from modeval.spec.computing.compute import Drawing
from modeval.spec.gatings import Gate, Linear
from modeval.spec.model import Aggregation
from modeval.types import Noise


@dataclass(frozen=True, slots=True)
class Choices:
    """How a layer routes and what becomes of its modules.

    Attributes:
        scorer: gives logits.
        gating: makes them weights.
        aggregation: what is mixed.
        value: projects the mixture, where the aggregation is ``attend``.
        stitch: how columns mix, where modules are columns.
    """

    scorer: Scorer
    gating: Gate
    aggregation: Aggregation = "outputs"
    value: Value | None = None
    stitch: Stitch | None = None


@dataclass(frozen=True, slots=True)
class Passed:
    """What a layer passes on, and how it routed.

    Attributes:
        output: of each sample.
        weighed: how it was routed.
        columns: the states of all columns, where modules are columns.
    """

    output: Float[Tensor, "seeds n out"]
    weighed: Weighed
    columns: Float[Tensor, "seeds n modules out"] | None = None


def shared_readout(
    layer: StackedLinear | Bank,
    value: Value | None = None,
    following: StackedLinear | None = None,
) -> Readout | None:
    """Return the same of what the modules share, as one module; nothing where they share none."""
    trunk = trunk_of(layer)
    return None if trunk is None else _followed(Readout(*with_bias(trunk)), value, following)


def trunk_of(layer: StackedLinear | Bank) -> tuple[Tensor, Tensor | None] | None:
    """Return what modules share of a layer, as one module; nothing where they share nothing."""
    return layer.trunk() if isinstance(layer, Bank) else None


def _followed(readout: Readout, value: Value | None, following: StackedLinear | None) -> Readout:
    if value is not None:
        readout = readout.times(value.weight)
    return readout if following is None else readout.then(following)


def run_bank(
    choices: Choices,
    bank: Experts,
    before: Float[Tensor, "seeds n #modules hidden"],
    seen: Seen,
    chance: Chance,
    *,
    following: StackedLinear | None = None,
    shared_before: Float[Tensor, "seeds n one hidden"] | None = None,
) -> Passed:
    """Route and mix, given what the first layer of each module says.

    Args:
        choices: how.
        bank: the modules.
        before: their hidden units before the rectifier; once where they are the same for all.
        seen: what the scorer may look at, as far as it is known before modules compute.
        chance: noise and route.
        following: a linear layer after the mixture, merged into it (its bias left out).
        shared_before: hidden units of what modules share, where it must count exactly once.
    """
    plain = Readout(*with_bias(bank.readout.parts(chance.noise)))
    readout = _followed(plain, choices.value, following)
    if choices.aggregation == "parameters":
        weighed = weigh(choices.scorer, choices.gating, seen, chance)
        weight = of_pairs(weighed.weight, before.shape[2])
        spare = None if shared_before is None else Spare(shared_before.squeeze(2))
        hidden = mix_hidden(before, weight, spare)
        mixed = readout.mix(hidden, weight)
        shared = shared_readout(bank.readout, choices.value, following)
        if spare is not None and shared is not None:
            mixed = Spare(shared.each(hidden[:, :, :1]).squeeze(2)).add(mixed, weight)
        return Passed(mixed, weighed)
    if choices.aggregation == "inputs" and shared_before is not None:
        trunk = shared_readout(bank.readout, following=following)
        return _joined(choices, before, shared_before, trunk, seen, chance)
    hidden = bank.rectified(before)
    if choices.stitch is not None:
        return _stitched(choices, plain.each(hidden), seen, chance)
    seen = replace(seen, hidden=lambda: hidden, outputs=lambda: Read(plain, hidden))
    weighed = weigh(choices.scorer, choices.gating, seen, chance)
    return Passed(readout.mix(hidden, weighed.weight), weighed)


def _joined(  # noqa: PLR0917 - what comes in, in its order
    choices: Choices,
    before: Float[Tensor, "seeds n modules hidden"],
    shared: Float[Tensor, "seeds n one hidden"],
    trunk: Readout | None,
    seen: Seen,
    chance: Chance,
) -> Passed:
    """Run the trunk once, on an input beside which the prompts of several modules stand."""
    assert trunk is not None  # noqa: S101 - modules that stand before an input share all else
    weighed = weigh(choices.scorer, choices.gating, seen, chance)
    hidden = mix_hidden(before, present(weighed.weight), Spare(shared.squeeze(2)))
    return Passed(trunk.each(hidden[:, :, :1]).squeeze(2), weighed)


def _stitched(
    choices: Choices,
    outputs: Float[Tensor, "seeds n modules out"],
    seen: Seen,
    chance: Chance,
    states: Float[Tensor, "seeds n modules out"] | None = None,
) -> Passed:
    """Mix columns, around a skip connection of each where there are states already."""
    rows = choices.gating(choices.scorer(seen), None)
    scorer = choices.scorer
    mixing = scorer.mixing() if isinstance(scorer, StitchScorer) else rows[:, :, None, :, None]
    route = routing_of(chance.route, chance.layer)
    found = mixed(rows, mixing, outputs, seen.rule, route)
    columns = found.states if states is None else states + found.states
    return Passed(own_column(columns, seen.rule), found.weighed, columns)


class ModularLayer(nn.Module):
    """A modular layer by itself, around a skip connection: ``x + sum_m p_m f_m(x)``.

    >>> from modeval.nn.linear import StackedMLP
    >>> from modeval.nn.scorers import FreeScorer
    >>> from modeval.spec.gatings import Soft
    >>> scorer = FreeScorer(1, 3, 2, shared=True)
    >>> layer = ModularLayer(StackedMLP((1, 2), (4, 8, 4)), Choices(scorer, Soft()))
    >>> sorted(name for name, _ in layer.named_parameters())[:2]
    ['experts.hidden.bias', 'experts.hidden.weight']
    """

    def __init__(self, experts: Experts, choices: Choices) -> None:
        super().__init__()
        self.experts = experts
        self.scorer = choices.scorer
        self.gating = choices.gating
        self.aggregation = choices.aggregation
        self.value = choices.value
        self.stitch = choices.stitch

    @property
    def choices(self) -> Choices:
        """Return how this layer routes."""
        return Choices(self.scorer, self.gating, self.aggregation, self.value, self.stitch)

    def through_columns(
        self, columns: Float[Tensor, "seeds n modules width"], seen: Seen, chance: Chance
    ) -> Passed:
        """Pass the states of columns through, each through its own module."""
        weight, bias = with_bias(self.experts.hidden.parts(chance.noise))
        before = (columns.transpose(1, 2) @ weight + bias.unsqueeze(2)).transpose(1, 2)
        readout = Readout(*with_bias(self.experts.readout.parts(chance.noise)))
        outputs = readout.each(self.experts.rectified(before))
        return _stitched(self.choices, outputs, seen, chance, columns)

    def forward(self, x: Float[Tensor, "seeds n width"], seen: Seen, chance: Chance) -> Passed:
        """Pass samples through; ``seen`` tells what they are beside ``x``."""
        seen = replace(seen, state=lambda: x)
        layer = self.experts.hidden
        before = side_by_side(x, *with_bias(layer.parts(chance.noise)))
        trunk = trunk_of(layer) if needs_spare(self.choices) else None
        shared = None if trunk is None else side_by_side(x, *with_bias(trunk))
        passed = run_bank(self.choices, self.experts, before, seen, chance, shared_before=shared)
        return Passed(x + passed.output, passed.weighed)


def needs_spare(choices: Choices) -> bool:
    """Tell whether weights do not sum to 1 while modules are mixed around what they share."""
    generated = choices.aggregation == "parameters" and isinstance(choices.gating, Linear)
    return generated or choices.aggregation == "inputs"


def side_by_side(
    x: Float[Tensor, "seeds n in"],
    weight: Float[Tensor, "seeds modules in out"],
    bias: Float[Tensor, "seeds modules out"],
) -> Float[Tensor, "seeds n modules out"]:
    """Apply the layer of each module to the same input as one dense product."""
    flat = x @ weight.transpose(1, 2).flatten(2) + bias.flatten(1).unsqueeze(1)
    return flat.view(*flat.shape[:2], weight.shape[1], -1)


# --- what surrounds the layers of a network ------------------------------------------------------


class LayeredNetwork(Network):
    """What the three families share: the choices of the first layer, and the layers after it.

    The parts of the first layer are parts of the network itself, under the names that stored
    parameters have: ``experts`` (or gates), ``scorer``, ``value``; layers after it are ``layers``.

    Attributes:
        layers: those after the first.
    """

    layers: nn.ModuleList
    experts: Experts

    def route_by(self, choices: Choices, layers: Sequence[ModularLayer]) -> None:
        """Take the choices of the first layer and the layers after it."""
        self.scorer = choices.scorer
        self.gating = choices.gating
        self.aggregation = choices.aggregation
        self.value = choices.value
        self.stitch = choices.stitch
        if isinstance(choices.scorer, EmbeddingScorer):
            for number, layer in enumerate(layers, 1):
                layer.scorer = choices.scorer.at(number)
        self.layers = nn.ModuleList(layers)
        every = [choices, *(layer.choices for layer in layers)]
        self.layer_count = len(every)
        self.one_routing = any(isinstance(layer.scorer, SameScorer) for layer in layers)
        self.skips: Skips | None = None
        if choices.stitch is not None and choices.aggregation == "sluice":
            self.skips = Skips(self.seeds, self.rules, len(every))
        looks: tuple[LooksAt, ...] = get_args(LooksAt)
        self.looks_at = max((each.scorer.looks_at for each in every), key=looks.index)
        self.batchwise = choices.gating.batchwise
        self.sparse = choices.gating.sparse
        self.banks = tuple(part for part in self.modules() if isinstance(part, Bank))
        drawn = choices.gating.chance
        columns = drawn * self.module_count if drawn > 0 else drawn
        if any(isinstance(bank.computation, Drawing) for bank in self.banks):
            columns = max(columns, 1)
        self.chance = columns * len(every) if columns > 0 else columns

    def penalty(self) -> Float[Tensor, " seeds"] | None:
        """Return what computations add to the loss of each seed."""
        said = [bank.penalty() for bank in self.banks]  # no walrus: torch.compile stops at one
        terms = [term for term in said if term is not None]
        if self.stitch is not None and self.stitch.orthogonality:
            every = [self.experts, *(cast("ModularLayer", each).experts for each in self.layers)]
            terms += [self.stitch.penalty(each.readout.parts()[0]) for each in every]
        return torch.stack(terms).sum(0) if terms else None

    def turn(self) -> None:
        """Begin another phase of training."""
        for bank in self.banks:
            bank.turn()

    @property
    def deciding(self) -> tuple[int, ...]:
        """Return the numbers of the layers that route by themselves."""
        return (0,) if self.one_routing else tuple(range(self.layer_count))

    @property
    def choices(self) -> Choices:
        """Return how the first layer routes."""
        return Choices(self.scorer, self.gating, self.aggregation, self.value, self.stitch)

    def chance_of(self, layer: int, noise: Noise | None, route: Route | None) -> Chance:
        """Return the noise and the route of one layer."""
        if noise is not None:
            noise = noise.of(layer, self.layer_count)
        return Chance(noise, route, layer)

    def pass_on(
        self, first: Passed, seen: Seen, noise: Noise | None, route: Route | None
    ) -> tuple[Passed, ...]:
        """Run the layers after the first; samples lie along one axis."""
        passed = [first]
        for number, layer in enumerate(cast("Sequence[ModularLayer]", self.layers), 1):
            chance = self.chance_of(number, noise, route).flat()
            if self.one_routing:
                chance = replace(chance, given=first.weighed)
            columns = passed[-1].columns
            if columns is None:
                passed.append(layer(passed[-1].output, seen, chance))
            else:
                passed.append(layer.through_columns(columns, seen, chance))
        return tuple(passed)

    def decoded(self, passed: Sequence[Passed], rule: Tensor) -> Tensor:
        """Return what the decoder reads of what layers passed on."""
        if self.skips is None:
            return passed[-1].output
        return cast("Tensor", self.skips([each.output for each in passed], rule))


def reported(passed: Sequence[Passed], shape: torch.Size) -> tuple[Routed, ...]:
    """Return what each layer did, with samples (and positions) along the axes they came in."""
    return tuple(
        Routed(
            each.weighed.weight.view(*shape, -1),
            each.weighed.score,
            each.output.view(*shape, -1),
            each.weighed.load,
        )
        for each in passed
    )
