"""A matrix of rules and modules by itself: how each rule, task or domain shares itself out.

Rows that sum to 1 are the activation matrix A; rows that sum to 1/R are a joint distribution with
all rules alike, as the reference records it; whole numbers are counts. Other rows are refused: they
are no shares of anything, and whoever made them knows what would make them so.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.errors import TraceError
from modeval.trace.fold import LayerGroup
from modeval.trace.importers.format import Counts, Format, Options
from modeval.trace.importers.packing import plain_name
from modeval.trace.importers.reading import load_npy, refuse, tallies
from modeval.trace.importers.to_counts import tally
from modeval.trace.trace import TraceHeader

SUFFIX = ".npy"
MOST = 4096
NEARLY = 0.01
NOTE = "A matrix says nothing of samples and documents: it has no intervals and is not tested."


def is_matrix(path: Path) -> bool:
    """Tell whether a path is a file that may hold a matrix of rules and modules."""
    return plain_name(path).endswith(SUFFIX) and path.is_file()


def read_matrix(path: Path) -> tuple[TraceHeader, tuple[LayerGroup, ...]]:
    """Return a matrix of rules (rows) and modules (columns) as the counts of one layer.

    Raises:
        TraceError: it is no such matrix.
    """
    array = load_npy(path)
    if array.ndim != 2 or not array.size or max(array.shape) > MOST:  # noqa: PLR2004
        refuse(
            path,
            "",
            f"has the shape {array.shape}: a matrix of rules and modules has two axes",
            f"Other arrays are imported: modeval import {path} --axes AXIS,... --out x.trace",
        )
    table = tallies(array, 2, path, "", "the matrix")
    counted = array.dtype.kind in "iu" and bool(table.sum(1).min() > 0)
    shares = None if counted else _shares(table, path)
    rows = table if shares is None else shares
    counts = [
        Counts(
            "matrix",
            row if counted else np.full(len(row), np.nan),
            label=f"rule {number}",
            mass=row,
            samples=float(row.sum()),
        )
        for number, row in enumerate(rows)
    ]
    form = Format("matrix", "", (), lambda _path, _start: False, _nothing, counts=True, sized=True,
                  weight_scale="probability")  # fmt: skip
    options = Options(choices=1 if counted else None)
    header, groups = tally(counts, [piece.label for piece in counts], options, form, ())
    return replace(header, notes=(NOTE,)), groups


def _nothing(_path: Path, _options: Options, _note: Any) -> Any:
    raise TraceError("A matrix is scored as it is, not imported.")


def _shares(table: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """Return rows that sum to 1, of rows that sum to 1 or to one over their number."""
    sums = table.sum(1)
    if not any((np.abs(sums / share - 1) < NEARLY).all() for share in (1.0, 1 / len(table))):
        refuse(
            path,
            "",
            f"holds rows that sum to {sums.min():.4g} to {sums.max():.4g}: expected the shares of "
            "each rule, which sum to 1 (or to one over the number of rules), or whole counts",
            "Divide each row by its sum, if that is what its numbers mean",
        )
    shares: NDArray[np.float64] = table / sums[:, None]
    return shares
