"""Scores of trained cohorts: from what was measured of each seed to a scorecard of one model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor

from modeval.errors import RunError
from modeval.evaluate.subject import LOSS_FACTOR, Evaluation, Loss, Subject
from modeval.metrics.adaptation import adaptation_from_marginals
from modeval.metrics.alignment import alignment_bounds, alignment_distance, alignment_score
from modeval.metrics.chance import (
    hash_alignment_distance,
    hash_collapse_avg,
    hash_inverse_mutual_information,
    hash_joints,
    uniform_joint,
)
from modeval.metrics.matching import match
from modeval.metrics.measuring import measure
from modeval.metrics.table import METRICS, PAPER_METRICS, STATIC_METRICS
from modeval.score.inference.jackknife import jackknife_errors
from modeval.score.inference.resampling import (
    Tail,
    bootstrap_seeds,
    p_value,
    percentile_interval,
    permuted_labels,
    relabel_cells,
)
from modeval.score.scorecard import (
    LEVEL,
    Activation,
    Member,
    ModelRecord,
    Score,
    Scorecard,
    Seed,
)
from modeval.spec import digest_of, module_count, name_of, to_dict
from modeval.types import RoutingCounts

HASH_MAPS = 2000
HASH_MEANS: dict[str, Callable[[int, int], float]] = {
    "alignment_distance": hash_alignment_distance,
    "collapse_avg": hash_collapse_avg,
    "inverse_mutual_information": hash_inverse_mutual_information,
}
ROUTING_METRICS = (*PAPER_METRICS, "alignment_score")
FURTHER_METRICS = tuple(name for name in STATIC_METRICS if name not in ROUTING_METRICS)
"""Metrics that are scored too, but that a terminal has no room for."""
WITHOUT_ERROR = ("matched_adaptation_distance",)
"""Metrics whose sampling error would cost more time than all others together."""
TESTED = ("alignment_distance", "inverse_mutual_information", "alignment_score")
"""Metrics that are held against permuted labels: a router that is blind to rules scores above their
uniform level, because the best matching is sought in noise."""
PERMUTATIONS = 199
HALF = 0.5
"""Of an equal share of the samples, below which a rule is rare."""
NORMAL = 1.96
"""97.5 % point of the normal distribution, by which :meth:`Loss.half_width` is wider."""


@dataclass(frozen=True, slots=True)
class _Column:
    """Values of one metric for each usable member, before seeds are averaged."""

    metric: str
    values: Tensor
    samples: Sequence[int | None]
    errors: Tensor | None = None
    chance: tuple[float, float] | None = None
    null: "_Null | None" = None
    length: int | None = None
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class _Null:
    """What one metric is when labels are permuted, for usable members.

    Attributes:
        draws: ``(P, S)`` the metric as it is scored.
        tested: ``(S,)`` the metric with rules weighted by their samples, which keeps the size of
            the test when some rules are rare.
        test: ``(P, S)`` likewise when labels are permuted.
    """

    draws: Tensor
    tested: Tensor
    test: Tensor


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
    if evaluation.counts is not None and evaluation.counts.mass.shape[1] > 1:
        raise RunError(
            f"{subject.title} has {evaluation.counts.mass.shape[1]} modular layers, and cohorts of "
            "several are not scored yet. Train with --layers 1."
        )
    usable = [index for index, fault in enumerate(subject.faults) if not fault]
    record = _record(subject, evaluation, precision)
    joint = _joint(subject, evaluation, usable)
    columns = _losses(subject, evaluation, usable)
    activations: tuple[Activation, ...] = ()
    if joint is not None and usable:
        nulls = _nulls(evaluation, usable, generator)
        columns = [*_routing(evaluation, joint, usable, nulls), *columns]
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
            _capped(entry, precision)
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
    name = name_of(subject.title)
    return ModelRecord(
        id=f"{name}-{kind}-r{subject.data.rules}-{subject.model.encoder}x{subject.model.width}",
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
    nulls: dict[str, _Null],
) -> list[_Column]:
    samples: list[int | None] = [None] * len(usable)
    if evaluation.counts is not None:
        samples = [int(n) for n in evaluation.counts.samples.sum((1, 2, 3))[usable]]
    rules, modules = joint.shape[-2:]
    errors = _errors(evaluation, usable)
    columns = []
    for name in ROUTING_METRICS:
        if rules == 1 and name == "inverse_mutual_information":
            continue  # one rule: there is nothing to tell
        function = METRICS[name].function
        if name == "adaptation_distance" and evaluation.shifted is not None:
            shifted = evaluation.shifted
            values = adaptation_from_marginals(shifted.rules[usable], shifted.modules[usable, 0])
        else:
            values = function(joint)
        chance = _chance(name, rules, modules)
        columns.append(
            _Column(name, values.cpu(), samples, errors.get(name), chance, nulls.get(name))
        )
    columns += [
        _Column(name, values, samples, errors.get(name), _further_chance(name, rules, modules))
        for name, values in _further(evaluation, joint, usable).items()
    ]
    if evaluation.hardened is not None:
        gap = evaluation.hardened
        columns.append(
            _Column(
                "hard_gap",
                gap.mean()[usable].cpu(),
                [gap.samples] * len(usable),
                _loss_error(gap)[usable],
            )
        )
    return columns


def _further(evaluation: Evaluation, joint: Tensor, usable: list[int]) -> dict[str, Tensor]:
    """Return load, information and the entropy budget, as far as samples or a matrix tell them."""
    rules = joint.shape[-2]
    names = [name for name in FURTHER_METRICS if rules > 1 or METRICS[name].usage_only]
    counts = _usable_counts(evaluation, usable)
    if counts is not None:
        return {name: values.squeeze(-1) for name, values in measure(counts, names).items()}
    return {name: METRICS[name].function(joint) for name in names if _of_joint(name)}


def _of_joint(name: str) -> bool:
    return METRICS[name].needs == "joint"


def _further_chance(name: str, rules: int, modules: int) -> tuple[float, float] | None:
    return _chance(name, rules, modules) if _of_joint(name) else None


def _errors(evaluation: Evaluation, usable: list[int]) -> dict[str, Tensor]:
    """Return the sampling error of each metric that follows from counts, for usable members."""
    counts = _usable_counts(evaluation, usable)
    if counts is None:
        return {}
    rules = counts.samples.shape[-1]
    names = [
        name
        for name in (*ROUTING_METRICS, *FURTHER_METRICS)
        if (rules > 1 or METRICS[name].usage_only)
        and _of_joint(name)
        and name not in WITHOUT_ERROR
        and not (name == "adaptation_distance" and evaluation.shifted is not None)
    ]
    found = jackknife_errors(counts, {name: METRICS[name].function for name in names}) or {}
    return {name: error.squeeze(-1).cpu() for name, error in found.items()}


def _usable_counts(evaluation: Evaluation, usable: list[int]) -> RoutingCounts | None:
    if evaluation.counts is None:
        return None
    tensors = evaluation.counts.tensors().items()
    return RoutingCounts(**{name: part[usable].cpu() for name, part in tensors})


def _nulls(
    evaluation: Evaluation, usable: list[int], generator: torch.Generator
) -> dict[str, _Null]:
    """Permute the labels of the (block, rule) cells, the same for all members."""
    counts = _usable_counts(evaluation, usable)
    if counts is None or min(counts.samples.shape[-2:]) < 2:  # noqa: PLR2004 - nothing to permute
        return {}
    label = permuted_labels(counts.samples, PERMUTATIONS, "labelled", generator)
    rules = counts.samples.shape[-1]

    def statistic(joint: Tensor) -> Tensor:
        matching = match(joint)[0]  # most of the time goes there, so it is done once
        return torch.stack(
            [
                alignment_distance(joint, matching=matching),
                METRICS["inverse_mutual_information"].function(joint),
                alignment_score(joint, matching=matching),
            ],
            -1,
        )

    def both(table: Tensor, share: Tensor) -> Tensor:
        even = statistic(table / rules)
        # unequal shares change little and are as costly, so equal ones are not done twice
        return torch.stack((even, statistic(table * share) if skewed else even), -1)

    skewed = bool((counts.samples.sum((0, 1, 2)).div(counts.samples.sum()) < HALF / rules).any())
    draws = relabel_cells(counts, both, label).squeeze(2)  # (P, S, 1, 3, 2) -> (P, S, 3, 2)
    tested = statistic(counts.joint("empirical" if skewed else "uniform")).squeeze(1)
    return {
        name: _Null(draws[..., place, 0], tested[..., place], draws[..., place, 1])
        for place, name in enumerate(TESTED)
    }


def _loss_error(loss: Loss) -> Tensor:
    """Return the standard error of each member's mean loss."""
    return (loss.half_width() / NORMAL).cpu()


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
        for name, values, errors in _loss_values(subject, loss):
            columns.append(
                _Column(
                    name,
                    values[usable].cpu(),
                    [loss.samples] * len(usable),
                    None if errors is None else errors[usable],
                    length=loss.length,
                    scale=subject.data.scale * loss.factor,
                )
            )
    return sorted(columns, key=lambda column: "_at_length_" in column.metric)


