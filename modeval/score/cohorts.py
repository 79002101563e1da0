"""Scores of trained cohorts: from what was measured of each seed to a scorecard of one model."""

import math
from dataclasses import replace
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from modeval.metrics.adaptation import adaptation_from_marginals
from modeval.metrics.table import METRICS, STATIC_METRICS
from modeval.score.block_units import block_units
from modeval.score.card import routing_card, with_scores
from modeval.score.content import content_digest
from modeval.score.entries import Members, entries
from modeval.score.interventions.matrices import effects, removals
from modeval.score.interventions.scores import beside_twins, causal_scores
from modeval.score.losses import NORMAL, error_of, held_out_columns, loss_columns
from modeval.score.measure import Measured, metrics_without_labels
from modeval.score.over_time import over_time, phase_losses
from modeval.score.positions import position_scores
from modeval.score.routing import LayerStack, Routing
from modeval.score.scorecard import Member, ModelRecord, Score, Scorecard
from modeval.score.skills import skill_scores
from modeval.score.subjects import Evaluation, Interventions, Subject
from modeval.spec import digest_of, module_count, name_of, to_dict
from modeval.types import RoutingCounts

LOSS_FACTOR = 4.0
"""A loss may be off by so many times the precision of A, as a share of it."""


def score(
    subject: Subject,
    evaluation: Evaluation,
    *,
    precision: float | None = None,
    generator: torch.Generator | None = None,
) -> Scorecard:
    """Turn what was measured of a cohort into a scorecard of one model.

    Args:
        subject: what was measured.
        evaluation: the measurements.
        precision: what was asked of A.
        generator: permutes labels; two runs give the same numbers.
    """
    members = Members(seeds=subject.seeds, faults=subject.faults)
    record = _record(subject, evaluation, precision)
    routing = _routing(subject, evaluation, [*members.usable])
    card = Scorecard(modeval=version("modeval-cli"), models=(record,))
    if routing is not None:
        generator = generator or torch.Generator().manual_seed(0)
        card = routing_card(record, routing, members, generator=generator)
    if routing is not None:
        [group] = routing.groups
        seen = int(group.counts.samples.sum((-2, -1)).amax())
        more = (
            *skill_scores(record.id, subject, routing, members),
            *position_scores(record.id, evaluation.positions, members, seen),
        )
        card = with_scores(card, more)
    losses = (
        _capped(entry, precision) for entry in _losses(record.id, subject, evaluation, members)
    )
    timed = over_time(record.id, subject.history, members)
    card = replace(
        with_scores(card, (*losses, *timed)),
        precision=precision,
        courses=tuple(phase_losses(record.id, subject.history, members)),
    )
    if routing is None or evaluation.interventions is None:
        why = f"{subject.title}: {evaluation.untouched}"
        return replace(card, notes=(*card.notes, why)) if evaluation.untouched else card
    return _with_interventions(card, record.id, evaluation.interventions, members, routing)


def _with_interventions(
    card: Scorecard, model: str, found: Interventions, members: Members, routing: Routing
) -> Scorecard:
    """Return a scorecard with what modules do, beside what is sent to them."""
    scores = tuple(causal_scores(model, found, members, routing))
    return replace(
        card,
        scores=beside_twins((*card.scores, *scores)),
        effects=tuple(effects(model, found, members)),
        removals=tuple(removals(model, found, members)),
    )


# --- the model -----------------------------------------------------------------------------------


def _record(subject: Subject, evaluation: Evaluation, precision: float | None) -> ModelRecord:
    data, model = to_dict(subject.data), to_dict(subject.model)
    model = {name: value for name, value in model.items() if value is not None}
    if not subject.objective_known:
        data["objective"] = None
    layers = 1 if evaluation.counts is None else evaluation.counts.samples.shape[1]
    return ModelRecord(
        id=_id(subject),
        title=subject.title,
        origin="matrix" if subject.network is None else subject.origin,  # type: ignore[arg-type]
        selection=subject.selection,
        data=data,
        model=model,
        digest=digest_of(
            subject.data,
            subject.model,
            unknown=() if subject.objective_known else ("objective",),
        ),
        modules=module_count(subject.data, subject.model),
        layers=tuple(f"layer {number}" for number in range(layers)) if layers > 1 else (),
        layer_modules=(module_count(subject.data, subject.model),) * layers if layers > 1 else (),
        adaptation=_adaptation(subject, evaluation),
        members=_members(subject, evaluation, precision),
        parameters=evaluation.parameters,
        active_parameters=evaluation.active,
        content=content_digest(subject.scored.items()) if subject.scored else "",
    )


def _id(subject: Subject) -> str:
    """Return what names a model: its place among the models, its task and its size."""
    data, model = subject.data, subject.model
    parts = (
        name_of(subject.title),
        data.task,
        data.objective if subject.objective_known else "",
        f"r{data.rules}",
        f"{model.encoder}x{model.width}",
    )
    return "-".join(part for part in parts if part)


