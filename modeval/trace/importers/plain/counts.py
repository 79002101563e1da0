"""Plain counts: how often each module of each layer was chosen, as a table or as JSON.

Tables (:mod:`.count_tables`) lie in CSV, JSONL, JSON, Parquet or NPZ. JSON may also have a list of
numbers for each layer, or an object of modules, and an object of labels around them::

    {"layers.0": [598, 58, 687], "layers.1": {"0": 602, "2": 704}}
    {"code": {"0": [598, 58, 687]}, "prose": {"0": [61, 17, 202]}}
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modeval.errors import TraceError
from modeval.text import brief
from modeval.trace.importers.format import Counts, Format, Note, Options, Piece
from modeval.trace.importers.packing import plain_name
from modeval.trace.importers.plain.columns import COUNT_NAMES, ROW_NAMES, by_rows, first_keys
from modeval.trace.importers.plain.count_tables import (
    LAYER,
    layer_of,
    layout_of,
    pieces,
    read_table,
    refuse_shares,
)
from modeval.trace.importers.reading import (
    load_npz,
    module_number,
    npz_names,
    parquet_names,
    parquet_rows,
    parse_json,
    read_bytes,
    records,
    refuse,
    table_lines,
    tallies,
)


def read_csv(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read a table under a line of column names."""
    yield from read_table(table_lines(path), path, options, note)