def _loss_values(subject: Subject, loss: Loss) -> list[tuple[str, Tensor, Tensor | None]]:
    """Name a loss; the headline of sequences is the trained length, or the longest with x2."""
    shifted = loss.factor != 1
    place = "out_of_distribution" if shifted else "in_distribution"
    headline = max(subject.data.tested_lengths, default=0) if shifted else subject.data.length
    values: list[tuple[str, Tensor, Tensor | None]] = [("loss", loss.mean(), _loss_error(loss))]
    if subject.data.objective == "classification":
        values.append(("error_rate", loss.error_rate(), None))
    named = []
    for kind, value, error in values:
        if loss.length is None or loss.length == headline:
            named.append((f"{place}_{kind}", value, error))
        if loss.length is not None:
            suffix = f"_x{loss.factor:g}" if shifted else ""
            named.append((f"{kind}_at_length_{loss.length}{suffix}", value, error))
    return named


def _entries(
    model: str,
    column: _Column,
    subject: Subject,
    usable: list[int],
    generator: torch.Generator,
) -> list[Score]:
    """Return the scores of one metric: over seeds first, then seed by seed."""
    places = {index: place for place, index in enumerate(usable)}
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
    errors: dict[int, float] = {}
    if column.errors is not None:
        errors = dict(zip(usable, column.errors.tolist(), strict=True))
    good = [index for index in usable if math.isfinite(values[index])]
    own = [
        replace(
            base,
            seed=seed,
            value=_finite(values.get(index, math.nan)),
            error=_finite(errors.get(index, math.nan)) if index in good else None,
            samples=samples.get(index),
            note="" if index in good else subject.faults[index] or "not a finite number",
            **(_beside(column, [places[index]]) if index in good else {}),
        )
        for index, seed in enumerate(subject.seeds)
    ]
    low, high = _interval([values[i] for i in good], [subject.seeds[i] for i in good], generator)
    counted = [samples[index] for index in good]
    known = [errors[index] for index in good if math.isfinite(errors.get(index, math.nan))]
    together = replace(
        base,
        value=sum(values[i] for i in good) / len(good) if good else None,
        low=low,
        high=high,
        # All members see the same inputs, so their sampling errors do not average out.
        error=sum(known) / len(known) if known and len(known) == len(good) else None,
        samples=None if None in counted else sum(n for n in counted if n is not None),
        seeds=len(good),
        note=_over_seeds_note(len(good), len(own)),
        **_beside(column, [places[index] for index in good]),
    )
    return [together, *own]


def _beside(column: _Column, members: list[int]) -> dict[str, Any]:
    """Return what permuted labels give of the mean over some members."""
    if column.null is None or not members:
        return {}
    null = column.null
    draws, test = null.draws[:, members].mean(1), null.test[:, members].mean(1)
    interval = percentile_interval(draws, level=LEVEL)
    tail: Tail = "greater" if METRICS[column.metric].better == "higher" else "less"
    return {
        "chance_permuted": float(draws.mean()),
        "null_low": float(interval.low),
        "null_high": float(interval.high),
        "p_value": float(p_value(null.tested[members].mean(), test, tail=tail)),
    }


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


def _capped(score: Score, precision: float | None) -> Score:
    """Say of a loss that it is less certain than asked for: no more samples were drawn."""
    unknown = precision is None or score.error is None or not score.value
    if unknown or "loss" not in score.metric or score.note:
        return score
    width = NORMAL * score.error / abs(score.value)  # type: ignore[operator, arg-type]
    if width <= LOSS_FACTOR * precision:  # type: ignore[operator]
        return score
    return replace(
        score, note=f"certain to ±{width:.1%} only: the most samples that are drawn were drawn"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
