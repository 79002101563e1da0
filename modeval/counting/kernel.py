"""Counts of sparse routing through a C++ kernel: one pass over the choices, on processors.

The sums of :func:`modeval.counting.count.count_choices`, exact where they are counts. The kernel
(``kernel.cpp``) pays for streams that are long enough, and only where there is a compiler;
:func:`kernel` says whether it does, and the caller counts with PyTorch where it does not.
"""

import ctypes
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeval.native import KernelError, compiled

ENOUGH = 1 << 19  # rows from which on waiting for a compiler, some seconds once, is worth it
COUNTABLE = 2**31 - 1  # what a counter of the kernel holds

_KINDS = ("i1", "i2", "i4", "i8")  # of choices
_SOUND, _CHOICE_OUT_OF_RANGE = range(2)  # enum Finding


class OutOfRangeError(Exception):
    """A choice is no module; the caller finds and names it."""


class NoShareError(Exception):
    """A weight is negative or not a number."""


class _Counting(ctypes.Structure):
    """``struct ModevalCounting`` of the kernel."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("tasks", "threads", "width", "chosen_bytes", "weight_bytes", "normalise"),
                "cells",
            )
        ),
        *(
            (name, ctypes.c_void_p)
            for name in ("chosen", "weight", "cell", "order", "logs", "task")
        ),
    )


_TASK = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("first", "last", "modules", "choices", "selections", "samples", "pairs"),
            *("mass", "entropy", "spread", "state"),
        )
    ]
)
"""``struct ModevalTask`` of the kernel; a pointer is a number."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Running sums over the rows of one stream.

    Arrays, not tensors: PyTorch would share out the sums of many small tables over threads, which
    takes longer than the sums, and far longer on a busy machine.

    Attributes:
        choices: how many modules a row chooses; rows that choose fewer count too.
        selections: ``(cells, M)`` how often a module was chosen; a cell is a (block, rule).
        samples: ``(cells,)`` rows.
        pairs: ``(M, M)`` pairs of different choices of a row, each in one of its two places.
        mass: ``(cells, M)`` weights; without weights, what differs from 1/K each.
        entropy: ``(cells,)`` summed entropy of the weights, in nats.
        spread: ``(cells,)`` what differs from log K for each row.
        settled: the first three again: counts that were moved on before a counter was full.
    """

    choices: int
    selections: NDArray[np.int32]
    samples: NDArray[np.int32]
    pairs: NDArray[np.int32]
    mass: NDArray[np.float64]
    entropy: NDArray[np.float64]
    spread: NDArray[np.float64]
    settled: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def zeros(cls, cells: int, modules: int, choices: int) -> "Tables":
        """Return the sums over no rows."""
        return cls(
            choices=choices,
            selections=np.zeros((cells, modules), np.int32),
            samples=np.zeros(cells, np.int32),
            pairs=np.zeros((modules, modules), np.int32),
            mass=np.zeros((cells, modules)),
            entropy=np.zeros(cells),
            spread=np.zeros(cells),
            settled=(np.zeros((cells, modules)), np.zeros(cells), np.zeros((modules, modules))),
        )


@functools.cache
def load(cache: Path | None = None) -> ctypes.CDLL:
    """Return the kernel.

    Raises:
        KernelError: there is no compiler, or what it made cannot be loaded.
    """
    source = Path(__file__).with_suffix(".cpp").read_text(encoding="utf-8")
    library = compiled("counting", source, cache)
    library.modeval_count.argtypes = [ctypes.POINTER(_Counting)]
    library.modeval_count.restype = None
    library.modeval_sort.argtypes = [*[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 3]
    return library


@functools.cache
def _load_or_none() -> ctypes.CDLL | None:
    try:
        return load()
    except KernelError:
        return None


def kernel(rows: int) -> ctypes.CDLL | None:
    """Return the kernel when so many rows are worth it and it can be had."""
    return _load_or_none() if rows >= ENOUGH else None


def rows_at_most(width: int) -> int:
    """Return after how many rows of ``width`` choices a counter may be full."""
    return COUNTABLE // max(width * width, 1)


def add(  # noqa: PLR0917 - what a kernel takes
    library: ctypes.CDLL,
    tables: Sequence[Tables],
    spans: Sequence[tuple[int, int]],
    chosen: NDArray[Any],
    cell: NDArray[np.int64],
    weight: NDArray[Any] | None = None,
    *,
    order: NDArray[np.int32] | None = None,
    normalise: bool = False,
) -> None:
    """Add rows to tables: those of each span to the table of the same place.

    Args:
        library: from :func:`kernel`.
        tables: with the same cells; no two spans may share one. No more than
            :func:`rows_at_most` rows may be added to any before it is settled.
        spans: first row and the row after the last one, or places in ``order``.
        chosen: ``(N, K)`` signed integers, contiguous; -1 for none.
        cell: ``(N,)`` number of the (block, rule); the number of cells for rows that count nowhere.
        weight: ``(N, K)`` float32 or float64, contiguous; without, each choice counts 1/K.
        order: rows, where spans are places in it.
        normalise: divide the weights of each row by their sum, and refuse what is no share.

    Raises:
        OutOfRangeError: a choice is neither -1 nor a module. Tables hold some of the rows then.
        NoShareError: a weight is negative or not a number, when they are normalised. Likewise.
    """
    tasks = np.zeros(len(tables), _TASK)
    for task, table, (first, last) in zip(tasks, tables, spans, strict=True):
        task["first"], task["last"] = first, last
        task["modules"], task["choices"] = table.pairs.shape[0], table.choices
        for name in ("selections", "samples", "pairs", "mass", "entropy", "spread"):
            task[name] = getattr(table, name).ctypes.data
    width = chosen.shape[1]
    most = max([width, *(table.choices for table in tables)])
    logs = np.log(np.maximum(np.arange(most + 1), 1))
    library.modeval_count(
        _Counting(
            tasks=len(tasks),
            threads=torch.get_num_threads(),
            width=width,
            chosen_bytes=chosen.itemsize,
            weight_bytes=0 if weight is None else weight.itemsize,
            normalise=normalise,
            cells=len(tables[0].samples) if tables else 0,
            chosen=chosen.ctypes.data,
            weight=None if weight is None else weight.ctypes.data,
            cell=cell.ctypes.data,
            order=None if order is None else order.ctypes.data,
            logs=logs.ctypes.data,
            task=tasks.ctypes.data,
        )
    )
    if (tasks["state"] == _CHOICE_OUT_OF_RANGE).any():
        raise OutOfRangeError
    if (tasks["state"] != _SOUND).any():
        raise NoShareError


def sort_rows(
    library: ctypes.CDLL, group: NDArray[np.int16], groups: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the rows group by group, in order within each, and where each group begins.

    Raises:
        OutOfRangeError: a number is no group.
    """
    group = np.ascontiguousarray(group)
    order, begin = np.empty(len(group), np.int32), np.empty(groups + 1, np.int64)
    if library.modeval_sort(
        len(group), groups, group.ctypes.data, order.ctypes.data, begin.ctypes.data
    ):
        raise OutOfRangeError
    return order, begin


