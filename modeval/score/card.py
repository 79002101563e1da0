"""From routing to a scorecard of one model: the same for cohorts, matrices and traces."""

from dataclasses import replace
from importlib.metadata import version

import torch

from modeval.metrics.table import METRICS
from modeval.pace import counted
from modeval.score.chance import levels
from modeval.score.entries import Members, entries
from modeval.score.findings import findings
from modeval.score.measure import Measurements, measure_routing
from modeval.score.profiles import activations, coactivations, profiles
from modeval.score.routing import Routing
from modeval.score.scorecard import Better, ModelRecord, Score, Scorecard


def routing_card(
    record: ModelRecord,
    routing: Routing,
    members: Members,
    *,
    generator: torch.Generator,
    permutations: int | None = None,
    vocabulary: tuple[bool | None, ...] = (),
) -> Scorecard:
    """Return the scorecard of some routing: scores, findings, profiles and matrices.

    Args:
        record: the model.
        routing: how it routed, of its usable seeds.
        members: its seeds.
        generator: draws permutations; two runs give the same numbers.
        permutations: number of permutations; when absent as many as it takes.
        vocabulary: of each layer, whether words tell all that modules tell of the rules.
    """
    measurements = measure_routing(routing, generator=generator, permutations=permutations)
    return Scorecard(
        modeval=version("modeval-cli"),
        models=(record,),
        notes=tuple(f"{record.title}: {note}" for note in measurements.notes),
        scores=_scores(record, routing, measurements, members),
        findings=tuple(findings(record.id, routing, measurements, members, vocabulary)),
        profiles=tuple(profiles(record.id, routing, members)),
        activations=tuple(activations(record.id, routing, members)),
        coactivations=tuple(coactivations(record.id, routing, members)),
    )


def _scores(
    record: ModelRecord, routing: Routing, measurements: Measurements, members: Members
) -> tuple[Score, ...]:
    found: list[Score] = []
    for name, measured in counted(
        measurements.metrics.items(), "intervals and p values of metrics"
    ):
        base = Score(model=record.id, metric=name, better=better_of(name))
        chance = levels(name, routing)
        found += entries(base, measured, members, levels=chance, amount=measurements.amount)
    return tuple(found)


def better_of(metric: str) -> Better | None:
    """Return the direction of a metric; nothing where it has none."""
    better = METRICS[metric].better
    return None if better == "neither" else better


def with_scores(card: Scorecard, scores: tuple[Score, ...]) -> Scorecard:
    """Return a scorecard with more scores."""
    return replace(card, scores=card.scores + scores)
