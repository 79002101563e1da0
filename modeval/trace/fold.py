"""From a trace to its routing counts: one pass, memory that does not grow with the trace.

The same sums as :func:`modeval.counting.count.count_choices`: through the kernel of
:mod:`modeval.counting` where that pays and can be had, else by :mod:`modeval.trace.fold_torch`.
"""

import ctypes
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from modeval.counting import kernel
from modeval.counting.units import BY_UNIT, LIMIT, Units
from modeval.errors import TraceError
from modeval.trace import documents
from modeval.trace.files import Trace, open_trace, read_columns
from modeval.trace.fold_torch import NO_SHARES, count_rows
from modeval.trace.trace import PHASES, TraceHeader, check_range, check_size
from modeval.types import RoutingCounts

BLOCKS = 64
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Counts of the layers that have the same number of modules.

    Attributes:
        layers: numbers of the layers in the header, in order.
        counts: ``(L, B, R, M)`` and so on, one entry of the batch axis for each of them.
        units: what was routed of each document, ``(L, U, M)`` and so on, the same documents in
            all groups of a trace; nothing where nothing is known of single documents.
    """

    layers: tuple[int, ...]
    counts: RoutingCounts
    units: Units | None = None


def fold(
    trace: Trace | Path | str, *, blocks: int = BLOCKS, phase: str | None = None
) -> RoutingCounts:
    """Return the counts of a trace, layers as the batch axis ``(L, ...)``.

    Rows without a label count nowhere; a trace without any labels counts as one rule. Documents
    go to ``blocks`` replicate blocks by a hash of what they hold, so that each is in the same one
    whatever shard or file it came in. Weights are divided by their sum
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
    digested = ("position", "token") if header.token_ids else ("position",)
    columns_read = tuple(dict.fromkeys((*columns_to_fold(header), *digested)))
    plan, digests = _documents(opened, code)
    rules, weighted = max(len(header.labels), 1), "weight" in columns_read
    cells = len(plan) + rules  # the last ones are of rows whose document is unknown
    check_size(header, cells)
    library = kernel.kernel(opened.rows)
    count = count_rows if library is None else functools.partial(_count_natively, library)
    read = (
        columns | {"cell": _cells(columns, plan, digests, len(header.labels))}
        for columns in _of_phase(opened, columns_read, code)
    )
    try:
        parts = count(_ahead(read), header, cells, weighted=weighted)
    except TraceError as error:
        raise TraceError(f"{opened.path}: {error}") from None
    block = torch.zeros(cells, dtype=torch.int64)
    own = documents.names(plan, digests)
    block[: len(plan)] = document_block(torch.from_numpy(own), blocks)
    rule = torch.cat([torch.from_numpy(plan.label), torch.arange(rules)])
    layers = [
        _unfold(_pooled(part, block * rules + rule, blocks * rules), blocks, rules)
        for part in parts
    ]
    groups = _group(header, layers)
    if plan.unknown or not len(plan):
        return groups
    key = documents.keys(plan, digests, len(header.layers))
    return tuple(
        replace(
            group,
            units=documents.units_of(
                plan,
                key,
                _stack_units([parts[layer] for layer in group.layers], len(plan)),
                rules,
            ),
        )
        for group in groups
    )