def _adaptation(
    subject: Subject, evaluation: Evaluation
) -> Literal["reweight", "regenerate", "none"]:
    if evaluation.counts is None and subject.joint is None:
        return "none"
    return "reweight" if evaluation.shifted is None else "regenerate"


def _members(
    subject: Subject, evaluation: Evaluation, precision: float | None
) -> tuple[Member, ...]:
    reached: list[float | None] = [None] * len(subject.seeds)
    if evaluation.half_width is not None:
        widths = evaluation.half_width.tolist()
        reached = [width if math.isfinite(width) else None for width in widths]
    return tuple(
        Member(
            seed=seed,
            source=source,
            status="failed" if fault else "ok",
            note=fault or _precision_note(width, precision),
            precision=None if fault else width,
        )
        for seed, source, fault, width in zip(
            subject.seeds, subject.sources, subject.faults, reached, strict=True
        )
    )


def _precision_note(width: float | None, precision: float | None) -> str:
    if width is None or precision is None or width <= precision:
        return ""
    return f"A is certain to ±{width:.4f} only: the most samples that are drawn were drawn"


# --- routing -------------------------------------------------------------------------------------


def _routing(subject: Subject, evaluation: Evaluation, usable: list[int]) -> Routing | None:
    """Return the routing of the usable members; nothing where there is none."""
    if not usable:
        return None
    if subject.joint is not None:
        return _of_matrix(subject.joint[usable].double().cpu())
    if evaluation.counts is None:
        return None
    counts = RoutingCounts(
        **{name: part[usable].cpu() for name, part in evaluation.counts.tensors().items()}
    )
    layers, rules = counts.samples.shape[1], counts.samples.shape[-1]
    given: dict[str, Tensor] = {}
    if evaluation.shifted is not None and rules > 1:
        shares, modules = evaluation.shifted.rules[usable], evaluation.shifted.modules[usable]
        each = [adaptation_from_marginals(shares, modules[:, layer]) for layer in range(layers)]
        given = {"adaptation_distance": torch.stack(each, -1).cpu()}
    group = LayerStack(
        layers=tuple(range(layers)),
        counts=counts,
        choices=(0,) * layers,
        units=block_units(counts),
    )
    return Routing(
        groups=(group,),
        rules=rules,
        metrics=STATIC_METRICS if rules > 1 else metrics_without_labels(STATIC_METRICS),
        given=given,
    )


def _of_matrix(joint: Tensor) -> Routing:
    """Return what a recorded joint distribution ``(S, R, M)`` tells: no samples, no choices."""
    rules, modules = joint.shape[-2:]
    table = joint[:, None, None]
    unknown = torch.full_like(table, torch.nan)
    counts = RoutingCounts(
        mass=table,
        selections=unknown,
        samples=table.sum(-1),
        entropy=unknown[..., 0],
        selection_entropy=unknown[..., 0],
        coactivation=joint.new_full((len(joint), 1, modules, modules), torch.nan),
    )
    names = tuple(name for name in STATIC_METRICS if METRICS[name].needs == "joint")
    return Routing(
        groups=(LayerStack(layers=(0,), counts=counts, choices=(0,)),),
        rules=rules,
        metrics=names if rules > 1 else metrics_without_labels(names),
        evidence="sums",
        counted=False,
    )


# --- losses --------------------------------------------------------------------------------------


def _losses(model: str, subject: Subject, evaluation: Evaluation, members: Members) -> list[Score]:
    usable = [*members.usable]
    scores: list[Score] = []
    for name, gap in evaluation.hardened.items() if usable else ():
        measured = Measured(
            value=gap.mean()[usable].cpu().double().unsqueeze(-1),
            error=error_of(gap)[usable].double().unsqueeze(-1),
        )
        base = Score(model=model, metric=name)
        scores += entries(base, measured, members, samples=gap.samples)
    columns = loss_columns(evaluation.losses, subject.data, usable)
    if evaluation.held_out is not None and columns:
        columns += held_out_columns(evaluation.held_out, columns[0], subject.data, usable)
    for column in columns:
        scores += entries(column.base(model), column.measured, members, samples=column.samples)
    return scores


def _capped(score: Score, precision: float | None) -> Score:
    """Say of a loss that it is less certain than asked for: no more samples were drawn."""
    if (
        precision is None
        or score.error is None
        or not score.value
        or score.metric.startswith(("hard_gap", "systematic_gap"))
    ):
        return score
    width = NORMAL * score.error / abs(score.value)
    if width <= LOSS_FACTOR * precision:
        return score
    cap = f"certain to ±{width:.1%} only: the most samples that are drawn were drawn"
    return replace(score, note="; ".join(part for part in (score.note, cap) if part))
