"""One number out of what was measured of seeds and layers, and how sure it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.score.inference.documents import estimate
from modeval.score.inference.draws import Tail, middle, p_value
from modeval.score.inference.estimate import Estimate
from modeval.score.measure import Measured

Reduce = Callable[[Float64[Tensor, "*batch layers"]], Float64[Tensor, "*batch"]]
"""What makes one number of the layers: one of them, their mean, the worst."""


def one_layer(index: int) -> Reduce:
    """Return what picks a layer."""
    return lambda values: values[..., index]


def mean_layer(values: Tensor) -> Tensor:
    """Return the mean over layers."""
    return values.mean(-1)


def least_layer(values: Tensor) -> Tensor:
    """Return the smallest value of any layer."""
    return values.amin(-1)


def largest_layer(values: Tensor) -> Tensor:
    """Return the largest value of any layer."""
    return values.amax(-1)


def estimated(
    measured: Measured, seed: int, reduce: Reduce, bounds: tuple[float, float]
) -> Estimate:
    """Return a metric of one seed, layers reduced to one number, with how sure it is.

    Where documents are known the value is corrected for the bias of few of them and has an
    interval; where samples were drawn anew their error is known; else the number stands alone.
    """
    value = float(reduce(measured.value[seed]))
    if measured.left is not None:
        left = measured.left.over(lambda values: reduce(values[..., seed, :]))
        if not bool(left.left.isfinite().all()):
            reason = "layers do not all have the same documents"
            return Estimate(value=value, plugin=value, reason=reason)
        return estimate(left, bounds)
    error = None if measured.error is None else float(reduce(measured.error[seed]))
    return Estimate(value=value, plugin=value, error=error)


@dataclass(frozen=True, slots=True)
class Null:
    """What permuted labels give.

    Attributes:
        mean: the mean.
        low: 2.5 % point.
        high: 97.5 % point.
        p_value: one-sided p that they do as well.
    """

    mean: float
    low: float
    high: float
    p_value: float


def permuted(
    measured: Measured, seeds: Sequence[int], reduce: Reduce, *, better: str | None
) -> Null | None:
    """Return what permuted labels give of the mean over some seeds; nothing where untested."""
    if measured.null is None or not seeds:
        return None
    index = torch.tensor([*seeds])
    draws = reduce(measured.null[:, index]).mean(-1)
    return _null_of(reduce(measured.value[index]).mean(-1), draws, better)


def permuted_layers(
    measured: Measured, seeds: Sequence[int], *, better: str | None
) -> dict[int, Null]:
    """Return what permuted labels give of the mean over some seeds in each layer, where tested.

    The same as :func:`permuted` of one layer after another, which would take all layers out anew
    for each of them.
    """
    if measured.null is None or not seeds:
        return {}
    index = torch.tensor([*seeds])
    draws, observed = measured.null[:, index], measured.value[index]
    return {
        layer: null
        for layer in range(observed.shape[-1])
        if (null := _null_of(observed[..., layer].mean(-1), draws[..., layer].mean(-1), better))
    }


def _null_of(observed: Tensor, draws: Tensor, better: str | None) -> Null | None:
    if not bool(torch.isfinite(draws).all()):
        return None
    low, high = middle(draws)
    tail: Tail = "greater" if better == "higher" else "less"
    return Null(
        mean=float(draws.mean()),
        low=float(low),
        high=float(high),
        p_value=float(p_value(observed, draws, tail=tail)),
    )


def scaled(found: Estimate, factor: float) -> Estimate:
    """Return an estimate in another unit."""

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return replace(
        found,
        value=found.value * factor,
        plugin=found.plugin * factor,
        corrected=times(found.corrected),
        low=times(found.low),
        high=times(found.high),
        error=times(found.error),
    )
