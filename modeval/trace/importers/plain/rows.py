"""Plain tables of rows, a row for each token and layer: CSV, JSONL, JSON, NPZ and Parquet.

Columns, all but two optional: ``layer`` (number or name), ``chosen`` (modules, best first; in CSV
separated by spaces, or as a list), ``weight`` (as many), ``document`` (number or name),
``position``, ``token``, ``phase`` (``prefill``, ``decode``, ``train``), ``label``. Other programs'
names of the same are known (:mod:`.columns`), further columns are passed over, and an empty list of
modules is a token that none took. ``modeval trace convert`` writes the same.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.errors import TraceError
from modeval.text import brief
from modeval.trace.importers.format import Facts, Format, Note, Options, Piece, Rows
from modeval.trace.importers.packing import plain_name
from modeval.trace.importers.plain.columns import (
    COUNT_NAMES,
    ROW_NAMES,
    Numbering,
    brief_names,
    by_rows,
    cell_numbers,
    first_keys,
    match_columns,
    missing_columns,
    spread,
    with_nested,
)
from modeval.trace.importers.reading import (
    as_object,
    integers,
    load_npz,
    npz_names,
    numbers,
    parquet_names,
    parquet_rows,
    refuse,
    table_lines,
)
from modeval.trace.importers.reading import records as json_records
from modeval.trace.trace import PHASES

BATCH = 1 << 14
INTEGER = ("position", "token")
PHASE_WORDS = {
    **{name: name for name in PHASES},
    **dict.fromkeys(("prompt", "extend", "context"), "prefill"),
    **dict.fromkeys(("decoding", "generation", "generate"), "decode"),
    **dict.fromkeys(("training",), "train"),
}
WHOLE = re.compile(r"(-?[0-9]{1,18})(?:\.0*|,0)?")
COMMA = re.compile(r"\d+(,\d+)?")
Record = tuple[str, Mapping[str, Any]]
FACTS = {"modules": ("num_experts", "n_experts", "num_modules"), "choices": ("top_k", "topk")}


def read_csv(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read rows under a line of column names."""
    yield from _rows_of(table_lines(path), path, options, note, text=True)


