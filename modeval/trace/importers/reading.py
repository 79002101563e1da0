"""What importers read with: files, lines, JSON, arrays, tensors; each fault names its place."""

import base64
import binascii
import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from modeval.errors import DependencyError, ModevalError, TraceError
from modeval.pace import tell
from modeval.text import brief
from modeval.trace.files import import_arrow
from modeval.trace.importers.format import DECODE, PREFILL, Counts, Options, Rows
from modeval.trace.importers.packing import ERRORS, open_plain, plain_name

HEAD_BYTES = 1 << 16
RULE = " \t\r\n|+:-="  # of which lines between rows of a drawn table consist
LONGEST_LINE, LONGEST_ROW = 1 << 26, 1 << 20
PARQUET_BATCH = 1 << 14
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
TOLD_LINES, MEGA = 4096, 1e6
KINDS = {"b": "true or false", "f": "decimal numbers", "U": "text", "S": "text", "M": "dates"}
LARGEST_WHOLE = 1 << 31


def refuse(path: Path, place: str, reason: str, advice: str = "") -> NoReturn:
    """Raise the error of a file that is not what it should be."""
    where = f"{path}, {place}" if place else str(path)
    raise TraceError(f"{where}: {reason}.{f' {advice}' if advice else ''}")


def head(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked; none when it cannot be read."""
    try:
        with open_plain(path) as file:
            return file.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)
    except (*ERRORS, ModevalError):
        return b""


def read_bytes(path: Path) -> bytes:
    """Return a whole file, unpacked."""
    try:
        with open_plain(path) as file:
            data = file.read(LARGEST_WHOLE + 1)
    except ERRORS as error:
        refuse(path, "", f"cannot be read ({error})")
    if len(data) > LARGEST_WHOLE:
        refuse(path, "", "is larger than 2 GiB when unpacked")
    return data


def load_array(file: BufferedIOBase, path: Path, place: str, what: str) -> NDArray[Any]:
    """Load an NPY array of numbers; its header may lie about its size, or ask for objects."""
    try:
        array = np.load(file, allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - a damaged header can raise anything
        refuse(path, place, f"{what} is no NPY array of numbers ({brief(str(error), 200)})")
    if not isinstance(array, np.ndarray):
        refuse(path, place, f"{what} is no NPY array of numbers (it holds several arrays)")
    return array


def load_npy(path: Path) -> NDArray[Any]:
    """Return the array of an NPY file, packed or not, after which nothing may follow."""
    try:
        with open_plain(path) as opened:
            source = opened if opened.seekable() else io.BytesIO(read_bytes(path))
            array = load_array(source, path, "", "the file")
            goes_on = bool(source.read(1))
    except ERRORS as error:
        refuse(path, "", f"cannot be read ({error})")
    if goes_on:
        refuse(path, "", "goes on after its array, so it is damaged")
    return array


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an NPZ file by their names."""
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(item.file_size for item in packed.infolist())
        if unpacked > LARGEST_WHOLE:
            refuse(path, "", "is larger than 2 GiB when unpacked", "Write it as JSONL or CSV.")
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except TraceError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged array raises anything
        refuse(path, "", f"is no NPZ of plain arrays ({brief(str(error), 200)})")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line that is not empty, with its place for messages: ``line 7``."""
    for place, line in _raw_lines(path):
        if text := line.strip():
            yield place, text


def _raw_lines(path: Path) -> Iterator[tuple[str, str]]:
    number = 0
    try:
        with open_plain(path) as file:
            size = path.stat().st_size
            while line := file.readline(LONGEST_LINE):
                number += 1
                if number % TOLD_LINES == 0:
                    _tell_place(path, file, size)
                if len(line) == LONGEST_LINE:
                    refuse(path, f"line {number}", "is longer than 64 MiB")
                yield f"line {number}", line.decode("utf-8-sig" if number == 1 else "utf-8")
    except ERRORS as error:
        refuse(path, f"after line {number}", f"cannot be read ({error})")
    except UnicodeDecodeError as error:
        refuse(path, f"line {number}", f"is not UTF-8 text ({error.reason})")


def _tell_place(path: Path, file: BufferedIOBase, size: int) -> None:
    """Tell how much of a file is read; of a packed one, how much of it was unpacked."""
    packed = getattr(file, "fileobj", None)
    place = int(file.tell() if packed is None else packed.tell())
    known = packed is not None or isinstance(file, io.BufferedReader)
    tell(f"reading {path.name}, MB", place / MEGA, size / MEGA if known else None)


def table_lines(path: Path, start: bytes | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file by column, each with its place, under a line of names.

    Cells are separated by commas, semicolons, tabs or bars, whichever the line of names has most
    of. A column without a name, as an index is saved, is called ``unnamed 0`` by its place.
    Lines that begin with ``#`` are passed over. A cell in quotes may go on over several lines. A
    file without rows yields nothing.

    Args:
        path: the file.
        start: read only this beginning of it; its first line is then yielded with empty cells.
    """
    source = _raw_lines(path) if start is None else _first_lines(start)
    rows = _whole_rows((place, text) for place, text in source)
    place, first = next(rows, ("line 1", ""))
    if not first:
        return
    separator = _separator(first)
    names = [name.strip() for name in _cells(first, separator, path, place)]
    names = [name or f"unnamed {number}" for number, name in enumerate(names)]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        refuse(path, place, f"names the column {brief(twice[0])} twice", "Keep one of them.")
    if start is not None:
        yield place, dict.fromkeys(names, "")
        return
    for where, text in rows:
        cells = _cells(text, separator, path, where)
        if len(cells) != len(names):
            refuse(path, where, f"has {len(cells)} cells: expected {len(names)}")
        yield where, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}