def read_records(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read objects, each a row, or one object of columns."""
    source = (
        (where, row)
        for place, record in records(path)
        for where, row in by_rows(record, COUNT_NAMES, path, place)
    )
    yield from read_table(source, path, options, note)


def read_parquet(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read a table of Parquet, as pandas writes it."""
    yield from read_table(parquet_rows(path), path, options, note)


def read_npz(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read one array for each column."""
    columns = {name: array.tolist() for name, array in load_npz(path).items()}
    rows = by_rows(columns, COUNT_NAMES, path, "")
    yield from read_table(rows, path, options, note)


def read_json(path: Path, options: Options, note: Note) -> Iterator[Counts]:
    """Read lists or objects of counts by layer, with labels around them or without."""
    value = parse_json(read_bytes(path), path)
    if isinstance(value, dict):
        for name in ("counts", "expert_counts", "layers"):
            if isinstance(value.get(name), dict | list):
                value = value[name]
                break
    if isinstance(value, list):
        note(f"{path.name} names no layers: each of its {len(value)} lists was taken for one.")
    found = list(_of_json(value, path, options))
    rows = [piece.selections for piece in found]
    if any((row != np.round(row)).any() for row in rows):
        refuse_shares([float(row.sum()) for row in rows], path)
    yield from found


def _of_json(value: Any, path: Path, options: Options) -> Iterator[Counts]:
    for label, layers in _labelled(value, path).items():
        for layer, row in layers.items():
            place = f"layer {brief(layer)}"
            if isinstance(row, dict):
                cells = {
                    module_number(str(expert), path, place): float(
                        tallies([count], 1, path, place, "count")[0]
                    )
                    for expert, count in row.items()
                }
                yield from pieces({(label, -1, layer): cells}, options)
            else:
                selections = tallies(row, 1, path, place, "the list of counts")
                yield Counts(layer, selections, label=label, choices=options.choices, sized=True)


def _labelled(value: Any, path: Path) -> dict[str | None, dict[str | int, Any]]:
    """Return the layers of each label; a table without labels has one, None."""
    if isinstance(value, list):
        return {None: dict(enumerate(value))}
    if not isinstance(value, dict) or not value:
        refuse(path, "", f"holds {brief(value)}: expected counts by layer")
    if all(LAYER.fullmatch(name) for name in value):
        return {None: {layer_of(name, path, ""): row for name, row in value.items()}}
    found: dict[str | None, dict[str | int, Any]] = {}
    for label, inner in value.items():
        if not isinstance(inner, dict | list) or (isinstance(inner, list) and not inner):
            refuse(path, f"label {brief(label)}", f"holds {brief(inner)}: expected counts by layer")
        if isinstance(inner, list) and not isinstance(inner[0], list):
            found.setdefault(None, {})[label] = inner  # layers that have names of their own
        elif isinstance(inner, dict) and all(isinstance(n, int | float) for n in inner.values()):
            found.setdefault(None, {})[label] = inner
        else:
            layers = dict(enumerate(inner)) if isinstance(inner, list) else inner
            found[label] = {layer_of(str(name), path, ""): row for name, row in layers.items()}
    return found


def _are_counts(names: list[str]) -> bool:
    return layout_of(names, {}) is not None


def _is_csv(path: Path, start: bytes) -> bool:
    if b"\0" in start or start.lstrip()[:1] in (b"{", b"["):
        return False
    try:
        first = next(iter(table_lines(path, start)), None)
    except TraceError:
        return False
    return first is not None and _are_counts(list(first[1]))


def _are_records(path: Path, start: bytes) -> bool:
    """Tell whether the first object of a file is a row of a table, or holds its columns."""
    text = start.decode("utf-8", "replace").lstrip()
    if keys := first_keys(start):
        return _are_counts(keys)
    known = {name for names in COUNT_NAMES.values() for name in names} | {*COUNT_NAMES}
    first = re.match(r'\{\s*"([^"\\]{1,40})"\s*:\s*[\[{]', text)
    if not first or first[1].lower() not in known:
        return False
    try:
        value = parse_json(read_bytes(path), path)
        return isinstance(value, dict) and _are_counts(list(value))
    except TraceError:
        return False


def _is_parquet(path: Path, start: bytes) -> bool:
    return start.startswith(b"PAR1") and _are_counts(parquet_names(path))


def _is_npz(path: Path, start: bytes) -> bool:
    if not start.startswith(b"PK") or path.suffix != ".npz":
        return False
    names = npz_names(path)
    return names is not None and _are_counts(names)


def _is_json(path: Path, start: bytes) -> bool:
    """Tell whether an object or a list holds nothing but numbers in lists or objects of layers."""
    if not plain_name(path).endswith(".json"):
        return False
    text = start.decode("utf-8", "replace").lstrip()
    if re.match(r"\[\s*\[\s*-?\d[\d.eE+\s,-]*[\],]", text):
        return not re.match(r"\[\s*\[\s*\[", text)
    key = r'"[^"\\]{1,200}"\s*:\s*'
    wrapped = r'(?:\{\s*"(?:counts|expert_counts|layers)"\s*:\s*)?'
    numbers = r"(?:\[\s*\d[\d.eE+\s,-]*[\],]|\{\s*\"\d+\"\s*:\s*\d)"
    known = ("topk", "exp_ids", *ROW_NAMES["chosen"][:-3])
    return bool(
        re.match(wrapped + r"\{\s*" + key + rf"(?:\{{\s*{key}|\[\s*)?{numbers}", text)
    ) and (not any(f'"{name}"' in text for name in known))


def _form(name: str, about: str, patterns: tuple[str, ...], **functions: Any) -> Format:
    return Format(name, about, patterns, **functions, counts=True, phase="mixed")


FORMATS = (
    _form(
        "counts-csv",
        "a table of counts: layer,expert,count (or layer,expert_0,expert_1,...), label, phase, "
        "document",
        ("*.csv", "*.tsv", "*.txt"),
        sniff=_is_csv,
        read=read_csv,
    ),
    _form(
        "counts-jsonl",
        'the same table as objects: {"layer": 0, "expert": 3, "count": 598}',
        ("*.jsonl", "*.ndjson", "*.json"),
        sniff=_are_records,
        read=read_records,
    ),
    _form(
        "counts-parquet",
        "the same table in Parquet",
        ("*.parquet",),
        sniff=_is_parquet,
        read=read_parquet,
    ),
    _form(
        "counts-npz",
        "the same table, one array for each column",
        ("*.npz",),
        sniff=_is_npz,
        read=read_npz,
    ),
    _form(
        "counts-json",
        'counts by layer: {"0": [598, 58], ...}, [[598, 58], ...], with labels around them',
        ("*.json",),
        sniff=_is_json,
        read=read_json,
    ),
)
