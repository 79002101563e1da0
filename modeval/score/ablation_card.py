"""What removing modules did, as a scorecard: so that gates, comparisons and reports can read it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version

import numpy as np

from modeval.metrics.losses import LOSSES
from modeval.metrics.removal_rows import kept_name
from modeval.score.ablation import Ablation, Change, Foresight, RandomSets
from modeval.score.scorecard import (
    Activation,
    Effect,
    Member,
    ModelRecord,
    Score,
    Scorecard,
)

ENDS = (0.025, 0.975)
RANDOM = "Beside it stand random keep-sets of the same size: their mean as chance."
TASK = "ablation"
"""What a record says that it is of."""


def ablation_card(found: Ablation, source: str = "") -> Scorecard:
    """Return the scorecard of an ablation.

    The change of the loss with each keep-set, of all tokens and of the label that it costs most,
    stands beside random keep-sets: their mean as chance, the middle 95 % of them, and p. The share
    that is enough stands beside the share that random ones would need.

    Args:
        found: what :func:`modeval.ablate` found.
        source: where it was read.
    """
    record = _record(found, source)
    return Scorecard(
        modeval=version("modeval-cli"),
        notes=tuple(f"{found.model}: {note}" for note in found.notes),
        models=(record,),
        scores=tuple(_scores(found)),
        activations=tuple(_use(found)) if found.alone else (),
        effects=tuple(_need(found)),
        ablations=(found,),
    )


def _record(found: Ablation, source: str) -> ModelRecord:
    random = max((len(each.changes) for each in found.random), default=0)
    layers: dict[str, tuple[str, ...]] = {"layers": found.layers} if len(found.layers) > 1 else {}
    what = [found.model, found.layers, found.modules, found.choices, found.labels]
    return ModelRecord(
        id=found.model,
        title=found.model,
        origin="trace",
        selection=None,
        data={
            "task": TASK,
            "documents": sum(found.documents),
            "tokens": sum(found.tokens),
            "removal": found.removal,
            "within": found.within,
            "random_sets": random,
            "texts": found.texts or None,
        },
        model={"model": found.model, "choices": [*found.choices]},
        digest=hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16],
        modules=max(found.modules),
        rules=found.labels,
        layer_modules=found.modules,
        prior="empirical",
        members=(Member(seed=None, source=source),),
        **layers,  # type: ignore[arg-type]
    )


# --- scores --------------------------------------------------------------------------------------


def _scores(found: Ablation) -> Iterator[Score]:
    tokens = sum(found.tokens)
    yield _score(found, "token_loss", found.loss, tokens)
    if found.kept:
        yield from _shares(found)
    null = {each.share: each for each in found.random}
    for kept in found.kept:
        random = null[kept.share]
        name = kept_name(kept.share, kept.score)
        yield _score(found, name, kept.change, tokens, random.changes, p=kept.p, note=RANDOM)
        worst = max(range(len(found.labels)), key=lambda label: kept.by_label[label].value)
        yield _score(
            found,
            kept_name(kept.share, kept.score, worst=True),
            kept.by_label[worst],
            found.tokens[worst],
            _worst_of(random),
            note=f"The label is {found.labels[worst]}. {RANDOM}",
        )
    for each in found.foresight:
        yield _foreseen(found, each, tokens)


def _score(
    found: Ablation,
    metric: str,
    change: Change,
    tokens: int,
    random: Sequence[float] = (),
    *,
    p: float | None = None,
    note: str = "",
) -> Score:
    low, high = np.quantile(random, ENDS).tolist() if random else (None, None)
    return Score(
        model=found.model,
        metric=metric,
        value=change.value,
        low=change.low,
        high=change.high,
        chance=float(np.mean(random)) if random else None,
        null_low=low,
        null_high=high,
        p_value=p,
        samples=tokens,
        note=note,
    )


def _worst_of(random: RandomSets) -> tuple[float, ...]:
    """Return what each random set does to the label that it costs most."""
    return tuple(max(each) for each in zip(*random.by_label, strict=True))


def _shares(found: Ablation) -> Iterator[Score]:
    """Return the share that is enough, surely and as measured, beside that of random keep-sets."""
    random = _enough(
        {each.share: [float(np.mean(label)) for label in each.by_label] for each in found.random},
        found.within,
    )
    for name, best in (
        ("safe_share", min(found.safe, key=lambda each: each.sure)),
        ("enough_share", min(found.safe, key=lambda each: each.measured)),
    ):
        value = best.sure if name == "safe_share" else best.measured
        yield Score(
            model=found.model,
            metric=name,
            value=value,
            chance=random,
            samples=sum(found.tokens),
            note=f"By {best.score}, within {found.within:g} nats a token." if value < 1 else "",
        )


def _enough(changes: Mapping[float, Iterable[float]], within: float) -> float:
    smallest = 1.0
    for share in sorted(changes, reverse=True):
        if max(changes[share]) > within:
            break
        smallest = share
    return smallest


def _foreseen(found: Ablation, each: Foresight, tokens: int) -> Score:
    kind = "" if each.of == "random sets" else "alone_"
    name = f"foresight_{kind}{each.score}"
    return Score(
        model=found.model,
        metric=name,
        value=each.correlation,
        chance=0.0,
        p_value=each.p,
        better="higher" if LOSSES[name].better == "higher" else "lower",
        samples=tokens,
    )


# --- matrices ------------------------------------------------------------------------------------


def _layer(found: Ablation, number: int) -> int | None:
    return number if len(found.layers) > 1 else None


def _use(found: Ablation) -> Iterator[Activation]:
    """Return which share of the choices of each label falls on each module, layer by layer."""
    prior = np.array(found.tokens, dtype=np.float64) / max(sum(found.tokens), 1)
    for number, routed in enumerate(found.routed):
        table = np.array(routed, dtype=np.float64)
        total = table.sum(1, keepdims=True)
        share = np.where(total > 0, table / np.maximum(total, 1), 1 / table.shape[1])
        yield Activation(
            model=found.model,
            layer=_layer(found, number),
            matrix=tuple(map(tuple, share.tolist())),
            prior=tuple(prior.tolist()),
        )


def _need(found: Ablation) -> Iterator[Effect]:
    """Return what removing each module alone costs each label, where all of a layer were removed.

    A cost is none up to half the width of its interval.
    """
    for number, modules in enumerate(found.modules):
        alone = {one.module: one.by_label for one in found.alone if one.layer == number}
        if len(alone) < modules:
            continue
        costs = [[alone[module][label] for module in range(modules)] for label in _labels(found)]
        need = np.array([[cost.value for cost in row] for row in costs])
        floor = np.array([[_reach(cost) for cost in row] for row in costs])
        there = np.where(need > floor, need.clip(min=0), 0.0)
        total = there.sum(1, keepdims=True)
        share = np.where(total > 0, there / np.where(total > 0, total, 1.0), 1 / modules)
        yield Effect(
            model=found.model,
            layer=_layer(found, number),
            intact=tuple(each.value for each in found.by_label),
            necessity=tuple(map(tuple, need.tolist())),
            silenced=(),
            sufficiency=(),
            floor=tuple(map(tuple, floor.tolist())),
            needed=tuple(map(tuple, share.tolist())),
            samples=sum(found.tokens),
        )


def _labels(found: Ablation) -> range:
    return range(len(found.labels))


def _reach(cost: Change) -> float:
    """Return how far a cost may be off; all of it where nothing tells."""
    return abs(cost.value) if cost.high is None else cost.high - cost.value
