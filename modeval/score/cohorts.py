"""Scores of trained cohorts: from what was measured of each seed to a scorecard of one model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from modeval.metrics.adaptation import adaptation_from_marginals
from modeval.metrics.alignment import alignment_bounds
from modeval.metrics.chance import (
    hash_alignment_distance,
    hash_collapse_avg,
    hash_inverse_mutual_information,
    hash_joints,
    uniform_joint,
)
from modeval.metrics.table import METRICS, PAPER_METRICS
from modeval.score.scorecard import (
    LEVEL,
    Activation,
    Member,
    ModelRecord,
    Score,
    Scorecard,
    Seed,
)
from modeval.score.statistics import bootstrap_seeds
from modeval.spec import digest, module_count, to_dict
from modeval.trace.subject import Evaluation, Loss, Subject
from modeval.types import RoutingCounts

HASH_MAPS = 2000
HASH_MEANS: dict[str, Callable[[int, int], float]] = {
    "alignment_distance": hash_alignment_distance,
    "collapse_avg": hash_collapse_avg,
    "inverse_mutual_information": hash_inverse_mutual_information,
}
ROUTING_METRICS = (*PAPER_METRICS, "alignment_score")


@dataclass(frozen=True, slots=True)
class _Column:
    """Values of one metric for each usable member, before seeds are averaged."""

    metric: str
    values: Tensor
    samples: Sequence[int | None]
    chance: tuple[float, float] | None = None
    length: int | None = None
    scale: float | None = None


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
        generator: draws hash maps and resamples seeds; two runs give the same intervals.
    """
    generator = generator or torch.Generator().manual_seed(0)
    usable = [index for index, fault in enumerate(subject.faults) if not fault]
    record = _record(subject, evaluation, precision)
    joint = _joint(subject, evaluation, usable)
    columns = _losses(subject, evaluation, usable)
    activations: tuple[Activation, ...] = ()
    if joint is not None and usable:
        columns = [*_routing(evaluation, joint, usable), *columns]
        prior = joint.sum(-1)
        matrices = (joint / prior.unsqueeze(-1)).tolist()
        activations = tuple(
            Activation(
                model=record.id,
                seed=subject.seeds[index],
                matrix=tuple(tuple(row) for row in matrix),
                prior=tuple(weights),
            )
            for index, matrix, weights in zip(usable, matrices, prior.tolist(), strict=True)
        )
    return Scorecard(
        modeval=version("modeval-cli"),
        precision=precision,
        models=(record,),
        scores=tuple(
            entry
            for column in columns
            for entry in _entries(record.id, column, subject, usable, generator)
        ),
        activations=activations,
    )


def _record(subject: Subject, evaluation: Evaluation, precision: float | None) -> ModelRecord:
    data, model = to_dict(subject.data), to_dict(subject.model)
    if not subject.objective_known:
        data["objective"] = None
    routed = evaluation.counts is not None or subject.joint is not None
    adaptation: Literal["reweight", "regenerate", "none"] = "none"
    if routed:
        adaptation = "reweight" if evaluation.shifted is None else "regenerate"
    reached: list[float | None] = [None] * len(subject.seeds)
    if evaluation.half_width is not None:
        reached = [_finite(width) for width in evaluation.half_width.tolist()]
    kind = "-".join(str(part) for part in (subject.data.task, data["objective"]) if part)
    name = subject.title.lower().replace(" (", "-").replace(" ", "-").replace(")", "")
    return ModelRecord(
        id=f"{name}-{kind}-r{subject.data.rules}-{subject.model.encoder}x{subject.model.width}",
        title=subject.title,
        origin="matrix" if subject.network is None else subject.origin,  # type: ignore[arg-type]
        selection=subject.selection,
        data=data,
        model=model,
        digest=digest({"data": data, "model": model}),
        modules=module_count(subject.data, subject.model),
        adaptation=adaptation,
        members=tuple(
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
        ),
    )


def _precision_note(width: float | None, precision: float | None) -> str:
    if width is None or precision is None or width <= precision:
        return ""
    return f"A is certain to ±{width:.4f} only: the most samples that are drawn were drawn"


def _joint(subject: Subject, evaluation: Evaluation, usable: list[int]) -> Tensor | None:
    """Return the joint distribution of each usable member ``(S, R, M)``."""
    if subject.joint is not None:
        return subject.joint[usable]
    if evaluation.counts is None:
        return None
    parts = {name: part[usable] for name, part in evaluation.counts.tensors().items()}
    return RoutingCounts(**parts).joint().squeeze(1).cpu()