def _documents(trace: Trace, phase: int | None) -> tuple[documents.Plan, documents.Digests]:
    """Look through a trace for its documents and labels; twice when they are many."""
    header = trace.header
    width = sum(header.modules)
    names = ("document", "label", "position")
    plan = documents.plan(_of_phase(trace, names, phase), len(header.labels), width)
    most = max(LIMIT // width, 1)
    empty = documents.Digests.zeros(len(plan.document), by_tokens=header.token_ids)
    if len(plan) <= most:
        return plan, empty
    content = "token" if header.token_ids else "chosen"
    for columns in _of_phase(trace, ("document", "position", "layer", content), phase):
        empty.add(documents.places(plan, columns["document"]), columns)
    grouped = documents.grouped(plan, empty, most)
    return grouped, documents.Digests.zeros(len(plan.document), by_tokens=header.token_ids)


def _of_phase(
    trace: Trace, names: Sequence[str], phase: int | None
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield columns of the rows of one phase, or of all."""
    if phase is None:
        yield from read_columns(trace, names)
        return
    for columns in read_columns(trace, (*names, "phase")):
        rows = columns["phase"] == phase
        if rows.any():
            yield {name: columns[name][rows] for name in names}


def columns_to_fold(header: TraceHeader) -> tuple[str, ...]:
    """Return the columns that :func:`fold` reads; weights only when they are shares."""
    return ("document", "label", "layer", "chosen", *(("weight",) if header.shares else ()))


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


def _ahead(items: Iterator[Item]) -> Iterable[Item]:
    """Yield the items, the next one being made in another thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def _phase_code(phase: str | None) -> int | None:
    if phase is None:
        return None
    if phase not in PHASES:
        raise TraceError(f"No phase is named {phase!r}: expected {', '.join(PHASES)}.")
    return PHASES.index(phase)


def _cells(
    columns: dict[str, NDArray[Any]],
    plan: documents.Plan,
    digests: documents.Digests,
    labels: int,
) -> NDArray[np.int64]:
    """Return the unit of each row; rows of unknown documents get a cell for each rule behind them.

    Rows that count nowhere get the number of all cells.
    """
    label, document, position = (columns[name] for name in ("label", "document", "position"))
    check_range("label", label, -1, labels)
    rule = label.astype(np.int64) if labels else np.zeros(len(label), dtype=np.int64)
    cell = plan.of_rows(document, position.astype(np.int64), rule)
    lost = (cell == len(plan)) & (rule >= 0)
    cell[cell == len(plan)] = len(plan) + max(labels, 1)
    cell[lost] = len(plan) + rule[lost]
    if len(plan):
        digests.add(documents.places(plan, document, rule), columns)
    return cell


def _count_natively(
    library: ctypes.CDLL,
    columns_read: Iterable[dict[str, NDArray[Any]]],
    header: TraceHeader,
    cells: int,
    *,
    weighted: bool,
) -> list[dict[str, Tensor]]:
    """Do what :func:`count_rows` does through the kernel, a thread for each layer."""
    tables = [
        kernel.Tables.zeros(cells, modules, choices)
        for modules, choices in zip(header.modules, header.choices, strict=True)
    ]
    unsettled = 0
    for columns in columns_read:
        chosen = kernel.readable(columns["chosen"])
        unsettled += len(chosen)
        if unsettled > kernel.rows_at_most(chosen.shape[1]):
            for table in tables:
                kernel.settle(table)
            unsettled = len(chosen)
        try:
            order, begin = kernel.sort_rows(library, columns["layer"], len(tables))
            kernel.add(
                *(library, tables, [*itertools.pairwise(begin.tolist())], chosen, columns["cell"]),
                np.ascontiguousarray(columns["weight"]) if weighted else None,
                order=order,
                normalise=True,
            )
        except kernel.OutOfRangeError:
            _refuse(header, columns)
            raise
        except kernel.NoShareError:
            raise TraceError(NO_SHARES) from None
    return [kernel.parts(table, weighted=weighted) for table in tables]


def _refuse(header: TraceHeader, columns: dict[str, NDArray[Any]]) -> None:
    layer, chosen = columns["layer"], columns["chosen"]
    check_range("layer", layer, 0, len(header.modules))
    for number, modules in enumerate(header.modules):
        check_range("chosen", chosen[layer == number], -1, modules)


def _group(header: TraceHeader, layers: list[RoutingCounts]) -> tuple[LayerGroup, ...]:
    sizes: dict[int, list[int]] = {}
    for layer, modules in enumerate(header.modules):
        sizes.setdefault(modules, []).append(layer)
    return tuple(
        LayerGroup(tuple(own), _stack([layers[layer].tensors() for layer in own]))
        for own in sizes.values()
    )


def _stack(layers: list[dict[str, Tensor]]) -> RoutingCounts:
    return RoutingCounts(
        **{
            # as arrays, by one thread: see kernel.Tables
            name: torch.from_numpy(np.stack([tensors[name].numpy() for tensors in layers]))
            for name in layers[0]
        }
    )


def _pooled(parts: dict[str, Tensor], into: Tensor, cells: int) -> dict[str, Tensor]:
    """Add up the cells of units by block and rule."""
    return {
        name: part
        if name == "coactivation"
        else part.new_zeros(cells, *part.shape[1:]).index_add_(0, into, part)
        for name, part in parts.items()
    }


def _stack_units(parts: Sequence[dict[str, Tensor]], units: int) -> dict[str, Tensor]:
    return {name: torch.stack([part[name][:units] for part in parts]) for name in BY_UNIT}


def _unfold(parts: dict[str, Tensor], blocks: int, rules: int) -> RoutingCounts:
    """Unfold cells into blocks and rules."""
    return RoutingCounts(
        **{
            name: part if name == "coactivation" else part.unflatten(0, (blocks, rules))
            for name, part in parts.items()
        }
    )
