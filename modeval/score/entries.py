"""Entries of a scorecard: a metric over seeds and seed by seed, over layers and layer by layer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modeval.metrics.table import metric_of
from modeval.score.amount import Amount
from modeval.score.chance import ChanceLevel
from modeval.score.estimates import (
    Null,
    Reduce,
    estimated,
    largest_layer,
    least_layer,
    mean_layer,
    one_layer,
    permuted,
    permuted_layers,
)
from modeval.score.inference.estimate import Estimate
from modeval.score.inference.multiple import holm
from modeval.score.inference.seeds import seed_mean
from modeval.score.measure import Measured
from modeval.score.scorecard import Over, Score, Seed

UNKNOWN = -math.inf, math.inf
NOT_FINITE = "not a finite number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The seeds of a model.

    Attributes:
        seeds: pair of task seed and model seed of each; nothing for a trace, which has none.
        faults: what is wrong with each; empty where nothing is.
        usable: numbers of those that were measured, in the order of the axis S.
    """

    seeds: tuple[Seed | None, ...] = (None,)
    faults: tuple[str, ...] = ("",)
    usable: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        usable = tuple(number for number, fault in enumerate(self.faults) if not fault)
        object.__setattr__(self, "usable", usable)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where in the layers a number is from.

    Attributes:
        layer: number of the layer; nothing where a model has one, and over layers.
        over: whether it is over layers, and how.
        reduce: makes one number of the layers.
    """

    layer: int | None
    over: Over | None
    reduce: Reduce


def entries(
    base: Score,
    measured: Measured,
    members: Members,
    *,
    levels: Sequence[ChanceLevel] = (),
    amount: Amount | None = None,
    samples: int | None = None,
) -> Iterator[Score]:
    """Return the scores of one metric.

    Over layers first (the mean, and the worst, where every layer has a number), then layer by
    layer; in each place over seeds first, then seed by seed. A trace has no seeds.

    Args:
        base: model, metric and direction, length and scale.
        measured: what was measured, ``(S, L)`` of the usable seeds.
        members: the seeds.
        levels: chance of each layer, where there is any.
        amount: samples of each seed and layer.
        samples: samples of all, where they are not in ``amount``.
    """
    nulls = _nulls(measured, members, base)
    corrected = _corrected(nulls, measured.value.shape[-1])
    layers = _layer_by_layer(measured, levels)
    for spot in _spots(measured, base):
        table = _Table(
            base, measured, members, tuple(levels), amount, samples, spot, corrected, layers, nulls
        )
        if members.seeds == (None,):
            yield _single(table, 0)
            continue
        yield _together(table)
        yield from (_single(table, number) for number in range(len(members.seeds)))


def _spots(measured: Measured, base: Score) -> Iterator[Spot]:
    value = measured.value
    known = value.isfinite().any(0)
    count = len(known)
    if count == 1:
        yield Spot(None, None, one_layer(0))
        return
    if bool(known.all()):
        higher = base.better == "higher"
        yield Spot(None, "mean", mean_layer)
        yield Spot(None, "worst", least_layer if higher else largest_layer)
    for index in range(count):
        if bool(known[index]):
            yield Spot(index, None, one_layer(index))


@dataclass(frozen=True, slots=True)
class _Table:
    """All that an entry is made of."""

    base: Score
    measured: Measured
    members: Members
    levels: tuple[ChanceLevel, ...]
    amount: Amount | None
    samples: int | None
    spot: Spot
    corrected: dict[int | None, Tensor]
    layers: list[list[Estimate | None]]
    nulls: dict[int | None, dict[int, Null]]

    @property
    def here(self) -> list[ChanceLevel]:
        """Return the chance levels of the layers that the spot is about."""
        if self.spot.over is None and self.spot.layer is not None:
            return [self.levels[self.spot.layer]] if self.levels else []
        return [*self.levels]

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the least and the largest value that there can be."""
        ends = [level.bounds for level in self.here] or [_any_size(self.base.metric)]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def estimate(self, index: int) -> tuple[Estimate, int | None]:
        """Return the number of one usable seed here, and the layer that it is of."""
        spot, layers = self.spot, self.layers[index]
        if spot.over == "mean":
            return self._mean(index), None
        if spot.over is None:
            found = layers[spot.layer or 0]
            return found or Estimate(value=math.nan, plugin=math.nan), spot.layer
        known = [(each, number) for number, each in enumerate(layers) if each is not None]
        sign = 1 if self.base.better == "higher" else -1
        return min(known, key=lambda pair: sign * pair[0].value)

    def _mean(self, index: int) -> Estimate:
        """Return the mean over layers: that of their numbers, each within its bounds."""
        estimate = estimated(self.measured, index, self.spot.reduce, self.bounds)
        values = [each.value for each in self.layers[index] if each is not None]
        value = math.fsum(values) / len(values)
        return replace(
            estimate,
            value=value,
            low=None if estimate.low is None else min(estimate.low, value),
            high=None if estimate.high is None else max(estimate.high, value),
        )


