"""Our own plain formats: a row for each token and layer as CSV, JSONL or NPZ.

Columns, all but two optional: ``layer`` (number or name), ``chosen`` (modules, best first; in
CSV separated by spaces), ``weight`` (as many), ``document``, ``position``, ``token``, ``phase``
(``prefill``, ``decode``, ``train``), ``label``. ``modeval trace convert`` writes the same.
"""

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.errors import TraceError
from modeval.trace.importers.format import Format, Note, Options, Rows
from modeval.trace.importers.reading import (
    LARGEST_WHOLE,
    has_keys,
    integers,
    json_lines,
    lines,
    numbers,
    refuse,
)
from modeval.trace.trace import PHASES

COLUMNS = ("layer", "chosen", "weight", "document", "position", "token", "phase", "label")
BATCH = 1 << 14
INTEGER = ("document", "position", "token")


def read_csv(path: Path, _options: Options, _note: Note) -> Iterator[Rows]:
    """Read rows under a line of column names."""
    source = lines(path)
    place, first = next(source, ("line 1", ""))
    names = _cells(first, path, place)
    _check_columns(names, path, place)

    def parsed() -> Iterator[tuple[str, dict[str, Any]]]:
        for place, text in source:
            cells = _cells(text, path, place)
            if len(cells) != len(names):
                refuse(path, place, f"has {len(cells)} cells: expected {len(names)}")
            yield place, _from_text(dict(zip(names, cells, strict=True)), path, place)

    yield from _batches(parsed(), path)


def read_jsonl(path: Path, _options: Options, _note: Note) -> Iterator[Rows]:
    """Read one JSON object for each row."""

    def parsed() -> Iterator[tuple[str, dict[str, Any]]]:
        for place, record in json_lines(path):
            _check_columns(list(record), path, place)
            yield place, record

    yield from _batches(parsed(), path)


def read_npz(path: Path, _options: Options, _note: Note) -> Iterator[Rows]:
    """Read one array for each column; ``-1`` is unknown."""
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(item.file_size for item in packed.infolist())
        if unpacked > LARGEST_WHOLE:
            refuse(path, "", "is larger than 2 GiB when unpacked", "Write it as JSONL or CSV.")
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        refuse(path, "", f"is no NPZ of plain arrays ({error})")
    _check_columns(list(arrays), path, "")
    chosen = integers(arrays["chosen"], 2, path, "array chosen", "chosen")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != len(chosen):
            refuse(path, f"array {name}", f"has shape {array.shape}: expected {len(chosen)} rows")
    weight = arrays.get("weight")
    if weight is not None:
        weight = numbers(weight, 2, path, "array weight", "weight")
        _check_widths(weight, chosen, path, "array weight")
    layer = arrays["layer"]
    names = layer.dtype.kind == "U"
    singles = {
        name: integers(arrays[name], 1, path, f"array {name}", name)
        for name in (*INTEGER, "phase")
        if name in arrays
    }
    label = [str(text) or None for text in arrays["label"]] if "label" in arrays else None
    for kind in np.unique(layer) if names else [None]:
        rows = layer == kind if names else slice(None)
        yield Rows(
            layer=str(kind) if names else integers(layer, 1, path, "array layer", "layer"),
            chosen=chosen[rows],
            weight=None if weight is None else weight[rows],
            label=None if label is None else _take(label, rows),
            **{name: array[rows] for name, array in singles.items()},
        )


def _take(label: list[str | None], rows: slice | NDArray[np.bool_]) -> list[str | None]:
    return [label[index] for index in np.arange(len(label))[rows]]


def _cells(text: str, path: Path, place: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text), strict=True))
    except (csv.Error, StopIteration) as error:
        refuse(path, place, f"is no CSV ({error})")


