"""What a requirement is about: the measurements in its scope in a model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from modeval.errors import nearest
from modeval.gate.policy import PolicyScope, Requirement
from modeval.metrics.table import METRICS, metric_of
from modeval.score.scorecard import ModelRecord, Profile, Score, Scorecard, Seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One measurement, or the reason why there is none.

    Attributes:
        score: the measurement; null where it is absent.
        singles: the same seed by seed, numbers only; the score itself where it is of one seed.
        missing: seeds that did not fail and have no number all the same.
        layer: number of its layer.
        rule: name of its rule.
        module: number of its module.
        seed: its seed.
        absent: why there is none.
    """

    score: Score | None
    singles: tuple[Score, ...] = ()
    missing: tuple[Seed, ...] = ()
    layer: int | None = None
    rule: str | None = None
    module: int | None = None
    seed: Seed | None = None
    absent: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What it is of, beside the model: two items with the same key are partners."""
        return self.layer, self.rule, self.module, self.seed


@dataclass(frozen=True, slots=True)
class _Look:
    """Where the items of a requirement are looked for."""

    card: Scorecard
    model: ModelRecord
    metric: str
    scope: PolicyScope


def claims(
    card: Scorecard, model: ModelRecord, requirement: Requirement, *, ignore_failed: bool = False
) -> tuple[tuple[Item, ...], ...]:
    """Return what a requirement is about: one claim, or one for each layer, rule, module, seed.

    A claim is made of measurements that must all keep to the requirement.

    Args:
        card: the scorecard.
        model: a model of it.
        requirement: what is asked of it.
        ignore_failed: leave out seeds that failed, in place of finding them absent.
    """
    scope = requirement.scope
    look = _Look(card, model, requirement.metric, scope)
    seeds = _seeds(model, scope, ignore_failed=ignore_failed)
    if isinstance(seeds, str):
        return (_absent(seeds),)
    row = metric_of(requirement.metric)
    whole = row is not None and row.needs == "outputs" and scope.layers is None
    layers = [None] if whole else _layers(model, scope)  # what a model answers is of no layer
    if isinstance(layers, str):
        return (_absent(layers),)
    items = [
        item
        for seed in seeds
        for layer in layers
        for item in (_entries(look, layer, seed) if scope.axis else (_scored(look, layer, seed),))
    ]
    groups: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        groups.setdefault(_group(scope, item), []).append(item)
    return tuple(map(tuple, groups.values()))


def _absent(reason: str) -> tuple[Item, ...]:
    return (Item(score=None, absent=reason),)


def _group(scope: PolicyScope, item: Item) -> tuple[object, ...]:
    """Return what tells items of different claims apart."""
    return (
        item.seed if scope.seeds == "each" else None,
        item.layer if scope.layers == "each" else None,
        (item.rule, item.module) if scope.entry == "each" else None,
    )


def claim_words(scope: PolicyScope, items: Sequence[Item]) -> str:
    """Name a claim about several measurements.

    A claim about the worst of many is another than one about a given one: it says so.
    """
    counts: list[tuple[str, set[object]]] = [
        ("layer", {item.layer for item in items}),
        ("seed", {item.seed for item in items}),
        (scope.axis or "", {(item.rule, item.module) for item in items}),
    ]
    parts = [f"{len(found)} {name}s" for name, found in counts if name and len(found) > 1]
    return f"worst of {' x '.join(parts)}" if parts else ""


def _seeds(
    model: ModelRecord, scope: PolicyScope, *, ignore_failed: bool
) -> list[Seed | None] | str:
    seeds = [
        member.seed
        for member in model.members
        if member.seed is not None and not (ignore_failed and member.status == "failed")
    ]
    # modules mean nothing across seeds, so nor does their mean over them
    if scope.seeds is None and not (scope.axis and seeds):
        return [None]
    return [*seeds] or f"{model.title} was measured once, so it has no seeds to look at one by one"


def _layers(model: ModelRecord, scope: PolicyScope) -> list[int | str | None] | str:
    """Return numbers of layers, ``mean``, or nothing for the only layer."""
    wanted, count = scope.layers, len(model.layers)
    several = count > 1
    if wanted in (None, "worst", "each"):
        return [*range(count)] if several else [None]
    if wanted == "mean":
        return ["mean"] if several else [None]
    if wanted in model.layers:
        return [model.layers.index(wanted)] if several else [None]
    if wanted.isdecimal() and int(wanted) < max(count, 1):
        return [int(wanted)] if several else [None]
    have = f"layers 0 to {count - 1}" if several else "one layer, number 0"
    named = f", as {model.layers[0]}" if model.layers else ""
    near = nearest(wanted, model.layers)
    return f"{model.title} has no layer {wanted!r}{near}; it has {have}{named}"


# --- scores --------------------------------------------------------------------------------------


def _scored(look: _Look, layer: int | str | None, seed: Seed | None) -> Item:
    if layer == "mean":
        return _mean(look, seed)
    number = layer if isinstance(layer, int) else None
    score = look.card.find(look.model.id, look.metric, seed, layer=number)
    if score is None:
        return Item(score=None, layer=number, seed=seed, absent=_why_absent(look))
    if seed is not None:
        return Item(score=score, singles=(score,), layer=number, seed=seed)
    singles = {
        member: look.card.find(look.model.id, look.metric, member, layer=number)
        for member in _sound_seeds(look.model)
    }
    return _over_seeds(score, singles, layer=number)


def _sound_seeds(model: ModelRecord) -> list[Seed]:
    return [
        member.seed for member in model.members if member.seed is not None and member.status == "ok"
    ]


def _over_seeds(
    score: Score, singles: Mapping[Seed, Score | None], *, layer: int | None = None
) -> Item:
    """Return a mean over seeds with its seeds, and those that have no number."""
    known = tuple(each for each in singles.values() if each is not None and _is_number(each))
    missing = tuple(seed for seed, each in singles.items() if each is None or not _is_number(each))
    return Item(score=score, singles=known or (score,), missing=missing, layer=layer)


def _mean(look: _Look, seed: Seed | None) -> Item:
    """Return the mean over layers: the one that is there, or that of the layers."""
    layers = [
        score
        for number in range(len(look.model.layers))
        if (score := look.card.find(look.model.id, look.metric, seed, layer=number)) is not None
    ]
    score = look.card.find(look.model.id, look.metric, seed, over="mean")
    if len(layers) < len(look.model.layers):
        return Item(score=None, seed=seed, absent=_why_absent(look))
    if score is None:
        score = _averaged(layers)
    score = replace(score, few_samples=any(each.few_samples for each in (score, *layers)))
    if seed is not None:
        return Item(score=score, singles=(score,), seed=seed)
    singles = {member: _mean(look, member).score for member in _sound_seeds(look.model)}
    return _over_seeds(score, singles)


def _averaged(layers: Sequence[Score]) -> Score:
    """Return the mean of layers; they share their samples, so their errors do not average out."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None and math.isfinite(value)]
        return math.fsum(known) / len(known) if known and len(known) == len(values) else None

    return replace(
        layers[0],
        layer=None,
        over="mean",
        value=mean([each.value for each in layers]),
        low=None,
        high=None,
        error=mean([each.error for each in layers]),
        chance=mean([each.chance for each in layers]),
        chance_hash=mean([each.chance_hash for each in layers]),
        chance_permuted=mean([each.chance_permuted for each in layers]),
        null_low=None,
        null_high=None,
        p_value=None,
        p_adjusted=None,
        note="",
    )