def readable(chosen: NDArray[Any]) -> NDArray[Any]:
    """Return choices as the kernel reads them: signed and contiguous."""
    kind = chosen.dtype if chosen.dtype.str[1:] in _KINDS else np.int64
    return np.ascontiguousarray(chosen, dtype=kind)


def settle(tables: Tables) -> None:
    """Move counts on, so that counters are empty again."""
    narrow = (tables.selections, tables.samples, tables.pairs)
    for total, part in zip(tables.settled, narrow, strict=True):
        np.add(total, part, out=total)
        part.fill(0)


def parts(tables: Tables, *, weighted: bool) -> dict[str, Tensor]:
    """Return the tensors of :class:`modeval.types.RoutingCounts`, cells as the first axis.

    The tables are used up: some of the tensors are theirs.
    """
    narrow = (tables.selections, tables.samples, tables.pairs)
    selections, samples, pairs = (
        total + part for total, part in zip(tables.settled, narrow, strict=True)
    )
    spread = tables.spread + samples * math.log(max(tables.choices, 1))
    both = pairs + pairs.T
    np.fill_diagonal(both, selections.sum(0))
    made = {
        "mass": tables.mass if weighted else tables.mass + selections / max(tables.choices, 1),
        "selections": selections,
        "samples": samples,
        "entropy": tables.entropy if weighted else spread.copy(),
        "selection_entropy": spread,
        "coactivation": both,
    }
    return {name: torch.from_numpy(part) for name, part in made.items()}
