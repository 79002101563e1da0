"""Matrices and curves of what modules do, for scorecards."""

from collections.abc import Iterator

import torch
from torch import Tensor

from modeval.metrics.causal import needed
from modeval.score.entries import Members
from modeval.score.scorecard import Effect, Removal, Seed
from modeval.score.subjects import Interventions

ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)
"""Of the losses of random orders, what their ends are."""
Matrix = tuple[tuple[float, ...], ...]


def effects(model: str, found: Interventions, members: Members) -> Iterator[Effect]:
    """Return what switching each module off does to each rule, seed by seed and layer by layer."""
    need, floor = found.necessity.cpu(), found.floor.cpu()
    for number, layer, place, seed in _spots(found, members):
        share, _ = needed(need[number, place], floor[number, place])
        whole = [found.silenced, found.sufficiency, found.intact]
        if not all(bool(each[number].isfinite().all()) for each in (need, *whole)):
            continue
        sampled = found.shapley is not None and found.shapley_error is not None
        yield Effect(
            model=model,
            layer=layer,
            seed=seed,
            intact=tuple(found.intact[number].tolist()),
            necessity=_rows(need[number, place]),
            silenced=_rows(found.silenced[number, place]),
            sufficiency=_rows(found.sufficiency[number, place]),
            floor=_rows(floor[number, place]),
            needed=_rows(share),
            shapley=_rows(found.shapley[number, place]) if sampled else (),  # type: ignore[index]
            shapley_error=_rows(found.shapley_error[number, place]) if sampled else (),  # type: ignore[index]
            samples=found.samples,
        )


def removals(model: str, found: Interventions, members: Members) -> Iterator[Removal]:
    """Return the loss while modules go, seed by seed and layer by layer."""
    curves = found.curves
    for number, layer, place, seed in _spots(found, members):
        random, by_use = curves.random[:, number, place], curves.by_use[number, place]
        if not bool(random.isfinite().all() & by_use.isfinite().all()):
            continue
        low, high = random.quantile(ENDS, dim=0)
        yield Removal(
            model=model,
            layer=layer,
            seed=seed,
            removed=curves.removed,
            by_use=tuple(by_use.tolist()),
            random=tuple(random.mean(0).tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            orders=len(random),
        )


def _spots(
    found: Interventions, members: Members
) -> Iterator[tuple[int, int | None, int, Seed | None]]:
    """Iterate over usable seeds and layers: number, layer as entries name it, place, seed."""
    layers = found.necessity.shape[1]
    for number in members.usable:
        for place in range(layers):
            yield number, place if layers > 1 else None, place, members.seeds[number]


def _rows(matrix: Tensor) -> Matrix:
    return tuple(tuple(row) for row in matrix.tolist())