def _layer_by_layer(
    measured: Measured, levels: Sequence[ChanceLevel]
) -> list[list[Estimate | None]]:
    """Return the number of each usable seed and layer; nothing where there is none."""
    return [
        [
            estimated(
                measured, index, one_layer(layer), levels[layer].bounds if levels else UNKNOWN
            )
            if bool(measured.value[index, layer].isfinite())
            else None
            for layer in range(measured.value.shape[-1])
        ]
        for index in range(len(measured.value))
    ]


def _single(table: _Table, number: int) -> Score:
    """Return the entry of one seed, or of a trace."""
    members = table.members
    seed = members.seeds[number]
    base = replace(_placed(table), seed=seed)
    if members.faults[number]:
        return replace(base, note=members.faults[number], **_chance(table))
    index = members.usable.index(number)
    value = table.spot.reduce(table.measured.value[index])
    if not bool(value.isfinite()):
        return replace(base, note=NOT_FINITE, **_chance(table), **_samples(table, [index]))
    estimate, layer = table.estimate(index)
    beside = _chance(table, layer) | _samples(table, [index])
    return replace(
        base,
        layer=layer,
        value=estimate.value,
        plug_in=None if estimate.corrected is None else estimate.plugin,
        low=estimate.low,
        high=estimate.high,
        error=_finite(estimate.error),
        note=_joined(beside.pop("note", ""), estimate.reason and f"no interval: {estimate.reason}"),
        **beside,
        **_null(table, [index], number),
    )


def _together(table: _Table) -> Score:
    """Return the entry over seeds; of the worst layer, that whose mean over seeds is worst."""
    if table.spot.over == "worst":
        means = table.measured.value.nanmean(0)
        worst = int(means.argmin() if table.base.better == "higher" else means.argmax())
        spot = Spot(worst, None, one_layer(worst))
        whole = _together(replace(table, spot=spot))
        return replace(whole, over="worst", **_chance(table, worst))
    members, spot, measured = table.members, table.spot, table.measured
    values = spot.reduce(measured.value)
    good = [index for index in range(len(members.usable)) if bool(values[index].isfinite())]
    left_out = len(members.seeds) - len(good)
    base = replace(_placed(table), seeds=len(good), **_chance(table))
    lacking = f"{left_out} of {len(members.seeds)} seeds left out: not finite" if left_out else ""
    if not good:
        return replace(base, note=lacking)
    numbers = [members.usable[index] for index in good]
    errors = [_error(measured, index, spot.reduce) for index in good]
    known = [error for error in errors if error is not None]
    # All members see the same inputs, so their sampling errors do not average out.
    error = math.fsum(known) / len(known) if len(known) == len(good) else None
    estimate = seed_mean(
        [float(values[index]) for index in good],
        [seed[0] for number in numbers if (seed := members.seeds[number]) is not None],
        sampling_error=error,
    )
    beside = _samples(table, good)
    least, most = table.bounds  # no true mean lies beyond them, so nothing is covered less often
    return replace(
        base,
        value=estimate.value,
        low=None if estimate.low is None else max(estimate.low, min(least, estimate.value)),
        high=None if estimate.high is None else min(estimate.high, max(most, estimate.value)),
        error=error,
        note=_joined(
            lacking, beside.pop("note", ""), estimate.reason and f"no interval: {estimate.reason}"
        ),
        **beside,
        **_null(table, good, None),
    )


def _any_size(metric: str) -> tuple[float, float]:
    """Return the bounds of a metric that are the same for all sizes, as those of losses."""
    row = metric_of(metric)
    return row.bounds(1, 1) if row is not None and row.tells == "loss" else UNKNOWN


