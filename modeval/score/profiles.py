"""Profiles: numbers for each module and rule, of every seed and layer, and modules together."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics import coactivation, domain_specialization
from modeval.score.entries import Members
from modeval.score.routing import LayerStack, Routing
from modeval.score.scorecard import Activation, Better, Coactivation, Profile, Scorecard, Seed

SHOWN = 32  # modules of a co-activation matrix


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose numbers they are: model, layer and seed."""

    model: str
    layer: int | None
    seed: Seed | None

    def profile(
        self,
        metric: str,
        axis: Literal["rule", "module"],
        values: Tensor,
        chance: float | None = None,
        better: Better | None = None,
    ) -> Profile:
        """Return numbers under a name; null where there is none."""
        numbers = [value if value == value else None for value in values.tolist()]  # noqa: PLR0124 - NaN
        return Profile(
            model=self.model,
            metric=metric,
            axis=axis,
            layer=self.layer,
            seed=self.seed,
            values=tuple(numbers),
            chance=chance,
            better=better,
        )


def _spots(model: str, routing: Routing, members: Members) -> Iterator[tuple[int, int, _Owner]]:
    """Iterate over seeds and layers: numbers of both, and the spot."""
    several = len(routing.layers) > 1
    for seed, number in enumerate(members.usable):
        for index in range(len(routing.layers)):
            yield seed, index, _Owner(model, index if several else None, members.seeds[number])


def profiles(model: str, routing: Routing, members: Members) -> Iterator[Profile]:
    """Return what each module and each rule does, seed by seed and layer by layer.

    Of modules, J being the joint distribution of rule and module:

        module_share             p(m), its share of the work; uniform routing 1/M
        module_tokens            samples that chose it, a number and no share
        module_selections        the same, by the name of version 0.1
        module_main_rule         number of the rule that it gets most of its work from
        module_specialization    p(r|m) of that rule; uniform routing gives the largest p(r)
        module_information       KL(p(r|m) || p(r)) in nats: what choosing it tells of the rule

    Of rules:

        rule_samples             samples
        rule_main_module         number of the module that gets most of it
        rule_main_share          A[r, m] of that module; uniform routing 1/M
        rule_effective_modules   exp H(A[r]): how many modules it is spread over; uniform M
        rule_information         KL(A[r] || p(m)) in nats: how differently it is routed

    A module without any work has no main rule, so null. Without labels only share and tokens are
    given.
    """
    layers = {index: (group, number) for index, group, number in routing.each_layer()}
    joints = {id(group): group.joint(routing.prior, routing.view) for group in routing.groups}
    for seed, index, spot in _spots(model, routing, members):
        group, number = layers[index]
        joint = joints[id(group)][seed, number]
        yield from _of_modules(spot, joint, labelled=group.labelled)
        chosen = group.counts.selections[seed, number].sum((0, 1))
        yield spot.profile("module_tokens", "module", chosen, better="higher")
        yield spot.profile("module_selections", "module", chosen)
        if group.labelled:
            yield from _of_rules(spot, joint)
            if routing.rules > 1:
                samples = group.counts.samples[seed, number].sum(0)
                yield spot.profile("rule_samples", "rule", samples)


def _of_modules(
    spot: _Owner, joint: Float64[Tensor, "rules modules"], *, labelled: bool
) -> Iterator[Profile]:
    rules, modules = joint.shape
    share = joint.sum(0)
    yield spot.profile("module_share", "module", share, 1 / modules)
    if rules == 1 or not labelled:
        return
    weight = joint.sum(1)
    rule = joint / share
    main = rule.max(0)
    number = torch.where(share > 0, main.indices.double(), torch.nan)
    yield spot.profile("module_main_rule", "module", number)
    chance = float(weight.max())
    yield spot.profile("module_specialization", "module", main.values, chance, "higher")
    told = _divergence(rule.T, weight)
    yield spot.profile("module_information", "module", told, 0.0, "higher")


