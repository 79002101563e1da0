"""Traces on disk: a folder of a header, Parquet parts and a marker that says it is whole.

    NAME.trace/
      header.json          what the rows mean; written first
      part-000000.parquet  rows, in order; each written under another name, then renamed
      part-000001.parquet
      complete.json        rows of each part and the hash of its footer; written last

Whatever stops the writer, the parts that are there are whole and in order, and the missing marker
says that there were to be more. Each part names the header that it belongs to, and each of its
pages has a checksum, which is compared when it is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval import atomic
from modeval.errors import DependencyError, TraceError
from modeval.pace import tell
from modeval.trace.trace import (
    DTYPES,
    TraceChunk,
    TraceHeader,
    Warned,
    check_chunk,
    header_from_json,
)

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What JSON of another form than ours causes."""
UNWRITTEN = atomic.Fault(
    TraceError,
    "Free some space, or give another name; remove what is left under this one.",
)
HEADER = "header.json"
COMPLETE = "complete.json"
FINGERPRINT = b"modeval.header"
ROWS_PER_GROUP = 1 << 18
ROWS_PER_PART = 1 << 20
PART = re.compile(r"part-(\d{6})\.parquet")


@dataclass(frozen=True, slots=True)
class TracePart:
    """One Parquet file of a trace, and the hash of its footer, which has no checksum of its own."""

    path: Path
    rows: int
    footer: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """An open trace: the header is read, the rows are not.

    Attributes:
        path: the folder.
        header: what the rows mean.
        parts: its files in order.
        complete: whether the writer came to its end; if not, the rows are a prefix.
    """

    path: Path
    header: TraceHeader
    parts: tuple[TracePart, ...]
    complete: bool

    @property
    def rows(self) -> int:
        """Return the number of rows of all parts."""
        return sum(part.rows for part in self.parts)


class TraceWriter:
    """Append rows to a new trace, as a context manager.

    Rows gather in memory and go to disk ``rows_per_part`` at a time. Leaving the context without
    an error marks the trace complete; with an error, what was appended is kept as a prefix.

    with TraceWriter(folder, header) as writer:
        writer.append(make_chunk(layer=0, chosen=[[2, 1]], weight=[[0.7, 0.3]]))

    Raises:
        TraceError: the folder exists already, or rows contradict the header.
        DependencyError: pyarrow is not installed.
    """

    def __init__(
        self, path: Path | str, header: TraceHeader, *, rows_per_part: int = ROWS_PER_PART
    ) -> None:
        import_arrow()
        self.path = Path(path)
        self.header = header
        self.rows = 0
        self._rows_per_part = rows_per_part
        self._pending: list[TraceChunk] = []
        self._waiting = 0
        self._parts: list[TracePart] = []
        check_new(self.path)
        with atomic.reported(self.path, UNWRITTEN), atomic.new_folders(self.path):
            atomic.write_text(self.path / HEADER, header.to_json(), UNWRITTEN)

    def append(self, chunk: TraceChunk) -> None:
        """Add rows at the end."""
        check_chunk(chunk, self.header)
        self._pending.append(chunk)
        self._waiting += len(chunk)
        self.rows += len(chunk)
        while self._waiting >= self._rows_per_part:
            self._write(self._rows_per_part)

    def note(self, *notes: str) -> None:
        """Add warnings to the header, each once."""
        self.header = self.header.noted(*notes)
        atomic.write_text(self.path / HEADER, self.header.to_json(), UNWRITTEN)

    def warn(self, *warnings: Warned) -> None:
        """Add what makes scores doubtful to the header, each once."""
        self.header = self.header.warned(*warnings)
        write_header(self.path, self.header)

    def flush(self) -> None:
        """Put all rows appended so far on disk, as a part of their own."""
        if self._waiting:
            self._write(self._waiting)

    def __enter__(self) -> "TraceWriter":  # noqa: PYI034 - checks at run time cannot read Self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()
        if kind is None:
            _write_complete(self.path, self._parts)

    def _write(self, rows: int) -> None:
        chunk = concatenate(self._pending)
        part = self.path / f"part-{len(self._parts):06d}.parquet"
        _write_part(part, chunk[:rows], self.header)
        self._parts.append(TracePart(part, rows, _footer(part)))
        self._pending = [chunk[rows:]] if len(chunk) > rows else []
        self._waiting = len(chunk) - rows


def write_header(folder: Path, header: TraceHeader) -> None:
    """Write the header of a trace again, with other notes or warnings; its rows stay."""
    atomic.write_text(folder / HEADER, header.to_json(), UNWRITTEN)


def open_trace(path: Path | str) -> Trace:
    """Read the header of a trace and check that its parts are there, whole and its own.

    Raises:
        TraceError: no trace, another version, or a part is missing, damaged or of another trace.
    """
    folder = Path(path)
    header = _read_header(folder)
    parts = _find_parts(folder, header)
    marker = folder / COMPLETE
    if marker.exists():
        _check_complete(marker, parts)
    return Trace(folder, header, parts, marker.exists())


