"""FLAME-MoE: chosen experts and their scores, a folder or file for each checkpoint and layer."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modeval.errors import TraceError
from modeval.trace.files import import_arrow
from modeval.trace.importers.format import Format, Note, Options, Rows, layer_name
from modeval.trace.importers.reading import integers, load_torch, numbers, refuse

ROWS = 1 << 16


def read_parquet(path: Path, _options: Options, _note: Note) -> Iterator[Rows]:
    """Read Parquet with the lists ``indices`` and ``scores``; the layer is in the path."""
    arrow = import_arrow()
    layer_of(path)
    start = 0
    try:
        with arrow.parquet.ParquetFile(path) as file:
            names = [name for name in ("indices", "scores") if name in file.schema_arrow.names]
            if "indices" not in names:
                found = ", ".join(file.schema_arrow.names)
                refuse(path, "", f"has the columns {found}: expected indices and scores")
            for batch in file.iter_batches(batch_size=ROWS, columns=names):
                place = f"rows {start} to {start + len(batch) - 1}"
                columns = {name: _lists(batch.column(name), path, place) for name in names}
                yield _rows(columns["indices"], columns.get("scores"), start, path, place)
                start += len(batch)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        refuse(path, f"after row {start}", f"is damaged ({str(error).splitlines()[0]})")


def read_torch(path: Path, _options: Options, _note: Note) -> Iterator[Rows]:
    """Read a pair of tensors (scores, indices)."""
    pair = load_torch(path)
    if not isinstance(pair, tuple | list) or len(pair) != 2:  # noqa: PLR2004
        refuse(path, "", "is no pair (scores, indices)")
    scores, indices = (
        item.float().numpy()
        if hasattr(item, "is_floating_point") and item.is_floating_point()
        else item
        for item in pair
    )
    indices = indices.numpy() if hasattr(indices, "numpy") else indices
    yield _rows(indices, scores, -1, path, "")


def _rows(indices: Any, scores: Any, start: int, path: Path, place: str) -> Rows:
    chosen = integers(indices, 2, path, place, "indices")
    weight = None if scores is None else numbers(scores, 2, path, place, "scores")
    modules = None
    if weight is not None and weight.shape != chosen.shape:
        if len(weight) != len(chosen) or chosen.max(initial=0) >= weight.shape[1]:
            refuse(path, place, f"scores are {weight.shape}, indices {chosen.shape}")
        modules, weight = weight.shape[1], np.take_along_axis(weight, chosen, 1)
    position = -1 if start < 0 else np.arange(start, start + len(chosen))
    return Rows(layer_of(path), chosen, position=position, weight=weight, modules=modules)


def _lists(column: Any, path: Path, place: str) -> Any:
    lengths = set(column.value_lengths().to_pylist()) if len(column) else {0}
    if len(lengths) > 1 or column.null_count or column.flatten().null_count:
        refuse(path, place, "has lists of different lengths, or nulls")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def layer_of(path: Path) -> str:
    """Return the name of the layer that a path speaks of, or refuse."""
    for part in reversed(path.parts):
        if match := re.search(r"layer[_-]?(\d+)", part):
            return layer_name(int(match[1]))
    if not path.parent.name.isdecimal():
        refuse(path, "", "does not say its layer", "Keep the folder layer_XX that it came in.")
    return layer_name(int(path.parent.name))  # actives/<checkpoint>/<layer>/*.pt


def _is_parquet(path: Path, start: bytes) -> bool:
    if not start.startswith(b"PAR1"):
        return False
    arrow = import_arrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            return {"indices", "scores"} <= set(file.schema_arrow.names)
    except (arrow.ArrowException, OSError, UnicodeDecodeError):
        return "layer" in str(path)


def _is_pair(path: Path, start: bytes) -> bool:
    if not start.startswith(b"PK") or path.suffix != ".pt" or b"_rebuild_tensor" not in start:
        return False
    try:
        return bool(layer_of(path))
    except TraceError:
        return False


_NOTES = (
    "FLAME-MoE traces do not tell documents apart, so there are no replicates for intervals.",
)

FORMATS = (
    Format(
        name="flame",
        about="FLAME-MoE-Traces: Parquet of indices and scores, layer_XX in the path",
        patterns=("*.parquet",),
        sniff=_is_parquet,
        read=read_parquet,
        engine="megatron-lm",
        weight_scale=None,
        notes=_NOTES,
    ),
    Format(
        name="flame-pt",
        about="FLAME-MoE actives/<checkpoint>/<layer>/*.pt: pairs (scores, indices)",
        patterns=("*.pt",),
        sniff=_is_pair,
        read=read_torch,
        engine="megatron-lm",
        weight_scale=None,
        notes=_NOTES,
    ),
)