def read_jsonl(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read JSON objects: each a row, a batch of rows, or a list of layers of a prompt."""
    facts: dict[str, Any] = {}

    def parsed() -> Iterator[Record]:
        for number, (place, record) in enumerate(json_records(path)):
            if said := _facts(record):
                facts.update(said)
            if not _is_meta(record):
                for where, row in by_rows(record, ROW_NAMES, path, place):
                    yield from _layers_of(where, row, path, number, options)

    for piece in _rows_of(parsed(), path, options, note):
        if facts:
            yield Facts(**facts)
            facts.clear()
        yield piece


def read_npz(path: Path, options: Options, note: Note) -> Iterator[Rows]:
    """Read one array for each column; ``-1`` is unknown."""
    arrays = load_npz(path)
    columns = match_columns(list(arrays), ROW_NAMES, options.columns)
    if not {"layer", "chosen"} <= columns.names.keys():
        refuse(path, "", missing_columns(list(arrays), columns, ("layer", "chosen")))
    _passed_over(path, columns.others, note)
    yield from _rows_of_arrays({ours: arrays[name] for ours, name in columns.names.items()}, path)


def read_parquet(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read Parquet with the columns of a table of rows, as pandas writes it."""
    yield from _rows_of(parquet_rows(path), path, options, note)


# --- from records to rows ------------------------------------------------------------------------


def _rows_of(
    source: Iterator[Record], path: Path, options: Options, note: Note, *, text: bool = False
) -> Iterator[Rows]:
    """Read rows together that have the same form; what comes before a fault is yielded first."""
    document, renamed = Numbering(), _renamed(source, path, options, note)

    def rows() -> Iterator[Record]:
        for place, record in renamed:
            clean = _from_text(record, path, place) if text else record
            for row in spread(clean):
                yield place, _checked(row, document, path, place)

    parsed, fault = rows(), None
    while fault is None:
        batch: list[Record] = []
        try:
            batch.extend(islice(parsed, BATCH))
        except TraceError as error:
            fault = error
        if not batch:
            break
        yield from _by_form(batch, path)
    if fault is not None:
        raise fault


def _by_form(batch: list[Record], path: Path) -> Iterator[Rows]:
    """Read rows together that have the same columns, and one name of a layer or numbers."""
    forms: dict[tuple[Any, ...], list[Record]] = {}
    for place, record in batch:
        name = record["layer"] if isinstance(record["layer"], str) else None
        form = (name, *(column in record for column in ("weight", "token")))
        forms.setdefault(form, []).append((place, record))
    for (name, *_), some in forms.items():
        yield _together(name, some, path)


def _renamed(
    source: Iterator[Record], path: Path, options: Options, note: Note
) -> Iterator[Record]:
    """Give each record our names; what has none of ours is passed over, and said."""
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for place, raw in source:
        record = with_nested(raw, options.columns.values())
        keys = tuple(record)
        if keys not in known:
            columns = match_columns(keys, ROW_NAMES, options.columns)
            if not {"layer", "chosen"} <= columns.names.keys():
                refuse(path, place, missing_columns(keys, columns, ("layer", "chosen")))
            _passed_over(path, columns.others, note)
            known[keys] = columns.names
        yield (
            place,
            {
                ours: record[name]
                for ours, name in known[keys].items()
                if record[name] is not None or ours in {"layer", "chosen"}  # null is unknown
            },
        )


def _passed_over(path: Path, others: tuple[str, ...], note: Note) -> None:
    if others:
        names = brief_names(others)
        note(f"{path.name}: columns that say nothing of routing were passed over: {names}.")


def _from_text(record: Mapping[str, Any], path: Path, place: str) -> dict[str, Any]:
    """Return the cells of a CSV row as the values that JSON has."""
    row = {name: cell for name, cell in record.items() if cell or name == "chosen"}
    if "chosen" in row:
        row["chosen"] = cell_numbers(row["chosen"], int, path, place)
    if "weight" in row:
        weight = _with_points(row["weight"], len(row.get("chosen", ())))
        row["weight"] = cell_numbers(weight, float, path, place)
    for name in ("layer", "document", *INTEGER):
        if name in row and (whole := WHOLE.fullmatch(row[name])):
            row[name] = int(whole[1])
    return row


def _with_points(text: str, numbers_in: int) -> str:
    """Return numbers with points for decimals; commas are such where they do not separate."""
    parts = text.strip("[]() ").split()
    decimals = len(parts) == numbers_in and all(map(COMMA.fullmatch, parts))
    return text.replace(",", ".") if decimals else text


def _checked(
    record: Mapping[str, Any], document: Numbering, path: Path, place: str
) -> dict[str, Any]:
    row = dict(record)
    row.setdefault("chosen", [])
    if isinstance(row["chosen"], str):
        row["chosen"] = cell_numbers(row["chosen"], int, path, place)
    layer, chosen = row.get("layer"), row["chosen"]
    if isinstance(layer, float) and layer.is_integer():
        row["layer"] = layer = int(layer)
    if isinstance(chosen, int) and not isinstance(chosen, bool):
        row["chosen"] = chosen = [chosen]  # a single choice, as logs of top-1 routing have it
    if isinstance(row.get("weight"), int | float) and not isinstance(row["weight"], bool):
        row["weight"] = [row["weight"]]
    if not isinstance(layer, int | str) or isinstance(layer, bool) or not isinstance(chosen, list):
        refuse(
            path,
            place,
            f"layer is {brief(layer)}, chosen {brief(chosen)}: expected a number and a list",
        )
    weight = row.get("weight")
    if weight is not None and (not isinstance(weight, list) or len(weight) != len(chosen)):
        refuse(path, place, f"has weights {brief(weight)} for choices {brief(chosen)}")
    if "document" in row:
        row["document"] = document(row["document"], path, place)
    row["phase"] = _phase(row.get("phase", "unknown"), path, place)
    row["label"] = _label(row.get("label"), path, place)
    return row


def _together(name: str | None, rows: list[Record], path: Path) -> Rows:
    place = f"{rows[0][0]} to {rows[-1][0]}" if len(rows) > 1 else rows[0][0]
    first = rows[0][1]
    width = max([1, *(len(record["chosen"]) for _, record in rows)])

    def column(key: str, absent: Any) -> list[Any]:
        return [record.get(key, absent) for _, record in rows]

    def padded(key: str, filler: Any) -> list[Any]:
        return [values + [filler] * (width - len(values)) for values in column(key, [])]

    layer: Any = name
    if name is None:
        layer = integers(column("layer", None), 1, path, place, "layer")
    return Rows(
        layer=layer,
        chosen=integers(padded("chosen", -1), 2, path, place, "chosen"),
        weight=(
            numbers(padded("weight", 0.0), 2, path, place, "weight") if "weight" in first else None
        ),
        document=integers(column("document", -1), 1, path, place, "document"),
        position=integers(column("position", -1), 1, path, place, "position"),
        phase=column("phase", 0),
        label=column("label", None),
        token=integers(column("token", -1), 1, path, place, "token") if "token" in first else None,
    )


def _phase(value: Any, path: Path, place: str) -> int:
    word = PHASE_WORDS.get(value.lower()) if isinstance(value, str) else None
    if word is None:
        refuse(path, place, f"phase is {brief(value)}: expected one of {', '.join(PHASES)}")
    return PHASES.index(word)


def _label(value: Any, path: Path, place: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(path, place, f"label is {brief(value)}: expected text or a number")
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- forms of JSON -------------------------------------------------------------------------------


def _is_meta(record: Mapping[str, Any]) -> bool:
    """Tell whether a record says something of the file, not of a token."""
    return str(record.get("type") or record.get("record_type") or "").endswith("meta")


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of the model."""
    facts: dict[str, Any] = {}
    for ours, names in FACTS.items():
        for name in names:
            value = record.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                facts[ours] = value
    model = record.get("model_id") or record.get("model_type")
    return facts | ({"model": model} if isinstance(model, str) else {})


def _layers_of(
    place: str, record: Mapping[str, Any], path: Path, number: int, options: Options
) -> Iterator[Record]:
    """Yield a record for each layer of one that has a list of them, with what stands beside it.

    Such a record is of one prompt: where it does not name its document, it is one by its number.
    """
    layers = record.get("layers")
    if not isinstance(layers, list) or not layers or not isinstance(layers[0], dict):
        yield place, record
        return
    beside = {
        name: value
        for name, value in record.items()
        if name in {*ROW_NAMES, *ROW_NAMES["label"], *ROW_NAMES["document"]}
        or name in options.columns.values()
        if not isinstance(value, list | dict)
    }
    for index, layer in enumerate(layers):
        where = f"{place}, layers[{index}]"
        row = beside | as_object(layer, path, where)
        if "document" not in match_columns(tuple(row), ROW_NAMES, options.columns).names:
            row["document"] = number
        yield where, row


# --- forms of NPZ --------------------------------------------------------------------------------


def _rows_of_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> Iterator[Rows]:
    chosen = integers(arrays["chosen"], 2, path, "array chosen", "chosen")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != len(chosen):
            refuse(path, f"array {name}", f"has shape {array.shape}: expected {len(chosen)} rows")
    weight = arrays.get("weight")
    if weight is not None:
        weight = numbers(weight, 2, path, "array weight", "weight")
        if weight.shape != chosen.shape:
            refuse(path, "array weight", f"has weights {weight.shape} for choices {chosen.shape}")
    layer = _decoded(arrays["layer"], "layer", path)
    names = layer.dtype.kind == "U"
    singles: dict[str, Any] = {
        name: integers(_numbered(arrays[name], name, path), 1, path, f"array {name}", name)
        for name in ("document", *INTEGER, "phase")
        if name in arrays
    }
    if "phase" in singles and not (singles["phase"] < len(PHASES)).all():
        refuse(path, "array phase", f"holds {singles['phase'].max()}: expected {_phases()}")
    label = _labels_of(arrays["label"], path) if "label" in arrays else None
    for kind in np.unique(layer) if names else [None]:
        rows = layer == kind if names else slice(None)
        yield Rows(
            layer=str(kind) if names else integers(layer, 1, path, "array layer", "layer"),
            chosen=chosen[rows],
            weight=None if weight is None else weight[rows],
            label=None if label is None else _take(label, rows),
            **{name: array[rows] for name, array in singles.items()},
        )


def _phases() -> str:
    return ", ".join(f"{number} ({name})" for number, name in enumerate(PHASES))


def _labels_of(array: NDArray[Any], path: Path) -> list[str | None]:
    """Return labels as text, as other forms have them; what is empty or NaN is none."""
    text = _decoded(array, "label", path)
    if text.ndim != 1 or text.dtype.kind not in "Uiuf":
        refuse(
            path, "array label", f"is {text.dtype} of shape {text.shape}: expected text of a row"
        )
    return [None if value != value else _label(value, path, "array label")  # noqa: PLR0124 - NaN
            for value in text.tolist()]  # fmt: skip


def _decoded(array: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    """Return text of bytes as text."""
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        refuse(path, f"array {name}", f"holds bytes that are not UTF-8 ({error.reason})")


def _numbered(array: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    """Return documents that have names as numbers, in order of their first row; phases likewise."""
    if name == "phase" and array.dtype.kind in "US":
        words = _decoded(array, name, path).ravel().tolist()
        known = {word: _phase(word, path, "array phase") for word in dict.fromkeys(words)}
        return np.array([known[word] for word in words], dtype=np.int64)
    if name != "document" or array.dtype.kind not in "US":
        return array
    _, first, inverse = np.unique(array, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _take(label: list[str | None], rows: slice | NDArray[np.bool_]) -> list[str | None]:
    return [label[index] for index in np.arange(len(label))[rows]]


# --- which files these are -----------------------------------------------------------------------


def _holds_rows(names: list[str]) -> bool:
    """Tell whether columns are those of rows: ``selected`` beside experts is a count of them."""
    rows, counts = match_columns(names, ROW_NAMES, {}), match_columns(names, COUNT_NAMES, {})
    counted = "expert" in counts.names and counts.names.get("count") == rows.names.get("chosen")
    return {"layer", "chosen"} <= rows.names.keys() and not counted


def _is_csv(path: Path, start: bytes) -> bool:
    if not any(plain_name(path).endswith(end) for end in (".csv", ".tsv", ".txt")):
        return False
    try:
        first = next(iter(table_lines(path, start)), None)
    except TraceError:
        return False
    names = list(first[1]) if first else []
    return _holds_rows(names)


def _is_jsonl(_path: Path, start: bytes) -> bool:
    if start.lstrip()[:1] not in (b"{", b"["):
        return False
    keys = first_keys(start)
    if match_columns(keys, ROW_NAMES, {}).names.keys() >= {"layer", "chosen"}:
        return _holds_rows(keys)

    def named(*names: str) -> bool:
        return any(f'"{name}"'.encode() in start for name in names)

    chosen = ("chosen", *ROW_NAMES["chosen"][:-3])
    return named("layer", *ROW_NAMES["layer"]) and named(*chosen)


def _is_npz(path: Path, start: bytes) -> bool:
    if not start.startswith(b"PK") or path.suffix != ".npz":
        return False
    names = npz_names(path)
    return names is None or _holds_rows(names)  # of a damaged one reading says where


def _is_parquet(path: Path, start: bytes) -> bool:
    return start.startswith(b"PAR1") and _holds_rows(parquet_names(path))


def _form(name: str, about: str, patterns: tuple[str, ...], **functions: Any) -> Format:
    return Format(
        name=name,
        about=about,
        patterns=patterns,
        **functions,
        keep_empty=True,
        weight_scale=None,
        phase="mixed",
    )


FORMATS = (
    _form(
        "csv",
        "a table: layer,chosen and optional columns, a row for each token and layer",
        ("*.csv", "*.tsv", "*.txt"),
        sniff=_is_csv,
        read=read_csv,
    ),
    _form(
        "jsonl",
        'objects: {"layer": 3, "chosen": [5, 1], ...}, or "chosen": a list of lists',
        ("*.jsonl", "*.ndjson", "*.json"),
        sniff=_is_jsonl,
        read=read_jsonl,
    ),
    _form("npz", "one array for each column", ("*.npz",), sniff=_is_npz, read=read_npz),
    _form(
        "parquet",
        "the columns of csv in Parquet, chosen as lists",
        ("*.parquet",),
        sniff=_is_parquet,
        read=read_parquet,
    ),
)