def _routing(
    evaluation: Evaluation,
    joint: Tensor,
    usable: list[int],
) -> list[_Column]:
    samples: list[int | None] = [None] * len(usable)
    if evaluation.counts is not None:
        samples = [int(n) for n in evaluation.counts.samples.sum((1, 2, 3))[usable]]
    rules, modules = joint.shape[-2:]
    columns = []
    for name in ROUTING_METRICS:
        if rules == 1 and name == "inverse_mutual_information":
            continue  # one rule: there is nothing to tell
        function = METRICS[name].function
        if name == "adaptation_distance" and evaluation.shifted is not None:
            shifted = evaluation.shifted
            values = adaptation_from_marginals(shifted.rules[usable], shifted.modules[usable])
        else:
            values = function(joint)
        chance = _chance(name, rules, modules)
        columns.append(_Column(name, values.cpu(), samples, chance))
    if evaluation.hardened is not None:
        gap = evaluation.hardened
        columns.append(_Column("hard_gap", gap.mean()[usable].cpu(), [gap.samples] * len(usable)))
    return columns


@lru_cache(maxsize=256)
def _chance(metric: str, rules: int, modules: int) -> tuple[float, float]:
    """Return what uniform routing scores, and the mean over random hash maps.

    The mean is exact where it has a formula, else from the same maps for all models.
    """
    function = METRICS[metric].function
    uniform = float(function(uniform_joint(rules, modules)))
    if metric in HASH_MEANS:
        return uniform, HASH_MEANS[metric](rules, modules)
    if metric == "alignment_score":  # linear in the distance, and never below its chance level
        bounds = alignment_bounds(uniform_joint(rules, modules))
        mean = hash_alignment_distance(rules, modules)
        room = float(bounds.chance - bounds.best)
        return uniform, (float(bounds.chance) - mean) / room if room else uniform
    generator = torch.Generator().manual_seed(0)
    maps = hash_joints(rules, modules, draws=HASH_MAPS, generator=generator)
    return uniform, float(function(maps).mean())


def _losses(subject: Subject, evaluation: Evaluation, usable: list[int]) -> list[_Column]:
    columns = []
    for loss in evaluation.losses:
        for name, values in _loss_values(subject, loss):
            columns.append(
                _Column(
                    name,
                    values[usable].cpu(),
                    [loss.samples] * len(usable),
                    length=loss.length,
                    scale=subject.data.scale * loss.factor,
                )
            )
    return sorted(columns, key=lambda column: "_at_length_" in column.metric)


def _loss_values(subject: Subject, loss: Loss) -> list[tuple[str, Tensor]]:
    """Name a loss; the headline of sequences is the trained length, and 30 with inputs x2."""
    shifted = loss.factor != 1
    place = "out_of_distribution" if shifted else "in_distribution"
    headline = 30 if shifted else subject.data.length
    values = [("loss", loss.mean())]
    if subject.data.objective == "classification":
        values.append(("error_rate", loss.error_rate()))
    named = []
    for kind, value in values:
        if loss.length is None or loss.length == headline:
            named.append((f"{place}_{kind}", value))
        if loss.length is not None:
            suffix = f"_x{loss.factor:g}" if shifted else ""
            named.append((f"{kind}_at_length_{loss.length}{suffix}", value))
    return named


def _entries(
    model: str,
    column: _Column,
    subject: Subject,
    usable: list[int],
    generator: torch.Generator,
) -> list[Score]:
    """Return the scores of one metric: over seeds first, then seed by seed."""
    metric = METRICS.get(column.metric)
    base = Score(
        model=model,
        metric=column.metric,
        chance=column.chance[0] if column.chance else None,
        chance_hash=column.chance[1] if column.chance else None,
        better="higher" if metric and metric.better == "higher" else "lower",
        length=column.length,
        scale=column.scale,
    )
    values = dict(zip(usable, column.values.tolist(), strict=True))
    samples = dict(zip(usable, column.samples, strict=True))
    good = [index for index in usable if math.isfinite(values[index])]
    own = [
        replace(
            base,
            seed=seed,
            value=_finite(values.get(index, math.nan)),
            samples=samples.get(index),
            note="" if index in good else subject.faults[index] or "not a finite number",
        )
        for index, seed in enumerate(subject.seeds)
    ]
    low, high = _interval([values[i] for i in good], [subject.seeds[i] for i in good], generator)
    counted = [samples[index] for index in good]
    together = replace(
        base,
        value=sum(values[i] for i in good) / len(good) if good else None,
        low=low,
        high=high,
        samples=None if None in counted else sum(n for n in counted if n is not None),
        seeds=len(good),
        note=_over_seeds_note(len(good), len(own)),
    )
    return [together, *own]


def _over_seeds_note(good: int, every: int) -> str:
    if good < every:
        return f"{every - good} of {every} seeds left out: not finite"
    return "one seed: no interval over seeds" if every == 1 else ""


def _interval(
    values: list[float], seeds: list[Seed], generator: torch.Generator
) -> tuple[float | None, float | None]:
    """Return the percentile interval over seeds; one seed has none."""
    interval = bootstrap_seeds(
        torch.tensor(values, dtype=torch.float64),
        generator=generator,
        strata=torch.tensor([task for task, _ in seeds], dtype=torch.int64),
        level=LEVEL,
    )
    return (None, None) if interval is None else (float(interval.low), float(interval.high))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
