"""Counts of routing that grow where the model runs: no number is fetched while it runs.

The sums of :func:`modeval.counting.count.count_choices`, of all layers of a device at once and
without its checks, which would have to wait for the device. Numbers out of range are counted, and
refused when the counts are read.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from modeval.types import RoutingCounts

PAIRS = 4  # up to so many choices, counting pairs costs less than a product of marks


@dataclass(frozen=True, slots=True)
class Tally:
    """Running tables of layers with the same number of modules, on one device.

    Row B R and column 0 take what counts nowhere.

    Attributes:
        layers: numbers of the layers, in order.
        selections: ``(L, B R + 1, M + 1)``; likewise ``mass``.
        samples: ``(L, B R + 1)``; likewise ``entropy`` and ``selection_entropy``.
        coactivation: ``(L, M + 1, M + 1)``.
        strange: ``(L,)`` choices that are no number of a module.
    """

    layers: tuple[int, ...]
    mass: Float64[Tensor, "layers cells columns"]
    selections: Float64[Tensor, "layers cells columns"]
    samples: Float64[Tensor, "layers cells"]
    entropy: Float64[Tensor, "layers cells"]
    selection_entropy: Float64[Tensor, "layers cells"]
    coactivation: Float64[Tensor, "layers columns columns"]
    strange: Float64[Tensor, " layers"]

    @classmethod
    def zeros(
        cls, layers: tuple[int, ...], cells: int, modules: int, device: torch.device
    ) -> "Tally":
        """Return tables of nothing for ``cells`` pairs of block and rule."""

        def empty(*shape: int) -> Tensor:
            return torch.zeros(len(layers), *shape, dtype=torch.float64, device=device)

        return cls(
            layers=layers,
            mass=empty(cells + 1, modules + 1),
            selections=empty(cells + 1, modules + 1),
            samples=empty(cells + 1),
            entropy=empty(cells + 1),
            selection_entropy=empty(cells + 1),
            coactivation=empty(modules + 1, modules + 1),
            strange=empty(),
        )


def add_choices(
    tally: Tally,
    layers: list[int],
    cell: Int64[Tensor, " rows"],
    chosen: Int32[Tensor, "some rows choices"],
    weight: Float32[Tensor, "some rows choices"] | None,
    *,
    pairs: bool = True,
) -> None:
    """Add the choices of some layers (numbers into ``tally.layers``) for the same rows.

    Pairs of modules that were chosen together are counted unless said otherwise.
    """
    _, cells, width = tally.selections.shape
    numbers = torch.tensor(layers, device=cell.device)
    bad = (chosen < -1) | (chosen >= width - 1)
    tally.strange.index_add_(0, numbers, bad.sum((1, 2)).double())
    picks = (torch.where(bad, -1, chosen) + 1).long()
    row = numbers[:, None] * cells + cell
    index = row[..., None] * width + picks
    one = torch.ones(1, dtype=torch.float64, device=cell.device)
    _scatter(tally.selections, index, one.expand(index.shape))
    _scatter(tally.samples, row, one.expand(row.shape))
    taken = picks > 0
    spread = taken.sum(-1).clamp(min=1).double().log()
    _scatter(tally.selection_entropy, row, spread)
    share = _shares(taken, weight)
    _scatter(tally.mass, index, share)
    _scatter(tally.entropy, row, torch.special.entr(share).sum(-1))
    if not pairs:
        return
    inside = (cell < cells - 1)[:, None]
    for position, layer in enumerate(layers):
        _add_pairs(tally.coactivation[layer], torch.where(inside, picks[position], 0))


def normalise(
    chosen: Int32[Tensor, "rows choices"], weight: Float32[Tensor, "rows choices"] | None
) -> tuple[Int32[Tensor, "rows choices"], Float32[Tensor, "rows choices"] | None]:
    """Return the choices, and their weights divided by their sum for each row."""
    if weight is None:
        return chosen, None
    return chosen, _shares(chosen >= 0, weight).float()


def _shares(taken: Tensor, weight: Tensor | None) -> Float64[Tensor, "*rows choices"]:
    """Divide each row's weights by their sum; without weights, each choice counts the same."""
    given = taken.double() if weight is None else weight.double().clamp(min=0)
    given = torch.where(taken, given, 0.0)
    whole = given.sum(-1, keepdim=True)
    return given / torch.where(whole == 0, 1.0, whole)


def _add_pairs(table: Tensor, picks: Int64[Tensor, "rows choices"]) -> None:
    """Count each pair of different choices of a row once, in either order of the pair."""
    width, choices = table.shape[-1], picks.shape[-1]
    if choices <= PAIRS:
        one = torch.ones(1, dtype=torch.float64, device=picks.device)
        for gap in range(1, choices):
            pair = picks[:, :-gap] * width + picks[:, gap:]
            _scatter(table, pair, one.expand(pair.shape))
        return
    marks = torch.zeros(picks.shape[0], width, device=picks.device)
    marks.scatter_(1, picks, 1.0)
    table.add_((marks.T @ marks).triu(1))


def _scatter(table: Tensor, index: Tensor, values: Tensor) -> None:
    table.view(-1).scatter_add_(0, index.reshape(-1), values.reshape(-1))


def counts_of(tally: Tally, blocks: int, rules: int) -> RoutingCounts:
    """Return the counts of the layers of a tally, as a batch axis."""
    layers = len(tally.layers)

    def table(rows: Tensor) -> Tensor:
        return rows[:, :-1, 1:].reshape(layers, blocks, rules, -1).clone()

    def column(values: Tensor) -> Tensor:
        return values[:, :-1].reshape(layers, blocks, rules).clone()

    selections = table(tally.selections)
    pairs = tally.coactivation[:, 1:, 1:].triu(1) + tally.coactivation[:, 1:, 1:].tril(-1).mT
    return RoutingCounts(
        mass=table(tally.mass),
        selections=selections,
        samples=column(tally.samples),
        entropy=column(tally.entropy),
        selection_entropy=column(tally.selection_entropy),
        coactivation=pairs + pairs.mT + torch.diag_embed(selections.sum((1, 2))),
    )
