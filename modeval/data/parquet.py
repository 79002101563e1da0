"""Shards as Parquet, one row for each sample, for programs that read tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeval.errors import DependencyError
from modeval.spec import DataSpec
from modeval.types import Batch


def require_arrow() -> None:
    """Refuse to go on without the package that reads and writes Parquet."""
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415
    except ImportError:
        raise DependencyError(
            'Parquet needs a package that is not installed: pip install "modeval-cli[arrow]", or '
            "use --format safetensors."
        ) from None


def to_bytes(part: Batch, task_seeds: Sequence[int]) -> bytes:
    """Encode a shard ``(tasks, n, ...)`` as rows ``task_seed, rule, inputs, target``.

    Vectors are lists; for sequences, ``rule`` is a list and the others are lists of lists.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pa.table(
        {
            "task_seed": np.repeat(np.asarray(task_seeds, dtype=np.int64), part.rule.shape[1]),
            "rule": _column(part.rule),
            "inputs": _column(part.inputs),
            "target": _column(part.target),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=["task_seed"], compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_file(path: Path, spec: DataSpec) -> Batch:
    """Decode a shard.

    Raises:
        ValueError: the file is not what :func:`to_bytes` wrote.
        DependencyError: the package is not installed.
    """
    require_arrow()
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    positions = (spec.length,) if spec.sequence else ()
    try:
        table = pq.read_table(path)
        seeds = table.column("task_seed").to_numpy()
        # Task after task: the seeds change only where a new task begins.
        tasks = 1 + int(np.count_nonzero(np.diff(seeds)))
        lead = (tasks, table.num_rows // tasks, *positions)
        return Batch(
            _values(table.column("inputs")).view(*lead, spec.features),
            _values(table.column("rule")).view(*lead),
            _values(table.column("target")).view(*lead, spec.outputs),
        )
    except (pa.ArrowException, KeyError, RuntimeError, OSError) as error:
        raise ValueError(str(error)) from error


def _column(values: Tensor) -> Any:
    """Turn ``(tasks, n, ...)`` into a column with one, perhaps nested, list for each sample."""
    import pyarrow as pa  # noqa: PLC0415

    column = pa.array(values.reshape(-1).numpy())
    for size in reversed(values.shape[2:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def _values(column: Any) -> Tensor:
    """Return all numbers of a column of nested lists, in order."""
    import pyarrow as pa  # noqa: PLC0415

    values = column.combine_chunks()
    while pa.types.is_nested(values.type):
        values = values.flatten()
    return torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False)))
