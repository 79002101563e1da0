"""Scores of what modules do: the same entries, intervals and tests as scores of routing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modeval.metrics.causal import (
    causal_alignment_score,
    causal_information,
    keep_k,
    resilience,
    routing_faithfulness,
)
from modeval.metrics.table import METRICS
from modeval.score.card import better_of
from modeval.score.chance import ChanceLevel, levels
from modeval.score.entries import Members, entries
from modeval.score.measure import Measured
from modeval.score.routing import Routing
from modeval.score.scorecard import Score
from modeval.score.subjects import Interventions

HALFWAY = 0.5
"""Where the loss lies when each module takes its part of it with it."""


def causal_scores(
    model: str, found: Interventions, members: Members, routing: Routing
) -> Iterator[Score]:
    """Return the scores of one model, each over seeds and layers.

    Args:
        model: its ``id``.
        found: what interventions gave.
        members: its seeds.
        routing: its routing, which says what chance gives.
    """
    measured, chance = _measured(found, [*members.usable])
    for name, one in measured.items():
        row = METRICS[name]
        base = Score(model=model, metric=name, better=better_of(name))
        twin = levels(row.twin, routing) if row.twin else _bounds(name, routing)
        scored = entries(base, one, members, levels=twin, samples=found.samples)
        yield from _with_chance(scored, chance[name], members) if name in chance else scored


def _measured(
    found: Interventions, usable: list[int]
) -> tuple[dict[str, Measured], dict[str, Tensor]]:
    """Return every score ``(S, L)`` with what permutations give, and measured chance."""
    need, floor = found.necessity[usable].cpu(), found.floor[usable].cpu()
    used = found.activation[usable].cpu()
    curves, share = found.curves, found.curves.share
    random = curves.random[:, usable]
    orders = keep_k(random, share)
    mean = random.mean(0)
    values = {
        "causal_alignment_score": causal_alignment_score(need, floor),
        "causal_information": causal_information(need, floor),
        "routing_faithfulness": routing_faithfulness(used, need, floor),
        "resilience": resilience(mean, share),
        "keep_k": keep_k(curves.by_use[usable], share),
    }
    nulls = {name: part[:, usable].cpu() for name, part in found.nulls.items()}
    nulls["keep_k"] = orders
    ends = torch.lerp(mean[..., 0], mean[..., -1], HALFWAY)
    chance = {
        "routing_faithfulness": nulls["routing_faithfulness"].mean(0),
        "resilience": ends,
        "keep_k": orders.mean(0),
    }
    return {name: Measured(value, null=nulls.get(name)) for name, value in values.items()}, chance


def _bounds(name: str, routing: Routing) -> list[ChanceLevel]:
    """Return levels that say bounds alone: chance is measured."""
    nothing = torch.zeros(0, dtype=torch.float64)
    bounds = METRICS[name].bounds
    return [
        ChanceLevel(None, None, nothing, bounds(routing.rules, group.modules, routing.prior))
        for _, group, _ in routing.each_layer()
    ]


def _with_chance(scored: Iterator[Score], chance: Tensor, members: Members) -> Iterator[Score]:
    """Put measured chance, ``(S, L)`` of the usable seeds, beside scores."""
    places = {members.seeds[number]: place for place, number in enumerate(members.usable)}
    for score in scored:
        if score.value is None:
            yield score
            continue
        rows = chance[[*places.values()] if score.seed is None else [places[score.seed]]]
        part = rows if score.over == "mean" else rows[:, score.layer or 0]
        level = float(part[part.isfinite()].mean()) if bool(part.isfinite().any()) else math.nan
        yield replace(score, chance=level if math.isfinite(level) else None)


def static_twin(metric: str) -> str:
    """Return the score of routing that asks the same, or nothing."""
    row = METRICS.get(metric)
    return "" if row is None else row.twin


def beside_twins(scores: Sequence[Score]) -> tuple[Score, ...]:
    """Return scores in an order that puts what modules do beside what is sent to them."""
    names = list(dict.fromkeys(score.metric for score in scores))
    twins = {twin: name for name in names if (twin := static_twin(name)) in names}
    ordered = []
    for name in names:
        if name not in twins.values():
            ordered += [name, *([twins[name]] if name in twins else [])]
    rank = {name: place for place, name in enumerate(ordered)}
    return tuple(sorted(scores, key=lambda score: rank[score.metric]))
