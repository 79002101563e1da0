"""From a trace to its routing counts: one pass, memory that does not grow with the trace.

The same sums as :meth:`modeval.types.RoutingCounts.of_choices`, into tables that stay in place:
rows arrive with their layers mixed, a few thousand of each layer at a time, and making and adding
new tables for each would cost more than the rows themselves.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from modeval.errors import TraceError
from modeval.trace.files import Trace, open_trace, read_columns
from modeval.trace.trace import PHASES, TraceHeader, check_range
from modeval.types import RoutingCounts

BLOCKS = 64
MARKED_ROWS = 1 << 15
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Counts of the layers that have the same number of modules.

    Attributes:
        layers: numbers of the layers in the header, in order.
        counts: ``(L, B, R, M)`` and so on, one entry of the batch axis for each of them.
    """

    layers: tuple[int, ...]
    counts: RoutingCounts


def fold(
    trace: Trace | Path | str, *, blocks: int = BLOCKS, phase: str | None = None
) -> RoutingCounts:
    """Return the counts of a trace, layers as the batch axis ``(L, ...)``.

    Rows without a label count nowhere; a trace without any labels counts as one rule. Documents
    go to ``blocks`` replicate blocks by :func:`document_block`. Weights are divided by their sum
    for each row; without weights, or when they are selection scores, each chosen module gets 1/K.

    Args:
        trace: an open trace, or its folder.
        blocks: number of replicate blocks B.
        phase: count only rows of this phase: ``prefill``, ``decode`` or ``train``.

    Raises:
        TraceError: layers differ in their number of modules (use :func:`fold_groups`), nothing
            was counted, or a file is damaged.
    """
    groups = fold_groups(trace, blocks=blocks, phase=phase)
    if len(groups) > 1:
        sizes = ", ".join(str(group.counts.mass.shape[-1]) for group in groups)
        raise TraceError(
            f"Layers have different numbers of modules ({sizes}), so their counts are no one "
            "table. Use fold_groups, which gives one for each number of modules."
        )
    return groups[0].counts


def fold_groups(
    trace: Trace | Path | str, *, blocks: int = BLOCKS, phase: str | None = None
) -> tuple[LayerGroup, ...]:
    """Return the counts of a trace, one entry for each number of modules that layers have.

    See :func:`fold`, which is this for models whose layers are all alike.
    """
    opened = trace if isinstance(trace, Trace) else open_trace(trace)
    header = opened.header
    code = _phase_code(phase)
    columns_read = columns_to_fold(header) if code is None else (*columns_to_fold(header), "phase")
    cells = blocks * max(len(header.labels), 1)
    sums = [
        _Sums.zeros(modules, cells, choices, weighted="weight" in columns_read)
        for modules, choices in zip(header.modules, header.choices, strict=True)
    ]
    try:
        with _workers() as pool:
            for columns in _ahead(read_columns(opened, columns_read)):
                _add_rows(sums, header, columns, blocks, code, pool)
    except TraceError as error:
        raise TraceError(f"{opened.path}: {error}") from None
    return _group(sums, blocks, max(len(header.labels), 1))


def columns_to_fold(header: TraceHeader) -> tuple[str, ...]:
    """Return the columns that :func:`fold` reads; weights only when they are shares."""
    shares = header.weight_scale in ("probability", "renormalised")
    return ("document", "label", "layer", "chosen", *(("weight",) if shares else ()))


def document_block(document: Int64[Tensor, " rows"], blocks: int) -> Int64[Tensor, " rows"]:
    """Return the replicate block, 0 to B - 1, of each document: a hash, so no order shows in it.

    Every row of a document is in one block, in every trace and process. Rows whose document is
    unknown (-1) are all in block 0: nothing says that any two of them are independent.

    >>> document_block(torch.tensor([0, 1, 2, 3, -1]), 64).tolist()
    [23, 32, 39, 54, 0]
    """
    state = document + _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shift(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift(state, 27)) * _signed(0x94D049BB133111EB)
    return torch.where(document < 0, 0, _shift(state ^ _shift(state, 31), 1) % blocks)


def _signed(number: int) -> int:
    """Return the 64 bits of a number as a signed integer, the only kind that every device has."""
    return number - (1 << 64)


def _shift(state: Tensor, bits: int) -> Tensor:
    return (state >> bits) & ((1 << (64 - bits)) - 1)


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