def read_trace(
    path: Path | str, *, rows: int = ROWS_PER_GROUP
) -> tuple[TraceHeader, Iterator[TraceChunk]]:
    """Return the header and an iterator of chunks of at most ``rows`` rows, in order.

    Memory does not grow with the trace: one row group is read at a time.

    Raises:
        TraceError: now or while iterating, when a file is damaged or a number is out of range.
    """
    trace = open_trace(path)
    return trace.header, chunks(trace, rows=rows)


def chunks(trace: Trace, *, rows: int = ROWS_PER_GROUP) -> Iterator[TraceChunk]:
    """Iterate over an open trace; the rows are checked against its header."""
    done = 0
    for part in trace.parts:
        for columns in _read_part(part, trace.header.columns, rows):
            chunk = TraceChunk(**columns)
            try:
                check_chunk(chunk, trace.header)
            except TraceError as error:
                raise TraceError(f"{part.path}: {error}") from None
            yield chunk
            done += len(chunk.layer)
            tell(f"reading rows of {trace.path.name}", done, trace.rows)


def read_columns(
    trace: Trace, columns: Sequence[str], *, rows: int = ROWS_PER_GROUP
) -> Iterator[dict[str, NDArray[Any]]]:
    """Iterate over some columns only; nothing is checked but the files and their types.

    Raises:
        TraceError: a column is not in the trace, or a file is damaged.
    """
    for name in columns:
        if name not in trace.header.columns:
            raise TraceError(
                f"{trace.path} has no column {name!r}: it has {', '.join(trace.header.columns)}."
            )
    done = 0
    for part in trace.parts:
        for some in _read_part(part, columns, rows):
            yield some
            done += len(some[columns[0]]) if columns else 0
            tell(f"reading rows of {trace.path.name}", done, trace.rows)


def concatenate(parts: Sequence[TraceChunk]) -> TraceChunk:
    """Return the rows of chunks with the same columns as one chunk."""
    if len(parts) == 1:
        return parts[0]
    columns = [part.arrays() for part in parts]
    return TraceChunk(
        **{name: np.concatenate([arrays[name] for arrays in columns]) for name in columns[0]}
    )


# --- Parquet -------------------------------------------------------------------------------------


def import_arrow() -> Any:
    """Return pyarrow with its Parquet part.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise DependencyError(
            "Traces are Parquet files, and pyarrow is not installed: "
            'pip install "modeval-cli[arrow]"'
        ) from None
    return pa


def _schema(header: TraceHeader) -> Any:
    """Return the Parquet schema: plain numbers, lists whose items are never null."""
    arrow = import_arrow()

    def kind(name: str) -> Any:
        number = arrow.from_numpy_dtype(DTYPES[name])
        if name in ("chosen", "weight", "logits"):
            return arrow.list_(arrow.field("element", number, nullable=False))
        return number

    entries = [arrow.field(name, kind(name), nullable=name == "token") for name in header.columns]
    return arrow.schema(entries, metadata={FINGERPRINT: header.fingerprint().encode()})


def _to_arrow(name: str, column: NDArray[Any], kind: Any) -> Any:
    arrow = import_arrow()
    if column.ndim == 1:
        return arrow.array(column, kind, mask=(column < 0) if name == "token" else None)
    offsets = np.arange(len(column) + 1, dtype=np.int64) * column.shape[1]
    values = arrow.array(np.ascontiguousarray(column).reshape(-1))
    return arrow.ListArray.from_arrays(arrow.array(offsets, arrow.int32()), values, type=kind)


def _write_part(path: Path, chunk: TraceChunk, header: TraceHeader) -> None:
    arrow = import_arrow()
    schema = _schema(header)
    rare = ("document", "phase", "label", "layer", "chosen.list.element")
    with (
        atomic.whole_file(path, UNWRITTEN, also=(arrow.ArrowException,)) as temporary,
        arrow.parquet.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=list(rare),
            use_byte_stream_split=[
                f"{name}.list.element" for name in ("weight", "logits") if name in header.columns
            ],
        ) as writer,
    ):
        for start in range(0, len(chunk), ROWS_PER_GROUP):
            rows = chunk[start : start + ROWS_PER_GROUP].arrays()
            table = [_to_arrow(field.name, rows[field.name], field.type) for field in schema]
            writer.write_table(arrow.Table.from_arrays(table, schema=schema))


def _read_part(
    part: TracePart, columns: Sequence[str], rows: int
) -> Iterator[dict[str, NDArray[Any]]]:
    arrow = import_arrow()
    found = 0
    try:
        with arrow.parquet.ParquetFile(part.path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                found += len(batch)
                yield {name: _to_numpy(batch.column(name), name, part.path) for name in columns}
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{part.path} is damaged: {_first_line(error)}.") from None
    if found != part.rows:
        raise TraceError(f"{part.path} is damaged: it gives {found} of its {part.rows} rows.")


def _to_numpy(column: Any, name: str, path: Path) -> NDArray[Any]:
    arrow = import_arrow()
    if name == "token":
        column = column.fill_null(-1)
    if column.null_count:
        raise TraceError(f"{path}: column {name} holds nulls: expected numbers.")
    if not arrow.types.is_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=True))
    values = column.flatten()
    lengths = np.diff(column.offsets.to_numpy())
    width = int(lengths[0]) if len(lengths) else 0
    if (lengths != width).any() or values.null_count:
        raise TraceError(f"{path}: the lists of column {name} differ in length.")
    return np.asarray(values.to_numpy(zero_copy_only=True)).reshape(len(column), width)


# --- files ---------------------------------------------------------------------------------------


def _read_header(folder: Path) -> TraceHeader:
    file = folder / HEADER
    if not file.is_file():
        raise TraceError(
            f"No trace at {folder}: there is no {HEADER} in it. Record one with: modeval record "
            "MODEL --data FILE --out DIR.trace, or import one with: modeval import SOURCE --out "
            "DIR.trace"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{file} cannot be read: {_first_line(error)}.") from None
    return header_from_json(text, str(file))


def is_header(path: Path) -> bool:
    """Tell whether a file is the header of a trace, whatever else is wrong with it."""
    try:
        with path.open("rb") as file:
            return b'"kind": "modeval trace"' in file.read(200)
    except OSError:
        return False


def _find_parts(folder: Path, header: TraceHeader) -> tuple[TracePart, ...]:
    paths = sorted(path for path in folder.iterdir() if PART.fullmatch(path.name))
    for number, path in enumerate(paths):
        if path.name != f"part-{number:06d}.parquet":
            raise TraceError(
                f"{folder / f'part-{number:06d}.parquet'} is missing, and {path.name} follows it. "
                "Put it back, or record again."
            )
    return tuple(_open_part(path, header) for path in paths)


def _open_part(path: Path, header: TraceHeader) -> TracePart:
    arrow = import_arrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} is damaged: {_first_line(error)}.") from None
    wanted = _schema(header)
    if not schema.equals(wanted):
        raise TraceError(
            f"{path} has the columns {_describe(schema)}: its header asks for {_describe(wanted)}."
        )
    if (schema.metadata or {}).get(FINGERPRINT) != wanted.metadata[FINGERPRINT]:
        raise TraceError(
            f"{path} was written under another header than the {HEADER} beside it, so its numbers "
            "mean something else. Put the right header back, or record again."
        )
    return TracePart(path, rows, _footer(path))


def _footer(path: Path) -> str:
    """Return a hash of the end of a Parquet file: what its columns are, and where they begin."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little") + 8
        file.seek(-min(size, path.stat().st_size), os.SEEK_END)
        return hashlib.sha256(file.read()).hexdigest()[:16]


