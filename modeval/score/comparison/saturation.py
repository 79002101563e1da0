"""Saturation between two checkpoints of one model: traces of the same tokens, row by row."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeval.errors import TraceError
from modeval.metrics import saturation
from modeval.score.comparison.compare import Saturation
from modeval.score.inference import student
from modeval.trace.files import Trace, open_trace, read_columns
from modeval.trace.fold import BLOCKS, document_block

Columns = dict[str, NDArray[Any]]
SAME = ("document", "position", "layer", "token")
"""Columns that tell whether two rows are of the same token at the same layer."""


def saturation_by_layer(
    early: Path | str, late: Path | str, *, level: float = 0.95
) -> tuple[Saturation, ...]:
    """Compare the choices of two traces of the same tokens, layer by layer.

    Documents are hashed to blocks, and blocks are what the interval is made of: with W_b the
    summed share and n_b the tokens of block b, ``Var = B/(B-1) sum_b (W_b - value n_b)² / n²``.

    Raises:
        TraceError: the two do not hold the same tokens and layers in the same order.
    """
    first, second = open_trace(early), open_trace(late)
    _check_headers(first, second)
    layers = len(first.header.layers)
    shared, counted = (np.zeros((layers, BLOCKS)) for _ in range(2))
    for one, two in _in_step(first, second):
        _check_rows(one, two, first, second)
        block = document_block(torch.from_numpy(one["document"].copy()), BLOCKS).numpy()
        for layer in np.unique(one["layer"]):
            rows = one["layer"] == layer
            choices = first.header.choices[layer]
            values = _shares(one["chosen"][rows, :choices], two["chosen"][rows, :choices])
            np.add.at(shared[layer], block[rows], values)
            np.add.at(counted[layer], block[rows], 1)
    return tuple(
        _summed(layer, shared[layer], counted[layer], first, level)
        for layer in range(layers)
        if counted[layer].sum() > 0
    )


def _shares(early: NDArray[np.int16], late: NDArray[np.int16]) -> NDArray[np.float64]:
    """Return the saturation of each token: a batch of one token each."""
    pair = (torch.from_numpy(chosen.astype(np.int64)).unsqueeze(1) for chosen in (early, late))
    shares: NDArray[np.float64] = saturation(*pair).numpy()
    return shares


def _summed(
    layer: int, shared: NDArray[Any], counted: NDArray[Any], trace: Trace, level: float
) -> Saturation:
    tokens = counted.sum()
    value = float(shared.sum() / tokens)
    filled = counted > 0
    blocks = int(filled.sum())
    low = high = None
    if blocks > 1:
        residual = (shared - value * counted)[filled]
        error = math.sqrt(float((residual**2).sum()) * blocks / (blocks - 1)) / tokens
        reach = error * student.quantile(blocks - 1.0, (1 + level) / 2)
        low, high = max(value - reach, 0.0), min(value + reach, 1.0)
    chance = trace.header.choices[layer] / trace.header.modules[layer]
    return Saturation(
        layer=layer, value=value, low=low, high=high, chance=chance, tokens=int(tokens)
    )


def _check_headers(first: Trace, second: Trace) -> None:
    for name in ("layers", "modules", "choices"):
        one, two = getattr(first.header, name), getattr(second.header, name)
        if one != two:
            raise TraceError(
                f"{first.path} and {second.path} differ in their {name}, so they are no "
                "checkpoints of one model, and saturation means nothing."
            )
    if 0 in first.header.choices:
        raise TraceError(f"{first.path} does not say how many modules each token chose.")


def _in_step(first: Trace, second: Trace) -> Iterator[tuple[Columns, Columns]]:
    """Iterate over both, the same number of rows of each at a time."""
    names = [
        name
        for name in (*SAME, "chosen")
        if name in first.header.columns and name in second.header.columns
    ]
    ahead: list[Columns | None] = [None, None]
    sources = [read_columns(trace, names) for trace in (first, second)]
    while True:
        for index, source in enumerate(sources):
            part = ahead[index]
            if part is None or not len(part["layer"]):
                ahead[index] = next(source, None)
        one, two = ahead
        if one is None or two is None:
            if one is not None or two is not None:
                raise _not_the_same(first, second, "their number of rows")
            return
        rows = min(len(one["layer"]), len(two["layer"]))
        yield tuple({name: part[:rows] for name, part in each.items()} for each in (one, two))  # type: ignore[misc]
        ahead = [{name: part[rows:] for name, part in each.items()} for each in (one, two)]


def _check_rows(one: Columns, two: Columns, first: Trace, second: Trace) -> None:
    for name in SAME:
        if name in one and not np.array_equal(one[name], two[name]):
            raise _not_the_same(first, second, f"the column {name}")


def _not_the_same(first: Trace, second: Trace, what: str) -> TraceError:
    return TraceError(
        f"{first.path} and {second.path} differ in {what}, so their rows are not of the same "
        "tokens in the same order. Record both checkpoints on the same texts."
    )
