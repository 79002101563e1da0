"""Counting the rows of a trace with PyTorch: where there is no kernel, and for short traces.

The same sums as :mod:`modeval.counting`, into tables that stay in place: rows arrive with their
layers mixed, a few thousand of each layer at a time, and making and adding new tables for each
would cost more than the rows themselves.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeval.errors import TraceError
from modeval.trace.trace import TraceHeader, check_range

MARKED_ROWS = 1 << 15
NO_SHARES = (
    "A routing weight is negative or not a number: expected shares. If these are the scores of the "
    'selection, the header must say "weight_scale": "selection score".'
)


def count_rows(
    columns_read: Iterable[dict[str, NDArray[Any]]],
    header: TraceHeader,
    cells: int,
    *,
    weighted: bool,
) -> list[dict[str, Tensor]]:
    """Return the tensors of RoutingCounts for each layer, cells as the first axis.

    Args:
        columns_read: columns of some rows, again and again, ``cell`` among them: the number of the
            (block, rule), or ``cells`` for rows that count nowhere.
        header: of the trace.
        cells: number of (block, rule).
        weighted: whether the columns have weights that count.

    Raises:
        TraceError: a number is out of range, or a weight is no share.
    """
    sums = [
        _Sums.zeros(modules, cells, choices, weighted=weighted)
        for modules, choices in zip(header.modules, header.choices, strict=True)
    ]
    with _workers() as pool:
        for columns in columns_read:
            _add_rows(sums, columns, pool)
    return [_parts(entry) for entry in sums]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Running tables of one layer. Row B R and column 0 take what counts nowhere.

    Attributes:
        mass: ``(B R + 1, M + 1)`` weights; without weights, what differs from 1/K each.
        selections: ``(B R + 1, M + 1)``.
        samples, entropy: ``(B R + 1,)``.
        selection_entropy: ``(B R + 1,)`` what differs from log K each.
        coactivation: ``(M, M)`` pairs of different modules, each counted in one of its two cells.
        choices: K.
        weighted: whether weights are added up, or each choice counts 1/K.
    """

    mass: Tensor
    selections: Tensor
    samples: Tensor
    entropy: Tensor
    selection_entropy: Tensor
    coactivation: Tensor
    choices: int
    weighted: bool

    @classmethod
    def zeros(cls, modules: int, cells: int, choices: int, *, weighted: bool) -> "_Sums":
        def empty(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        width = modules + 1
        return cls(
            mass=empty(cells + 1, width),
            selections=empty(cells + 1, width),
            samples=empty(cells + 1),
            entropy=empty(cells + 1),
            selection_entropy=empty(cells + 1),
            coactivation=empty(modules, modules),
            choices=choices,
            weighted=weighted,
        )


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Yield as many threads as torch would use, each of which runs torch alone.

    The slices of one layer are too small to share out, and layers have nothing in common: a
    thread for each layer takes a tenth of the time of all threads for each operation.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _add_rows(
    sums: list[_Sums], columns: dict[str, NDArray[Any]], pool: ThreadPoolExecutor
) -> None:
    layer = columns["layer"]
    check_range("layer", layer, 0, len(sums))
    starts = run_starts(layer)
    if len(starts) > len(np.unique(layer[starts])):  # bring the rows of each layer together
        order = np.argsort(layer, kind="stable")
        columns = {name: column.take(order, axis=0) for name, column in columns.items()}
        layer = columns["layer"]
        starts = run_starts(layer)
    runs = zip(starts, np.append(starts[1:], len(layer)), strict=True)
    work = [(sums[layer[start]], columns, slice(start, end)) for start, end in runs]
    for _ in pool.map(_add_layer, *zip(*work, strict=True)):
        pass  # waits, and raises what a thread raised


def run_starts(column: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rows at which a column takes another value than the row before."""
    if not len(column):
        return np.zeros(0, dtype=np.int64)
    return np.append(0, np.flatnonzero(column[1:] != column[:-1]) + 1)


def _add_layer(sums: _Sums, columns: dict[str, NDArray[Any]], rows: slice) -> None:
    chosen, cell = columns["chosen"][rows], columns["cell"][rows]
    width = sums.selections.shape[1]
    check_range("chosen", chosen, -1, width - 1)
    picks, where = torch.from_numpy(chosen + np.int16(1)), torch.from_numpy(cell)
    index = (where * width).unsqueeze(1) + picks
    _scatter(sums.selections, index, torch.ones(1, dtype=torch.float64).expand(index.numel()))
    _scatter(sums.samples, where, torch.ones(1, dtype=torch.float64).expand(len(where)))
    uneven = bool((chosen[:, : sums.choices] < 0).any())
    taken = (picks > 0).sum(1, keepdim=True) if uneven else None
    if taken is not None:
        spread = taken.clamp(min=1).double().log() - np.log(sums.choices)
        _scatter(sums.selection_entropy, where, spread)
    if sums.weighted:
        weight = _readable(columns["weight"][rows])
        _add_weights(sums, where, index, weight.masked_fill(picks == 0, 0.0) if uneven else weight)
    elif taken is not None:
        share = 1 / taken.clamp(min=1).double() - 1 / sums.choices
        _scatter(sums.mass, index, share.expand(index.shape))
    _add_pairs(sums, cell == sums.samples.shape[0] - 1, chosen)


def _add_weights(sums: _Sums, where: Tensor, index: Tensor, weight: Tensor) -> None:
    weight = weight.double()
    ones = weight.new_ones(weight.shape[1])
    total = (weight @ ones).unsqueeze(1)  # far quicker than a sum over so short an axis
    if not (bool(weight.min() >= 0) and bool(total.max() < torch.inf)):
        raise TraceError(NO_SHARES)
    total = torch.where(total > 0, total, 1.0)
    share = weight / total
    logs = share.clamp_min(torch.finfo(share.dtype).tiny).log().mul_(share)
    _scatter(sums.mass, index, share)
    _scatter(sums.entropy, where, -(logs @ ones))


def _add_pairs(sums: _Sums, left_out: NDArray[np.bool_], chosen: NDArray[np.int16]) -> None:
    """Count pairs of choices, by whichever of two exact ways costs less."""
    modules, choices = sums.coactivation.shape[0], chosen.shape[1]
    if choices == 1:
        return  # the diagonal is all there is, and selections hold it
    by_rank = np.array(chosen.T, order="C")  # a copy, always: what Parquet lends is read-only
    if left_out.any():
        by_rank[:, left_out] = -1
    words = -(-modules // 64)
    if 1.75 * choices * (choices - 1) < words * (10 + 1.5 * choices + 25 * words):  # nanoseconds
        _add_pairs_one_by_one(sums, by_rank)
        return
    for start in range(0, by_rank.shape[1], MARKED_ROWS):
        marks = _marks(by_rank[:, start : start + MARKED_ROWS], modules)
        both = torch._int_mm(marks.T, marks)  # noqa: SLF001 - the one integer product on a CPU
        sums.coactivation.add_(both[:modules, :modules].triu(1))


def _add_pairs_one_by_one(sums: _Sums, by_rank: NDArray[np.int16]) -> None:
    width = sums.coactivation.shape[0] + 1
    picks = torch.from_numpy(by_rank).int() + 1
    total = torch.zeros(width * width, dtype=torch.int64)
    for gap in range(1, len(by_rank)):
        pair = picks[:-gap] * width + picks[gap:]
        total += torch.bincount(pair.view(-1), minlength=total.numel())
    sums.coactivation.add_(total.view(width, width)[1:, 1:])


def _marks(by_rank: NDArray[np.int16], modules: int) -> Tensor:
    """Mark the modules of each row with 1: ``(N, M or a little more)`` bytes.

    Through one bit for each module, 64 at a time, which is half the work of writing bytes.
    """
    words = -(-modules // 64)
    bits = np.zeros((by_rank.shape[1], words), dtype="<u8")
    for word in range(words):
        for choice in by_rank:
            # What is below or above this word wraps to 64 or more, and shifts out of it.
            bits[:, word] |= np.left_shift(np.uint64(1), (choice - 64 * word).astype(np.uint64))
    flags = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return torch.from_numpy(flags).view(torch.int8)


def _readable(column: NDArray[Any]) -> Tensor:
    """Return a tensor of a column that Parquet may have lent read-only."""
    return torch.from_numpy(column if column.flags.writeable else column.copy())


def _scatter(table: Tensor, index: Tensor, values: Tensor) -> None:
    table.view(-1).scatter_add_(0, index.reshape(-1), values.reshape(-1).double())


def _parts(sums: _Sums) -> dict[str, Tensor]:
    samples, selections = sums.samples[:-1], sums.selections[:-1, 1:]
    spread = sums.selection_entropy[:-1] + samples * np.log(max(sums.choices, 1))
    mass, pairs = sums.mass[:-1, 1:], sums.coactivation
    return {
        "mass": mass if sums.weighted else mass + selections / max(sums.choices, 1),
        "selections": selections,
        "samples": samples,
        "entropy": sums.entropy[:-1] if sums.weighted else spread.clone(),
        "selection_entropy": spread,
        "coactivation": pairs + pairs.T + torch.diag(selections.sum(0)),
    }