def _check_columns(names: list[str], path: Path, place: str) -> None:
    missing = [name for name in ("layer", "chosen") if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    if missing or unknown or len(set(names)) != len(names):
        refuse(
            path,
            place,
            f"has the columns {', '.join(names)}: expected layer and chosen, and of the others at "
            f"most {', '.join(COLUMNS[2:])}",
        )


def _from_text(cells: Mapping[str, str], path: Path, place: str) -> dict[str, Any]:
    """Return the cells of a CSV row as the values that JSON has; empty cells are left out."""
    record: dict[str, Any] = {name: text for name, text in cells.items() if text}
    try:
        for name in INTEGER:
            if name in record:
                record[name] = int(record[name])
        record["chosen"] = [int(text) for text in cells["chosen"].split()]
        if "weight" in record:
            record["weight"] = [float(text) for text in cells["weight"].split()]
    except ValueError as error:
        refuse(path, place, f"holds what is no number ({error})")
    layer = cells["layer"]
    record["layer"] = int(layer) if layer.removeprefix("-").isdecimal() else layer
    return record


def _batches(source: Iterator[tuple[str, dict[str, Any]]], path: Path) -> Iterator[Rows]:
    """Read rows together that have the same form; what comes before a fault is yielded first."""
    fault: TraceError | None = None
    while fault is None:
        batch: list[tuple[str, dict[str, Any]]] = []
        try:
            batch.extend(islice(source, BATCH))
        except TraceError as error:
            fault = error
        if not batch:
            break
        forms: dict[tuple[Any, ...], list[tuple[str, dict[str, Any]]]] = {}
        for place, record in batch:
            forms.setdefault(_form(record, path, place), []).append((place, record))
        for (name, *_), rows in forms.items():
            yield _rows(name, rows, path)
    if fault is not None:
        raise fault


def _form(record: Mapping[str, Any], path: Path, place: str) -> tuple[Any, ...]:
    """Return what rows must share to be read together."""
    layer, chosen = record["layer"], record["chosen"]
    if not isinstance(layer, int | str) or isinstance(layer, bool) or not isinstance(chosen, list):
        refuse(path, place, f"layer is {layer!r}, chosen {chosen!r}: expected a number and a list")
    name = layer if isinstance(layer, str) else None
    return (name, len(chosen), *(column in record for column in ("weight", "token")))


def _rows(name: str | None, rows: list[tuple[str, dict[str, Any]]], path: Path) -> Rows:
    place = f"{rows[0][0]} to {rows[-1][0]}" if len(rows) > 1 else rows[0][0]
    first = rows[0][1]

    def column(key: str, absent: Any) -> list[Any]:
        return [record.get(key, absent) for _, record in rows]

    chosen = integers(column("chosen", None), 2, path, place, "chosen")
    weight = None
    if "weight" in first:
        weight = numbers(column("weight", None), 2, path, place, "weight")
        _check_widths(weight, chosen, path, place)
    layer: Any = name
    if name is None:
        layer = integers(column("layer", None), 1, path, place, "layer")
    return Rows(
        layer=layer,
        chosen=chosen,
        weight=weight,
        document=integers(column("document", -1), 1, path, place, "document"),
        position=integers(column("position", -1), 1, path, place, "position"),
        phase=[_phase(record.get("phase", "unknown"), path, where) for where, record in rows],
        label=[_label(record.get("label"), path, where) for where, record in rows],
        token=integers(column("token", -1), 1, path, place, "token") if "token" in first else None,
    )


def _check_widths(weight: NDArray[Any], chosen: NDArray[Any], path: Path, place: str) -> None:
    if weight.shape != chosen.shape:
        refuse(path, place, f"has weights {weight.shape} for choices {chosen.shape}")


def _phase(value: Any, path: Path, place: str) -> int:
    if value not in PHASES:
        refuse(path, place, f"phase is {value!r}: expected one of {', '.join(PHASES)}")
    return PHASES.index(value)


def _label(value: Any, path: Path, place: str) -> str | None:
    if value is not None and not isinstance(value, str):
        refuse(path, place, f"label is {value!r}: expected text")
    return value or None


def _is_csv(_path: Path, start: bytes) -> bool:
    names = start.splitlines()[0].decode("utf-8", "replace").split(",") if start else []
    return {"layer", "chosen"} <= set(names) <= set(COLUMNS)


def _is_npz(path: Path, start: bytes) -> bool:
    if not start.startswith(b"PK") or path.suffix != ".npz":
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return {"layer.npy", "chosen.npy"} <= set(file.namelist())
    except (OSError, zipfile.BadZipFile):
        return True  # a damaged one: reading it says where


FORMATS = (
    Format(
        name="csv",
        about="our own: layer,chosen and optional columns, a row for each token and layer",
        patterns=("*.csv", "*.csv.gz"),
        sniff=_is_csv,
        read=read_csv,
        keep_empty=True,
        weight_scale=None,
        phase="mixed",
    ),
    Format(
        name="jsonl",
        about='our own: {"layer": 3, "chosen": [5, 1], ...} a line for each token and layer',
        patterns=("*.jsonl", "*.jsonl.gz"),
        sniff=lambda _path, start: has_keys(start, "layer", "chosen"),
        read=read_jsonl,
        keep_empty=True,
        weight_scale=None,
        phase="mixed",
    ),
    Format(
        name="npz",
        about="our own: one array for each column",
        patterns=("*.npz",),
        sniff=_is_npz,
        read=read_npz,
        keep_empty=True,
        weight_scale=None,
        phase="mixed",
    ),
)