def _of_rules(spot: _Owner, joint: Float64[Tensor, "rules modules"]) -> Iterator[Profile]:
    rules, modules = joint.shape
    if rules == 1:
        return
    table = joint / joint.sum(1, keepdim=True)
    main = table.max(1)
    spread = torch.special.entr(table).sum(1).exp()
    told = _divergence(table, joint.sum(0))
    yield spot.profile("rule_main_module", "rule", main.indices.double())
    yield spot.profile("rule_main_share", "rule", main.values, 1 / modules)
    yield spot.profile("rule_effective_modules", "rule", spread, float(modules))
    yield spot.profile("rule_information", "rule", told, 0.0, "higher")


def _divergence(
    rows: Float64[Tensor, "rows outcomes"], whole: Float64[Tensor, "outcomes"]
) -> Float64[Tensor, "rows"]:
    """Return KL(row || whole) in nats for each row."""
    terms = torch.xlogy(rows, rows) - torch.xlogy(rows, whole)
    return terms.sum(1)


# --- matrices ------------------------------------------------------------------------------------


def activations(model: str, routing: Routing, members: Members) -> Iterator[Activation]:
    """Return A of every seed and layer, and how often each rule chose each module.

    A layer that lacks a rule has no such matrix.
    """
    layers = {index: (group, number) for index, group, number in routing.each_layer()}
    matrices = {
        id(group): (
            group.counts.conditional(view=routing.view),
            group.counts.prior(routing.prior),
        )
        for group in routing.groups
    }
    chosen = {id(group): _chosen(group) for group in routing.groups}
    for seed, index, spot in _spots(model, routing, members):
        group, number = layers[index]
        if not group.labelled:
            continue
        matrix, prior = (part[seed, number] for part in matrices[id(group)])
        table = chosen[id(group)]
        yield Activation(
            model=model,
            layer=spot.layer,
            seed=spot.seed,
            matrix=_rows(matrix),
            prior=tuple(prior.tolist()),
            chosen=() if table is None else _rows(table[seed, number]),
        )


def _chosen(group: LayerStack) -> Tensor | None:
    """Return how often each rule chose each module, where several are chosen and known."""
    known = bool((group.counts.selections.sum((-3, -1)) > 0).all())  # not when it is NaN
    return domain_specialization(group.counts) if known and max(group.choices) > 1 else None


def coactivations(model: str, routing: Routing, members: Members) -> Iterator[Coactivation]:
    """Return which modules are chosen together, for layers that choose several and say which."""
    layers = {index: (group, number) for index, group, number in routing.each_layer()}
    shares = {id(group): coactivation(group.counts) for group in routing.groups}
    for seed, index, spot in _spots(model, routing, members):
        group, number = layers[index]
        share = shares[id(group)][seed, number]
        table = share - torch.diag(share.diagonal())
        if not bool(torch.isfinite(table).all()) or not bool((table > 0).any()):
            continue
        busy = group.counts.selections[seed, number].sum((0, 1))
        top = busy.topk(min(SHOWN, len(table))).indices.sort().values
        yield Coactivation(
            model=model,
            layer=spot.layer,
            seed=spot.seed,
            modules=tuple(top.tolist()),
            matrix=_rows(table[top][:, top]),
        )


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


# --- scorecards of version 0.1 -------------------------------------------------------------------


def with_profiles(card: Scorecard) -> Scorecard:
    """Return a scorecard that has profiles of every model, made of A where they are missing.

    Version 0.1 gave cohorts none. A tells all of them but the numbers of samples.
    """
    known = {entry.model for entry in card.profiles}
    made = tuple(
        profile
        for activation in card.activations
        if activation.model not in known
        for profile in _of_matrix(activation)
    )
    return replace(card, profiles=card.profiles + made)


def _of_matrix(activation: Activation) -> Iterator[Profile]:
    matrix = torch.tensor(activation.matrix, dtype=torch.float64)
    weight = torch.full((len(matrix),), 1 / len(matrix), dtype=torch.float64)
    if activation.prior:
        weight = torch.tensor(activation.prior, dtype=torch.float64)
    joint = weight[:, None] * matrix
    spot = _Owner(activation.model, activation.layer, activation.seed)
    yield from _of_modules(spot, joint, labelled=True)
    yield from _of_rules(spot, joint)