def _describe(schema: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _check_complete(marker: Path, parts: tuple[TracePart, ...]) -> None:
    try:
        listed = json.loads(marker.read_text(encoding="utf-8"))["parts"]
        expected = {str(item["name"]): int(item["rows"]) for item in listed}
        footers = {str(item["name"]): item.get("footer") for item in listed}
    except (*UNREADABLE, OSError) as error:
        raise TraceError(
            f"{marker} is damaged ({_first_line(error)}): expected the rows of each part. Remove "
            "the file to read the parts as a prefix."
        ) from None
    found = {part.path.name: part.rows for part in parts}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise TraceError(
                f"{marker.parent / name} has {found.get(name, 'no')} rows: {COMPLETE} lists "
                f"{expected.get(name, 'no')}. Put the right file back, or record again."
            )
    for part in parts:
        if footers[part.path.name] not in (None, part.footer):
            raise TraceError(
                f"{part.path} is damaged: it is not what was written (the checksum of its end "
                "differs). Put the right file back, or record again."
            )


def check_new(folder: Path) -> None:
    """Refuse a folder that holds anything but what a killed writer left before its first file.

    Raises:
        TraceError: there is something in it.
    """
    held = folder.iterdir() if folder.is_dir() else ()
    taken = any(not path.name.endswith(atomic.PARTIAL) for path in held)
    if folder.exists() and (not folder.is_dir() or taken):
        raise TraceError(
            f"{folder} exists and is not empty: expected a new folder. Remove it, or give another "
            "name."
        )


def _write_complete(folder: Path, parts: Sequence[TracePart]) -> None:
    entries = [{"name": part.path.name, "rows": part.rows, "footer": part.footer} for part in parts]
    text = json.dumps({"rows": sum(part.rows for part in parts), "parts": entries}, indent=2)
    atomic.write_text(folder / COMPLETE, text + "\n", UNWRITTEN)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def relabelled(chunk: TraceChunk, labels: NDArray[np.int32]) -> TraceChunk:
    """Return the rows with each label number replaced by ``labels[number]``; -1 stays."""
    return replace(chunk, label=np.append(labels, np.int32(-1))[chunk.label])


def scan(trace: Trace, columns: Sequence[str], *, rows: int = ROWS_PER_GROUP) -> int:
    """Decode columns with pyarrow and drop them: what any reader must at least pay."""
    arrow = import_arrow()
    total = 0
    for part in trace.parts:
        with arrow.parquet.ParquetFile(part.path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                total += len(batch)
    return total