def _ahead(items: Iterator[Item]) -> Iterable[Item]:
    """Yield the items, the next one being made in another thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


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


def _phase_code(phase: str | None) -> int | None:
    if phase is None:
        return None
    if phase not in PHASES:
        raise TraceError(f"No phase is named {phase!r}: expected {', '.join(PHASES)}.")
    return PHASES.index(phase)


def _add_rows(  # noqa: PLR0917 - one step of fold_groups, cut out to fit a glance
    sums: list[_Sums],
    header: TraceHeader,
    columns: dict[str, NDArray[Any]],
    blocks: int,
    phase: int | None,
    pool: ThreadPoolExecutor,
) -> None:
    layer = columns["layer"]
    check_range("layer", layer, 0, len(sums))
    columns = columns | {"cell": _cells(columns, blocks, len(header.labels), phase)}
    starts = _run_starts(layer)
    if len(starts) > len(np.unique(layer[starts])):  # bring the rows of each layer together
        order = np.argsort(layer, kind="stable")
        columns = {name: column.take(order, axis=0) for name, column in columns.items()}
        layer = columns["layer"]
        starts = _run_starts(layer)
    runs = zip(starts, np.append(starts[1:], len(layer)), strict=True)
    work = [(sums[layer[start]], columns, slice(start, end)) for start, end in runs]
    for _ in pool.map(_add_layer, *zip(*work, strict=True)):
        pass  # waits, and raises what a thread raised


def _run_starts(column: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rows at which a column takes another value than the row before."""
    if not len(column):
        return np.zeros(0, dtype=np.int64)
    return np.append(0, np.flatnonzero(column[1:] != column[:-1]) + 1)


def _cells(
    columns: dict[str, NDArray[Any]], blocks: int, labels: int, phase: int | None
) -> NDArray[np.int64]:
    """Number the (block, rule) of each row from 0 to B R - 1; rows left out get B R."""
    label, rules = columns["label"], max(labels, 1)
    check_range("label", label, -1, labels)
    block = _blocks(columns["document"], blocks)
    left_out = (label < 0) if labels else np.zeros(len(label), dtype=bool)
    if phase is not None:
        left_out |= columns["phase"] != phase
    cell: NDArray[np.int64] = block * rules + np.maximum(label, 0)
    cell[left_out] = blocks * rules
    return cell


def _blocks(document: NDArray[np.int64], blocks: int) -> NDArray[np.int64]:
    """Hash each run of rows of one document once."""
    starts = _run_starts(document)
    hashed = document_block(torch.from_numpy(document[starts]), blocks).numpy()
    return np.repeat(hashed, np.diff(np.append(starts, len(document))))


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
    ones = weight.new_ones(weight.shape[1])
    total = (weight @ ones).unsqueeze(1)  # far quicker than a sum over so short an axis
    if not (bool(weight.min() >= 0) and bool(total.max() < torch.inf)):
        raise TraceError(
            "A routing weight is negative or not a number: expected shares. If these are the "
            'scores of the selection, the header must say "weight_scale": "selection score".'
        )
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


def _group(sums: list[_Sums], blocks: int, rules: int) -> tuple[LayerGroup, ...]:
    sizes: dict[int, list[int]] = {}
    for layer, entry in enumerate(sums):
        sizes.setdefault(entry.selections.shape[1] - 1, []).append(layer)
    return tuple(
        LayerGroup(tuple(layers), _stack([sums[layer] for layer in layers], blocks, rules))
        for layers in sizes.values()
    )


def _stack(sums: list[_Sums], blocks: int, rules: int) -> RoutingCounts:
    layers = [_finish(entry, blocks, rules).tensors() for entry in sums]
    return RoutingCounts(
        **{name: torch.stack([tensors[name] for tensors in layers]) for name in layers[0]}
    )


def _finish(sums: _Sums, blocks: int, rules: int) -> RoutingCounts:
    def table(rows: Tensor) -> Tensor:
        return rows[:-1, 1:].reshape(blocks, rules, -1)

    def column(values: Tensor) -> Tensor:
        return values[:-1].reshape(blocks, rules)

    samples, selections = column(sums.samples), table(sums.selections)
    spread = column(sums.selection_entropy) + samples * np.log(sums.choices)
    pairs = sums.coactivation
    return RoutingCounts(
        mass=table(sums.mass) + (0 if sums.weighted else selections / sums.choices),
        selections=selections,
        samples=samples,
        entropy=column(sums.entropy) if sums.weighted else spread.clone(),
        selection_entropy=spread,
        coactivation=pairs + pairs.T + torch.diag(selections.sum((0, 1))),
    )
