"""Profiles of a trace: numbers for each module and each rule, and modules chosen together."""

from collections.abc import Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics import coactivation
from modeval.score.layers import Cleaned
from modeval.score.scorecard import Better, Coactivation, Profile
from modeval.types import Prior

SHOWN = 32  # modules of a co-activation matrix


def layer_entry(cleaned: Cleaned, place: int) -> int | None:
    """Return the number of a layer in a scorecard: null where a model has one."""
    return place if len(cleaned.layers) > 1 else None


def profiles(model: str, cleaned: Cleaned, prior: Prior) -> Iterator[Profile]:
    """Return what each module and each rule does, layer by layer.

    Of modules, J being the joint distribution of rule and module:

        module_share             p(m), its share of the work; uniform routing 1/M
        module_selections        how often it was chosen
        module_main_rule         number of the rule that it gets most of its work from
        module_specialization    p(r|m) of that rule; uniform routing gives the largest p(r)
        module_information       KL(p(r|m) || p(r)) in nats: what choosing it tells of the rule

    Of rules:

        rule_samples             samples
        rule_main_module         number of the module that gets most of it
        rule_main_share          A[r, m] of that module; uniform routing 1/M
        rule_effective_modules   exp H(A[r]): how many modules it is spread over; uniform M
        rule_information         KL(A[r] || p(m)) in nats: how differently it is routed

    A module without any work has no main rule, so null. Without labels only share and selections
    are given.
    """
    place = 0
    for group in cleaned.groups:
        joint = group.counts.joint(prior, view=cleaned.view)
        selections = group.counts.selections.sum((1, 2))
        samples = group.counts.samples.sum(1)
        for layer in range(len(group.layers)):
            entry = layer_entry(cleaned, place)
            yield from _of_modules(model, entry, joint[layer], selections[layer])
            yield from _of_rules(model, entry, joint[layer], samples[layer])
            place += 1


def _of_modules(
    model: str,
    layer: int | None,
    joint: Float64[Tensor, "rules modules"],
    selections: Float64[Tensor, "modules"],
) -> Iterator[Profile]:
    rules, modules = joint.shape

    def made(
        metric: str, values: Tensor, chance: float | None = None, better: Better | None = None
    ) -> Profile:
        return _profile(model, metric, "module", layer, values, chance, better)

    share = joint.sum(0)
    yield made("module_share", share, 1 / modules)
    yield made("module_selections", selections)
    if rules == 1:
        return
    weight = joint.sum(1)
    rule = joint / share
    main = rule.max(0)
    yield made("module_main_rule", torch.where(share > 0, main.indices.double(), torch.nan))
    yield made("module_specialization", main.values, float(weight.max()), "higher")
    yield made("module_information", _divergence(rule.T, weight), 0.0, "higher")


def _of_rules(
    model: str,
    layer: int | None,
    joint: Float64[Tensor, "rules modules"],
    samples: Float64[Tensor, "rules"],
) -> Iterator[Profile]:
    rules, modules = joint.shape
    if rules == 1:
        return

    def made(
        metric: str, values: Tensor, chance: float | None = None, better: Better | None = None
    ) -> Profile:
        return _profile(model, metric, "rule", layer, values, chance, better)

    table = joint / joint.sum(1, keepdim=True)
    main = table.max(1)
    yield made("rule_samples", samples)
    yield made("rule_main_module", main.indices.double())
    yield made("rule_main_share", main.values, 1 / modules)
    yield made("rule_effective_modules", torch.special.entr(table).sum(1).exp(), float(modules))
    yield made("rule_information", _divergence(table, joint.sum(0)), 0.0, "higher")


def _divergence(
    rows: Float64[Tensor, "rows outcomes"], whole: Float64[Tensor, "outcomes"]
) -> Float64[Tensor, "rows"]:
    """Return KL(row || whole) in nats for each row."""
    terms = torch.xlogy(rows, rows) - torch.xlogy(rows, whole)
    return terms.sum(1)


def _profile(  # noqa: PLR0917 - fields of a profile, in its order
    model: str,
    metric: str,
    axis: str,
    layer: int | None,
    values: Tensor,
    chance: float | None,
    better: Better | None,
) -> Profile:
    numbers = [value if value == value else None for value in values.tolist()]  # noqa: PLR0124 - NaN
    return Profile(
        model=model,
        metric=metric,
        axis=axis,  # type: ignore[arg-type]
        layer=layer,
        values=tuple(numbers),
        chance=chance,
        better=better,
    )


def coactivations(model: str, cleaned: Cleaned) -> Iterator[Coactivation]:
    """Return which modules are chosen together, for layers that choose several and say which."""
    place = 0
    for group in cleaned.groups:
        share = coactivation(group.counts)
        busy = group.counts.selections.sum((1, 2))
        for layer in range(len(group.layers)):
            entry = layer_entry(cleaned, place)
            place += 1
            table = share[layer] - torch.diag(share[layer].diagonal())
            if not bool(torch.isfinite(table).all()) or not bool((table > 0).any()):
                continue
            top = busy[layer].topk(min(SHOWN, len(table))).indices.sort().values
            yield Coactivation(
                model=model,
                layer=entry,
                modules=tuple(top.tolist()),
                matrix=tuple(tuple(row) for row in table[top][:, top].tolist()),
            )