def _is_number(score: Score) -> bool:
    return score.value is not None and math.isfinite(score.value)


def _why_absent(look: _Look) -> str:
    model = look.model
    measured = look.card.metrics_of(model.id)
    reason = f"the scorecard has no {look.metric} of {model.title}"
    if look.metric in measured:
        gaps = [f"{gap.kind} {gap.name} of {gap.layer}" for gap in model.left_out if gap.layer]
        why = f": {', '.join(gaps)} was left out" if gaps else ""
        return f"{reason} there, though elsewhere{why}"
    if model.modules == 1 and look.metric in METRICS:
        return f"{reason}: a single module has no routing. Name the models to check with --model"
    row = metric_of(look.metric)
    if row is not None and (row.needs == "interventions" or look.metric.startswith("hard_gap_")):
        return f"{reason}: modules were not switched off. Score again with --interventions"
    if look.metric in METRICS and METRICS[look.metric].needs in ("tokens", "logits"):
        return f"{reason}: it needs the {METRICS[look.metric].needs} of single positions"
    return f"{reason}{nearest(look.metric, measured)}. It has {', '.join(measured) or 'no scores'}"


# --- numbers for each rule or module -------------------------------------------------------------


def _entries(look: _Look, layer: int | str | None, seed: Seed | None) -> Iterator[Item]:
    scope, model = look.scope, look.model
    if layer == "mean":
        yield Item(score=None, absent=f"there is no mean over layers for each {scope.axis}")
        return
    number = layer if isinstance(layer, int) else None
    profile = _profile(look, number, seed)
    if profile is None:
        yield Item(
            score=None,
            layer=number,
            seed=seed,
            absent=f"the scorecard has no {look.metric} for each {scope.axis} of {model.title}",
        )
        return
    rules = scope.axis == "rule"
    names = [_entry_name(model, index, rules=rules) for index in range(len(profile.values))]
    wanted = scope.entry or ""
    chosen = range(len(names))
    if wanted not in ("worst", "each"):
        if wanted not in names and not (wanted.isdecimal() and int(wanted) < len(names)):
            offered = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")  # noqa: PLR2004
            yield Item(
                score=None,
                layer=number,
                seed=seed,
                absent=f"{model.title} has no {scope.axis} {wanted!r}{nearest(wanted, names)}; "
                f"it has {offered}",
            )
            return
        index = names.index(wanted) if wanted in names else int(wanted)
        chosen = range(index, index + 1)
    few = _few_in(look, number, seed)
    for index in chosen:
        score = Score(
            model=model.id,
            metric=profile.metric,
            layer=number,
            seed=seed,
            value=profile.values[index],
            chance=profile.chance,
            better=profile.better,
            few_samples=few,
        )
        yield Item(
            score=score,
            singles=(score,),
            layer=number,
            rule=names[index] if rules else None,
            module=None if rules else index,
            seed=seed,
        )


def _profile(look: _Look, layer: int | None, seed: Seed | None) -> Profile | None:
    axis = look.scope.axis
    return next(
        (
            profile
            for name in (look.metric, f"{axis}_{look.metric}")
            if (profile := look.card.find_profile(look.model.id, name, seed, layer=layer))
            is not None
            and profile.axis == axis
        ),
        None,
    )


def _few_in(look: _Look, layer: int | None, seed: Seed | None) -> bool:
    """Tell whether a layer is marked for few samples, which its profiles say no word of."""
    scores = (
        look.card.find(look.model.id, metric, seed, layer=layer)
        for metric in look.card.metrics_of(look.model.id)
    )
    return any(score is not None and score.few_samples for score in scores)


def _entry_name(model: ModelRecord, index: int, *, rules: bool) -> str:
    return model.rules[index] if rules and index < len(model.rules) else str(index)
