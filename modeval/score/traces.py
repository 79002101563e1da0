"""Scores of traces: from the counts of recorded or imported routing to a scorecard of one model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics import METRICS, hash_joints, uniform_joint, verdicts
from modeval.score.inference.multiple import holm
from modeval.score.inference.resampling import (
    DRAWS,
    SAMPLES_PER_CELL,
    Documents,
    Tail,
    effective_samples,
    p_value,
    percentile_interval,
)
from modeval.score.layers import (
    SHIFTED,
    TESTED,
    Cleaned,
    Measured,
    clean,
    default_view,
    measure_layers,
)
from modeval.score.profiles import coactivations, layer_entry, profiles
from modeval.score.scorecard import (
    LEVEL,
    Activation,
    Finding,
    Member,
    ModelRecord,
    Score,
    Scorecard,
)
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import TraceHeader
from modeval.types import Prior, RoutingCounts, View

HASH_MAPS = 1000
SIGNIFICANT = 0.05
LABELLED = (*TESTED, *SHIFTED, "input_distraction")
"""Metrics that tell of labels, and look better than they are when samples are few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is known of a trace beside its counts.

    Attributes:
        source: its folder or file.
        name: what people call it.
        rows: number of rows, pairs of a token and a layer; nothing for counts.
        documents: number of documents; nothing where unknown.
        mixed: whether labels change within a document.
        complete: whether its writer came to its end.
    """

    source: str
    name: str
    rows: int | None = None
    documents: int | None = None
    mixed: bool = False
    complete: bool = True


def score_trace(
    header: TraceHeader,
    groups: Sequence[LayerGroup],
    reading: Reading,
    *,
    view: View | None = None,
    prior: Prior = "uniform",
    layers: Sequence[int] | None = None,
    draws: int = DRAWS,
    permutations: int | None = None,
    generator: torch.Generator | None = None,
) -> Scorecard:
    """Turn the counts of a trace into a scorecard of one model.

    Each layer is scored on its own, then their mean, then the worst of them. Intervals are from
    resampled documents, those of the worst layer from the worst of each resample. Metrics that
    tell of labels are held against permuted labels: ``p_value`` is that of the metric with rules
    weighted by their samples, which keeps its size when some rules are rare; ``chance_permuted``,
    ``null_low`` and ``null_high`` are of the metric as it is scored.

    Args:
        header: what the trace says of itself.
        groups: its counts, of :func:`modeval.trace.counts.gather`.
        reading: what is known beside them.
        view: what counts as routing; by default the weights where they are shares, else choices.
        prior: weight of the rules.
        layers: numbers of the layers to score; all when absent.
        draws: number of resamples.
        permutations: number of permutations; when absent 999, and more for many layers.
        generator: draws resamples and permutations; two calls give the same numbers.

    Raises:
        TraceError: weights are asked for and there are none, a layer is not there, or nothing can
            be scored.
    """
    view = _checked_view(view, header)
    wanted = _checked_layers(layers, header)
    generator = generator or torch.Generator().manual_seed(0)
    cleaned = clean(header, groups, view=view, only=wanted)
    documents: Documents = "mixed" if reading.mixed else "labelled"
    found, warnings = measure_layers(
        cleaned,
        prior=prior,
        documents=documents,
        generator=generator,
        draws=draws,
        permutations=permutations,
    )
    record = _record(header, cleaned, reading, prior)
    notes = (*cleaned.notes, *warnings, *_reading_notes(reading, cleaned))
    return Scorecard(
        modeval=version("modeval-cli"),
        models=(record,),
        notes=tuple(f"{record.title}: {note}" for note in notes),
        scores=tuple(_scores(record, header, cleaned, found, prior)),
        findings=_findings(record, cleaned, found, prior),
        profiles=tuple(profiles(record.id, cleaned, prior)),
        activations=tuple(_activations(record, cleaned, prior)),
        coactivations=tuple(coactivations(record.id, cleaned)),
    )


def _checked_view(view: View | None, header: TraceHeader) -> View:
    own = default_view(header)
    if view == "weight" and own != "weight":
        raise TraceError(
            f"--view weight: the weights of this trace are {header.weight_scale!r}, which are no "
            "shares of a token. Use --view assignment."
        )
    return view or own


def _checked_layers(layers: Sequence[int] | None, header: TraceHeader) -> tuple[int, ...]:
    every = tuple(range(len(header.layers)))
    if layers is None:
        return every
    strange = [layer for layer in layers if layer not in every]
    if strange or not layers:
        what = strange[0] if strange else "none"
        raise TraceError(
            f"--layers {what}: this trace has layers 0 to {every[-1]}. Give numbers as 0,4,8-11."
        )
    return tuple(sorted(set(layers)))


def _reading_notes(reading: Reading, cleaned: Cleaned) -> list[str]:
    notes = []
    if not reading.complete:
        notes.append("the trace is incomplete: its recording stopped early. What is there is used.")
    if len(cleaned.rules) == 1:
        notes.append(
            "tokens have no labels (or only one), so load can be told, and specialisation cannot. "
            "Record with --label, or import with --label-from, to tell it."
        )
    return notes


# --- the model -----------------------------------------------------------------------------------


def _record(
    header: TraceHeader,
    cleaned: Cleaned,
    reading: Reading,
    prior: Prior,
) -> ModelRecord:
    chosen = cleaned.layers
    samples = cleaned.samples.sum((1, 2))
    source = asdict(header.source)
    title = reading.name
    return ModelRecord(
        id="".join(c if c.isalnum() or c in "-._" else "-" for c in title.lower()) or "trace",
        title=title,
        origin="trace",
        selection=None,
        data={
            "task": "trace",
            "documents": reading.documents,
            "tokens": int(samples.max()),
            "rows": reading.rows,
            "phase": header.phase,
            "capacity": header.capacity,
            "padding": header.padding,
            "labels_within_documents": reading.mixed,
            "complete": reading.complete,
            "notes": list(header.notes),
        },
        model={
            **source,
            "choices": [header.choices[layer] or None for layer in chosen],
            "layer_numbers": list(chosen),
            "weight_scale": header.weight_scale,
            "shared_modules": header.shared,
            "weights_digest": header.digest or None,
        },
        digest=header.fingerprint(),
        modules=max(header.modules[layer] for layer in chosen),
        rules=tuple(header.labels[rule] for rule in cleaned.rules) if header.labels else (),
        layers=tuple(header.layers[layer] for layer in chosen),
        layer_modules=tuple(header.modules[layer] for layer in chosen),
        prior=prior,
        view=cleaned.view,
        adaptation="reweight" if len(cleaned.rules) > 1 else "none",
        warnings=header.warnings,
        members=(
            Member(
                seed=None,
                source=reading.source,
                note=" ".join(header.notes),
                precision=_half_width(cleaned),
            ),
        ),
    )


def _findings(
    record: ModelRecord, cleaned: Cleaned, found: dict[str, Measured], prior: Prior
) -> tuple[Finding, ...]:
    words = _words(cleaned, found, prior)
    return tuple(
        Finding(model=record.id, layer=layer_entry(cleaned, place), word=word)
        for place, word in enumerate(words)
    )


def _words(cleaned: Cleaned, found: dict[str, Measured], prior: Prior) -> tuple[Any, ...]:
    """Return a word for each layer, in the light of what permuted labels give."""
    words = [
        str(word)
        for group in cleaned.groups
        for word in verdicts(group.counts.joint(prior, view=cleaned.view))
    ]
    if len(cleaned.rules) == 1:
        return tuple("collapsed" if word == "collapsed" else "unlabelled" for word in words)
    tested = _tested("mutual_information", found["mutual_information"])
    if tested is None:
        return tuple(words)
    real = (holm(tested) <= SIGNIFICANT).tolist()
    proven = {"blind": "faint"}
    unproven = {"specialist": "unproven", "partial": "unproven"}
    return tuple(
        (proven if sure else unproven).get(word, word)
        for word, sure in zip(words, real, strict=True)
    )


def _half_width(cleaned: Cleaned) -> float | None:
    """Return half of the 95 % interval of the least certain entry of A, of all layers.

    A is a ratio of sums over blocks; its variance is that of their residuals (Cochran 1977,
    Sampling Techniques, section 2.11).
    """
    blocks = cleaned.samples.shape[1]
    if blocks < 2:  # noqa: PLR2004 - one block has no spread
        return None
    widest = 0.0
    for group in cleaned.groups:
        table = _table(group.counts, cleaned.view)
        size = table.sum(-1, keepdim=True)
        whole = size.sum(1, keepdim=True)
        residual = table - size * (table.sum(1, keepdim=True) / whole)
        variance = residual.square().sum(1) * blocks / (blocks - 1) / whole[:, 0].square()
        widest = max(widest, 1.96 * float(variance.max().sqrt()))
    return widest


def _table(counts: RoutingCounts, view: View) -> Tensor:
    return counts.mass if view == "weight" else counts.selections


def _activations(record: ModelRecord, cleaned: Cleaned, prior: Prior) -> list[Activation]:
    made = []
    place = 0
    for group in cleaned.groups:
        matrices = group.counts.conditional(view=cleaned.view).tolist()
        weights = group.counts.prior(prior).tolist()
        for matrix, weight in zip(matrices, weights, strict=True):
            made.append(
                Activation(
                    model=record.id,
                    layer=layer_entry(cleaned, place),
                    matrix=tuple(tuple(row) for row in matrix),
                    prior=tuple(weight),
                )
            )
            place += 1
    return made


# --- scores --------------------------------------------------------------------------------------


def _scores(
    record: ModelRecord,
    header: TraceHeader,
    cleaned: Cleaned,
    found: dict[str, Measured],
    prior: Prior,
) -> list[Score]:
    """Return the scores of each metric: over layers first, then layer by layer."""
    samples = [int(count) for count in cleaned.samples.sum((1, 2))]
    few = _few_samples(cleaned)
    scores: list[Score] = []
    for name, measured in found.items():
        better = METRICS[name].better
        base = Score(
            model=record.id,
            metric=name,
            better=None if better == "neither" else better,
            samples=max(samples),
        )
        notes = few if name in LABELLED else [""] * len(samples)
        levels = _levels(name, header, cleaned, prior)
        if len(samples) > 1:
            scores += _over_layers(base, measured, levels)
        tested = _tested(name, measured)
        adjusted = None if tested is None else holm(tested)
        for place in range(len(samples)):
            single = _at(measured, place)
            scores.append(
                replace(
                    _entry(base, single, levels[place : place + 1], _one),
                    layer=layer_entry(cleaned, place),
                    p_adjusted=None if adjusted is None else float(adjusted[place]),
                    samples=samples[place],
                    few_samples=bool(notes[place]),
                    note=notes[place],
                )
            )
    return scores


def _over_layers(base: Score, measured: Measured, levels: list["_Level"]) -> list[Score]:
    """Return the mean over layers and the worst layer; each is one claim, so p stays as it is."""

    def mean(values: Tensor) -> Tensor:
        return values.mean(-1)

    def worst(values: Tensor) -> Tensor:
        return values.amin(-1) if base.better == "higher" else values.amax(-1)

    value = measured.value
    layer = int(value.argmin() if base.better == "higher" else value.argmax())
    entries = [
        replace(_entry(base, measured, levels, mean), over="mean"),
        replace(_entry(base, measured, levels, worst), over="worst", layer=layer),
    ]
    return [replace(entry, p_adjusted=entry.p_value) for entry in entries]


def _entry(
    base: Score, measured: Measured, levels: list["_Level"], reduce: Callable[[Tensor], Tensor]
) -> Score:
    """Return a score with all that stands beside it, layers reduced to one number throughout."""
    entry = replace(base, value=float(reduce(measured.value)))
    if measured.draws is not None:
        draws = reduce(measured.draws)
        least = min(level.bounds[0] for level in levels)
        most = max(level.bounds[1] for level in levels)
        low, high = _around(reduce(measured.value), draws, (least, most))
        entry = replace(entry, low=low, high=high, error=float(draws.std()))
    if measured.null is not None and measured.test is not None and measured.tested is not None:
        null = percentile_interval(reduce(measured.null), level=LEVEL)
        tail: Tail = "greater" if base.better == "higher" else "less"
        entry = replace(
            entry,
            chance_permuted=float(reduce(measured.null).mean()),
            null_low=float(null.low),
            null_high=float(null.high),
            p_value=float(p_value(reduce(measured.tested), reduce(measured.test), tail=tail)),
        )
    if all(level.uniform is not None for level in levels):
        uniform = torch.tensor([level.uniform for level in levels], dtype=torch.float64)
        hashed = torch.stack([level.hashed for level in levels], dim=-1)
        entry = replace(
            entry, chance=float(reduce(uniform)), chance_hash=float(reduce(hashed).mean())
        )
    return entry


def _around(
    value: Tensor, draws: Float64[Tensor, "draws"], bounds: tuple[float, float]
) -> tuple[float, float]:
    """Return the percentile interval of the resamples, moved to lie about the value.

    A resample holds fewer different documents than the trace, so it is more uneven, and metrics
    of unevenness and of information are larger in it: the percentiles as they stand may exclude
    the value. Moved, they tell how far it would vary with other documents of the same number.
    """
    shift = float(value - draws.mean())
    interval = percentile_interval(draws, level=LEVEL)
    least, most = bounds
    low = min(float(value), max(float(interval.low) + shift, least))
    return low, max(float(value), min(float(interval.high) + shift, most))


@lru_cache(maxsize=512)
def _bounds(name: str, rules: int, modules: int) -> tuple[float, float]:
    """Return the least and the largest value that a metric can have."""
    if METRICS[name].needs != "joint":
        return 0.0, math.log(modules)
    collapsed = torch.zeros(rules, modules, dtype=torch.float64)
    collapsed[:, 0] = 1 / rules
    matched = torch.zeros(rules, modules, dtype=torch.float64)
    matched[torch.arange(rules), torch.arange(rules) % modules] = 1 / rules
    joints = torch.stack([uniform_joint(rules, modules), collapsed, matched])
    values = METRICS[name].function(joints)
    most = 1.0 if name in SHIFTED else float(values.max())
    return float(values.min()), most


def _one(values: Tensor) -> Tensor:
    return values[..., 0]


def _at(measured: Measured, place: int) -> Measured:
    """Return one layer."""
    values = {entry.name: getattr(measured, entry.name) for entry in fields(Measured)}
    return Measured(
        **{  # type: ignore[arg-type] # only the value is never None
            name: None if table is None else table[..., place : place + 1]
            for name, table in values.items()
        }
    )


def _tested(name: str, measured: Measured) -> Float64[Tensor, "layers"] | None:
    """Return the p value of each layer."""
    if measured.test is None or measured.tested is None:
        return None
    tail: Tail = "greater" if METRICS[name].better == "higher" else "less"
    return p_value(measured.tested, measured.test, tail=tail)


def _few_samples(cleaned: Cleaned) -> list[str]:
    """Return a note for each layer with so few samples that chance looks like specialisation."""
    notes = []
    for group in cleaned.groups:
        rules, modules = group.counts.mass.shape[-2:]
        wanted = SAMPLES_PER_CELL * rules * modules
        notes += [
            f"few samples: worth {worth:.0f} independent ones, and {wanted} are wanted for "
            f"{rules} rules x {modules} modules"
            if worth < wanted
            else ""
            for worth in effective_samples(group.counts).tolist()
        ]
    return notes


# --- chance --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Level:
    """Chance of one metric in one layer.

    Attributes:
        uniform: value of uniform routing; nothing for metrics of single samples.
        hashed: ``(H,)`` values of routing that sends each rule to K modules drawn at random.
        bounds: least and largest value that any routing can have.
    """

    uniform: float | None
    hashed: Float64[Tensor, "maps"]
    bounds: tuple[float, float]


def _levels(name: str, header: TraceHeader, cleaned: Cleaned, prior: Prior) -> list[_Level]:
    """Return the chance levels of each layer; random maps differ from layer to layer."""
    levels = []
    generator = torch.Generator().manual_seed(0)
    for group in cleaned.groups:
        modules = group.counts.mass.shape[-1]
        weights = group.counts.prior(prior).tolist()
        bounds = _bounds(name, len(cleaned.rules), modules)
        for layer, weight in zip(group.layers, weights, strict=True):
            if METRICS[name].needs != "joint":
                levels.append(_Level(None, torch.zeros(0, dtype=torch.float64), bounds))
                continue
            known = header.choices[layer]
            choices = known if 0 < known < modules else 1
            # Mean values of random maps need no more digits, and layers then share them.
            key = tuple(round(share, 3) for share in weight)
            hashed = _of_hash_maps(name, key, modules, choices)
            uniform = _of_uniform(name, tuple(weight), modules)
            order = torch.randperm(HASH_MAPS, generator=generator)
            levels.append(_Level(uniform, hashed[order], bounds))
    return levels


@lru_cache(maxsize=512)
def _of_uniform(name: str, prior: tuple[float, ...], modules: int) -> float:
    """Return what uniform routing scores."""
    weight = torch.tensor(prior, dtype=torch.float64)[:, None]
    return float(METRICS[name].function((weight / modules).expand(len(prior), modules)))


@lru_cache(maxsize=512)
def _of_hash_maps(
    name: str, prior: tuple[float, ...], modules: int, choices: int
) -> Float64[Tensor, "maps"]:
    """Return what random maps of rules to K modules score."""
    weight = torch.tensor(prior, dtype=torch.float64)[:, None]
    maps = _hash_maps(len(prior), modules, choices) * (weight / weight.sum())
    found: Tensor = METRICS[name].function(maps)
    return found


@lru_cache(maxsize=8)
def _hash_maps(rules: int, modules: int, choices: int) -> Float64[Tensor, "maps rules modules"]:
    """Return A of routers that send each rule to K modules drawn at random, 1/K each."""
    generator = torch.Generator().manual_seed(0)
    drawn = hash_joints(rules, modules, draws=HASH_MAPS, generator=generator, choices=choices)
    return drawn * rules