def _whole_rows(source: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the rows of a table, each with the place where it begins."""
    begin, held, separator, goes_on = "", "", "", False
    for place, text in source:
        if not held and (text.lstrip().startswith("#") or not text.strip(RULE)):
            continue
        begin, held = begin if held else place, held + text
        separator = separator or _separator(held)
        if '"' in text:
            goes_on = _goes_on(held, separator)
        if goes_on and len(held) < LONGEST_ROW:
            continue
        yield begin, held.rstrip("\r\n")
        held, goes_on = "", False
    if held:
        yield begin, held


def _separator(names: str) -> str:
    """Return what separates the cells of a table, by its line of names."""
    return max(",;\t|", key=names.count)


def _goes_on(text: str, separator: str) -> bool:
    """Return whether the last cell of a row is in quotes that are open yet."""
    if text.count('"') % 2 == 0:
        return False
    try:
        next(csv.reader(io.StringIO(text), strict=True, delimiter=separator))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _first_lines(start: bytes) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(start.decode("utf-8-sig", "replace").splitlines()[:64]):
        if line.strip():
            yield f"line {number + 1}", line


def _cells(text: str, separator: str, path: Path, place: str) -> list[str]:
    if '"' not in text and "\r" not in text:
        return text.split(separator)
    try:
        return next(csv.reader(io.StringIO(text), strict=True, delimiter=separator))
    except (csv.Error, StopIteration) as error:
        if "\r" in text:
            refuse(
                path, place, "has lines that end as those of old Macs do", "Save it anew as CSV."
            )
        refuse(path, place, f"is no CSV ({error})")


def parquet_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file; none if it cannot be read."""
    try:
        return list(import_arrow().parquet.read_schema(path).names)
    except (DependencyError, OSError, ValueError):
        return []


def npz_names(path: Path) -> list[str] | None:
    """Return the names of the arrays of an NPZ file; None if it is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile):
        return None


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a Parquet file, each with its place."""
    arrow, row = import_arrow(), 0
    try:
        with arrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                refuse(path, "", f"names the column {brief(twice[0])} twice", "Keep one of them.")
            for batch in file.iter_batches(batch_size=PARQUET_BATCH):
                for record in batch.to_pylist():
                    yield f"row {row}", record
                    row += 1
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        refuse(path, f"after row {row}", f"is damaged ({brief(str(error), 200)})")


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSONL file, each with its place."""
    for place, text in lines(path):
        try:
            value = parse_json(text, path, place)
        except TraceError as error:
            raise TraceError(f"{error} Each line must be one JSON object.") from None
        yield place, as_object(value, path, place)


def parse_json(text: str | bytes, path: Path, place: str = "") -> Any:
    """Read JSON; the constants NaN and Infinity are none."""
    try:
        data = text.removeprefix(BYTE_ORDER_MARK) if isinstance(text, bytes) else text
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        refuse(path, place, f"is not JSON ({error})")


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a file that is JSONL, one JSON object, or a JSON list of them."""
    start = head(path).lstrip()
    whole = plain_name(path).endswith(".json") or start.startswith(b"[")
    if not whole:
        yield from json_lines(path)
        return
    value = parse_json(read_bytes(path), path)
    items = value if isinstance(value, list) else [value]
    for number, item in enumerate(items):
        place = f"record {number}"
        yield place, as_object(item, path, place)


def has_keys(start: bytes, *keys: str) -> bool:
    """Return whether the beginning of a JSON file names all these keys."""
    return start.lstrip()[:1] in (b"{", b"[") and all(f'"{key}"'.encode() in start for key in keys)


def as_object(value: Any, path: Path, place: str) -> dict[str, Any]:
    """Return a JSON object, or refuse."""
    if not isinstance(value, dict):
        refuse(path, place, f"holds {brief(value)}: expected a JSON object")
    return value


def required(record: Mapping[str, Any], name: str, kind: type, path: Path, place: str) -> Any:
    """Return a field of a record that must be there and of a type; booleans are no numbers."""
    if name not in record:
        refuse(path, place, f"has no {name!r}: it has {', '.join(map(repr, record)) or 'nothing'}")
    value = record[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        refuse(path, place, f"{name!r} is {brief(value)}: expected {kind.__name__}")
    return value


def integers(value: Any, axes: int, path: Path, place: str, what: str) -> NDArray[np.int64]:
    """Return nested lists, or an array, of integers with a number of axes, or refuse."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        refuse(path, place, f"{what} is ragged or no list of numbers")
    if array.size == 0 and array.ndim <= axes:
        return np.zeros((0,) * axes, dtype=np.int64)
    if array.dtype.kind == "f" and array.ndim == axes and is_whole(array):
        array = array.astype(np.int64)  # as tables with gaps save them: 3.0
    if array.dtype.kind not in "iu" or array.ndim != axes:
        refuse(path, place, f"{what} holds {_kind(array)}: expected integers {_in_axes(axes)}")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        refuse(path, place, f"{what} holds {array.max()}, which is too large")
    return array.astype(np.int64, copy=False)


def numbers(value: Any, axes: int, path: Path, place: str, what: str) -> NDArray[np.float64]:
    """Return nested lists, or an array, of finite numbers with a number of axes, or refuse."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        refuse(path, place, f"{what} is ragged or no list of numbers")
    if array.dtype.kind not in "iuf" or array.ndim != axes:
        refuse(path, place, f"{what} holds {_kind(array)}: expected numbers {_in_axes(axes)}")
    found = real(array)
    if not np.isfinite(found).all():
        refuse(path, place, f"{what} holds a value that is not finite")
    return found


def real(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers in double precision; what is none, or is too large, is not finite.

    The processor signals both, of which NumPy would warn: whoever calls this looks at the values.

    >>> signalling = np.array([0x7F800001, 0x3F800000], np.uint32).view(np.float32)
    >>> real(signalling)
    array([nan,  1.])
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return array.astype(np.float64, copy=False)


def is_whole(array: NDArray[Any]) -> bool:
    """Return whether all numbers are finite, whole, and small enough to be exact."""
    return bool((np.abs(array) < 2.0**53).all() and (array == np.round(array)).all())


def _kind(array: NDArray[Any]) -> str:
    """Say what an array holds: ``text in 1 axis``, ``decimal numbers such as 2.5 in 2 axes``."""
    kind = KINDS.get(array.dtype.kind, "numbers" if array.dtype.kind in "iu" else None)
    if kind is None:
        kind = f"values of several kinds, or too large ({array.dtype})"
    first = None
    if array.dtype.kind == "f":
        wide = real(array)
        parts = wide[~np.isfinite(wide) | (wide != np.round(wide))]
        first = parts[0] if parts.size else None
    such = "" if first is None else f" such as {first:g}"
    return f"{kind}{such} {_in_axes(array.ndim)}"


def _in_axes(number: int) -> str:
    return f"in {number} {'axis' if number == 1 else 'axes'}"


def tallies(value: Any, axes: int, path: Path, place: str, what: str) -> NDArray[np.float64]:
    """Return counts: finite numbers that are not negative, or refuse."""
    array = numbers(value, axes, path, place, what)
    if array.size and array.min() < 0:
        refuse(path, place, f"{what} holds the count {array.min():g}: expected 0 or more")
    return array


def load_torch(path: Path) -> Any:
    """Load a file of torch.save that holds nothing but tensors, numbers and containers."""
    import warnings  # noqa: PLC0415
    from pickle import UnpicklingError  # noqa: PLC0415 - the name of an error

    import torch  # noqa: PLC0415 - slow, and few formats need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = f"asks for {wanted[1]}: expected tensors, lists and dictionaries alone"
            refuse(path, "", reason, "Save those, by torch.save.")
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        unsafe = " ".join(
            line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line
        )
        refuse(path, "", f"is no file of tensors alone ({(unsafe or first)[:300]})")
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything
        refuse(path, "", f"is damaged ({type(error).__name__}: {error})")


def grid(
    chosen: NDArray[Any],
    *,
    positions: NDArray[Any] | None = None,
    layers: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return ``(T, L, K)`` choices as rows: layer and place of each row, and its K choices."""
    tokens, depth, choices = chosen.shape
    places = np.arange(tokens) if positions is None else positions
    numbers_of_layers = np.arange(depth) if layers is None else layers
    return (
        np.tile(numbers_of_layers, tokens),
        np.repeat(places, depth),
        chosen.reshape(tokens * depth, choices),
    )


def largest(values: NDArray[np.float64], choices: int) -> NDArray[np.int64]:
    """Return the places of the K largest of each row, the largest first; ties by their place."""
    return np.argsort(-values, axis=1, kind="stable")[:, :choices]


def sparse_counts(
    cells: Iterator[tuple[str, int, int, float]],
    path: Path,
    options: Options,
    *,
    document: int = -1,
    label: str | None = None,
) -> Iterator[Counts]:
    """Gather lines of (place, layer, expert, count); experts that are not listed have 0."""
    table: dict[int, dict[int, float]] = {}
    for place, layer, expert, count in cells:
        if layer < 0 or expert < 0 or not 0 <= count < np.inf:
            refuse(path, place, f"layer {layer}, expert {expert}, count {count}: below 0")
        if expert > np.iinfo(np.int16).max:
            refuse(path, place, f"expert {expert} is no number of an expert")
        row = table.setdefault(layer, {})
        if expert in row:
            refuse(path, place, f"repeats layer {layer}, expert {expert}")
        row[expert] = count
    for layer, row in sorted(table.items()):
        selections = np.zeros(max(row) + 1)
        selections[list(row)] = list(row.values())
        yield Counts(layer, selections, label=label, document=document, choices=options.choices)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, whose keys must differ: of two of one name the last would win."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"an object has the key {brief(twice)} twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON: a router gave what is no finite number")


def token_rows(
    chosen: NDArray[Any], document: int, start: int, prompt: int | None
) -> Iterator[Rows]:
    """Yield ``(T, L, K)`` choices of one document; tokens before ``prompt`` are its prefill."""
    if not chosen.size:
        return
    layer, position, rows = grid(chosen, positions=np.arange(len(chosen)) + start)
    phase = 0 if prompt is None else np.where(position < prompt, PREFILL, DECODE)
    yield Rows(layer=layer, chosen=rows, document=document, position=position, phase=phase)


def unpack_base64(text: str, path: Path, place: str) -> bytes:
    """Return the bytes of routed_experts, or refuse."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        refuse(path, place, f"routed_experts is no base64 ({error})")


def module_number(text: str, path: Path, place: str) -> int:
    """Return the number of a module that is the key of a JSON object, or refuse."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > np.iinfo(np.int16).max:
        refuse(path, place, f"names {brief(text)}: expected the number of a module, to 32767")
    return int(text)


def array_of(value: Any) -> Any:
    """Return a tensor as an array; other values, and types that arrays lack, as they come."""
    if not hasattr(value, "detach"):
        return value
    if value.device.type == "meta":
        raise TraceError("A tensor without numbers (of the device meta) was given: save real ones.")
    plain = value.detach().cpu()
    plain = plain.to_dense() if "sparse" in str(plain.layout) else plain
    return (plain.float() if plain.is_floating_point() else plain).resolve_conj().numpy()


def torch_holds(path: Path, start: bytes, *names: bytes) -> bool:
    """Return whether a file of torch.save names these keys, without loading it."""
    if not start.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            entry_name = next(name for name in file.namelist() if name.endswith("/data.pkl"))
            with file.open(entry_name) as pickled:
                text = pickled.read(1 << 16)
    except (OSError, zipfile.BadZipFile, StopIteration, RuntimeError, NotImplementedError):
        return False
    return all(name in text for name in names)


def added(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of counts of modules, of which one may name fewer."""
    width = max(len(one), len(other))
    return np.pad(one, (0, width - len(one))) + np.pad(other, (0, width - len(other)))