def _placed(table: _Table) -> Score:
    """Return the entry with its place alone."""
    return replace(table.base, layer=table.spot.layer, over=table.spot.over)


def _error(measured: Measured, index: int, reduce: Reduce) -> float | None:
    return None if measured.error is None else _finite(float(reduce(measured.error[index])))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


# --- beside a value ------------------------------------------------------------------------------


def _chance(table: _Table, worst: int | None = None) -> dict[str, Any]:
    """Return what uniform routing and routing by random maps score.

    The worst layer is held against the worst of as many random maps, in layers of its size.
    """
    here = table.here
    uniform = [level.uniform for level in here if level.uniform is not None]
    if not here or len(uniform) < len(here):
        return {}
    if table.spot.over == "worst" and worst is not None:
        alike = [level.hashed for level in here if level.bounds == here[worst].bounds]
        hashed = table.spot.reduce(torch.stack(alike, dim=-1))
        return {"chance": uniform[worst], "chance_hash": float(hashed.mean())}
    means = [float(level.hash_mean or 0.0) for level in here]
    return {
        "chance": math.fsum(uniform) / len(uniform),
        "chance_hash": math.fsum(means) / len(means),
    }


def _samples(table: _Table, places: Sequence[int]) -> dict[str, Any]:
    """Return the samples behind a number, and whether they are few."""
    amount = table.amount
    if amount is None:
        whole = None if table.samples is None else table.samples * len(places)
        return {"samples": whole}
    index = torch.tensor([*places])
    samples, few = amount.samples[index], amount.few[index]
    if table.spot.over is None:
        layer = table.spot.layer or 0
        samples, few = samples[:, layer : layer + 1], few[:, layer : layer + 1]
    if not bool(samples.isfinite().all()):
        return {"samples": None}
    marked = bool(few.any())
    note = _few_note(amount, places, table.spot) if marked else ""
    return {"samples": int(samples.amax(-1).sum()), "few_samples": marked, "note": note}


def _few_note(amount: Amount, places: Sequence[int], spot: Spot) -> str:
    if spot.over is not None:
        layers = int(amount.few[torch.tensor([*places])].any(0).sum())
        return f"few samples in {layers} of {amount.few.shape[1]} layers"
    layer = spot.layer or 0
    worth = float(amount.worth[torch.tensor([*places]), layer].min())
    return (
        f"few samples: worth {worth:.0f} independent ones, and "
        f"{float(amount.wanted[layer]):.0f} are wanted for so many rules and modules"
    )


def _null(table: _Table, places: Sequence[int], member: int | None) -> dict[str, Any]:
    if table.spot.over is None:
        null = table.nulls.get(member, {}).get(table.spot.layer or 0)
    else:
        null = permuted(
            table.measured, places, table.spot.reduce, better=_direction(table.base, table.measured)
        )
    if null is None:
        return {}
    adjusted = null.p_value
    if table.spot.over is None and member in table.corrected:
        adjusted = float(table.corrected[member][table.spot.layer or 0])
    return {
        "chance_permuted": null.mean,
        "null_low": null.low,
        "null_high": null.high,
        "p_value": null.p_value,
        "p_adjusted": adjusted,
    }


def _nulls(measured: Measured, members: Members, base: Score) -> dict[int | None, dict[int, Null]]:
    """Return what permuted labels give in each layer, of each seed and over seeds."""
    direction = _direction(base, measured)
    groups: dict[int | None, list[int]] = {
        number: [index] for index, number in enumerate(members.usable)
    }
    if members.seeds != (None,):
        groups[None] = [
            index
            for index in range(len(members.usable))
            if bool(measured.value[index].isfinite().any())
        ]
    return {
        member: permuted_layers(measured, places, better=direction)
        for member, places in groups.items()
    }


def _direction(base: Score, measured: Measured) -> str | None:
    """Return in which direction a value is told from what permuted labels give."""
    return "higher" if measured.beyond else base.better


def _corrected(nulls: dict[int | None, dict[int, Null]], layers: int) -> dict[int | None, Tensor]:
    """Return p values corrected over the layers, of each seed and over seeds."""
    found = {}
    for member, own in nulls.items():
        if own:
            adjusted = torch.ones(layers, dtype=torch.float64)
            p = torch.tensor([null.p_value for null in own.values()], dtype=torch.float64)
            adjusted[[*own]] = holm(p)
            found[member] = adjusted
    return found
