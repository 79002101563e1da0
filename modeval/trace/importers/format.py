"""What an importer gives, whatever it read: rows or counts, and what is known of their meaning."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from modeval.errors import TraceError
from modeval.trace.trace import Capacity, Padding, Phase, WeightScale

HEAD_BYTES = 1 << 16
LONGEST_LINE = 1 << 28
LARGEST_WHOLE = 1 << 31


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says of a source, because the format cannot.

    Attributes:
        label: label of all rows.
        labels: label by the name of a file, its name without endings, or the name of its folder.
        label_from: take labels from the names of files or folders; empty for the format's own way.
        modules: modules of each layer.
        choices: chosen modules K.
        layers: number of layers, for formats that store them without saying how many.
        model: name of the model.
        allow_partial: keep the readable part of damaged files, and say what was left out.
    """

    label: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    label_from: Literal["", "file", "folder"] = ""
    modules: int | None = None
    choices: int | None = None
    layers: int | None = None
    model: str = ""
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Routing decisions of one stretch of a file: N rows, K choices.

    Attributes:
        layer: name of the layer, or ``(N,)`` absolute layer numbers.
        chosen: ``(N, K)`` modules; -1 pads, and a row of -1 alone was not routed.
        document: ``(N,)`` or one number, counted from 0 within the file; -1 unknown.
        position: ``(N,)`` or one number; -1 unknown.
        phase: ``(N,)`` or one number into the phases of a trace.
        label: one label, one for each row, or None for the label of the file.
        token: ``(N,)`` token ids or None.
        weight: ``(N, K)`` or None.
    """

    layer: str | NDArray[Any]
    chosen: NDArray[Any]
    document: Any = -1
    position: Any = -1
    phase: Any = 0
    label: str | list[str | None] | None = None
    token: NDArray[Any] | None = None
    weight: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each module of one layer was chosen.

    Attributes:
        layer: name or absolute number of the layer.
        selections: ``(M,)`` choices of each module; NaN where unknown.
        label: label, or None for that of the file.
        document: replicate, counted from 0 within the file; -1 unknown.
        choices: chosen modules K of each token, None if unknown.
        mass: ``(M,)`` summed weight, None to take 1/K for each choice.
        samples: tokens counted, None to take all choices over K.
    """

    layer: str | int
    selections: NDArray[Any]
    label: str | None = None
    document: int = -1
    choices: int | None = None
    mass: NDArray[Any] | None = None
    samples: float | None = None


Piece = Rows | Counts
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Format:
    """One foreign format.

    Attributes:
        name: what ``--from`` takes.
        about: one line for lists.
        patterns: names of its files, as shell patterns; other files in a folder are not read.
        sniff: whether the beginning of a file looks like this format.
        read: yields the pieces of a file in order; ``note`` takes warnings.
        engine: program that writes it.
        counts: whether it holds counts, not decisions.
        sized: whether its arrays have an entry for every module, chosen or not.
        keep_empty: whether a row without any choice is a decision (a dropped token), not padding.
        label_from: where labels come from if the user does not say.
        weight_scale, phase, capacity, padding: as in the header of a trace; None to look at the
            weights.
        notes: what holds of every file of this format.
    """

    name: str
    about: str
    patterns: tuple[str, ...]
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path, Options, Note], Iterator[Piece]]
    engine: str = ""
    counts: bool = False
    sized: bool = False
    keep_empty: bool = False
    label_from: Literal["", "file", "folder"] = ""
    weight_scale: WeightScale | None = "none"
    phase: Phase = "unknown"
    capacity: Capacity = "unknown"
    padding: Padding = "unknown"
    notes: tuple[str, ...] = ()


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts layers.2 before layers.10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def refuse(path: Path, place: str, reason: str, advice: str = "") -> NoReturn:
    """Raise the error of a file that is not what it should be."""
    where = f"{path}, {place}" if place else str(path)
    raise TraceError(f"{where}: {reason}.{f' {advice}' if advice else ''}")


def head(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked; none when it cannot be read."""
    try:
        with _open(path) as file:
            return file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        return b""


def read_bytes(path: Path) -> bytes:
    """Return a whole file, unpacked."""
    try:
        with _open(path) as file:
            data = file.read(LARGEST_WHOLE + 1)
    except (OSError, EOFError, zlib.error) as error:
        refuse(path, "", f"cannot be read ({error})")
    if len(data) > LARGEST_WHOLE:
        refuse(path, "", "is larger than 2 GiB when unpacked")
    return data


def load_array(file: BufferedIOBase, path: Path, place: str, what: str) -> NDArray[Any]:
    """Load an NPY array of numbers; its header may lie about its size, or ask for objects."""
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, OverflowError) as error:
        refuse(path, place, f"{what} is no NPY array of numbers ({error})")
    if not isinstance(array, np.ndarray):
        refuse(path, place, f"{what} is no NPY array of numbers (it holds several arrays)")
    return array


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line that is not empty, with its place for messages: ``line 7``."""
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    refuse(path, f"line {number}", "is longer than 256 MiB")
                if text := line.decode("utf-8").strip():
                    yield f"line {number}", text
    except (OSError, EOFError, zlib.error) as error:
        refuse(path, f"after line {number}", f"cannot be read ({error})")
    except UnicodeDecodeError as error:
        refuse(path, f"line {number}", f"is not UTF-8 text ({error.reason})")


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSONL file, each with its place."""
    for place, text in lines(path):
        yield place, as_object(parse_json(text, path, place), path, place)


def parse_json(text: str | bytes, path: Path, place: str = "") -> Any:
    """Read JSON; the constants NaN and Infinity are none."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        refuse(path, place, f"is not JSON ({error})")


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a file that is JSONL, one JSON object, or a JSON list of them."""
    start = head(path).lstrip()
    whole = path.name.removesuffix(".gz").endswith(".json") or start.startswith(b"[")
    if not whole:
        yield from json_lines(path)
        return
    value = parse_json(read_bytes(path), path)
    items = value if isinstance(value, list) else [value]
    for number, item in enumerate(items):
        place = f"record {number}"
        yield place, as_object(item, path, place)


def first_record(start: bytes) -> dict[str, Any]:
    """Return the first JSON object at the beginning of a file; an empty one if there is none.

    A beginning that is cut off in the middle still shows its keys: see :func:`has_keys`.
    """
    text = start.decode("utf-8", "replace").lstrip(" \t\r\n[")
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def has_keys(start: bytes, *keys: str) -> bool:
    """Return whether the beginning of a JSON file names all these keys."""
    return start.lstrip()[:1] in (b"{", b"[") and all(f'"{key}"'.encode() in start for key in keys)


def as_object(value: Any, path: Path, place: str) -> dict[str, Any]:
    """Return a JSON object, or refuse."""
    if not isinstance(value, dict):
        refuse(path, place, f"holds {_short(value)}: expected a JSON object")
    return value


def entry(record: Mapping[str, Any], name: str, kind: type, path: Path, place: str) -> Any:
    """Return a field of a record that must be there and of a type; booleans are no numbers."""
    if name not in record:
        refuse(path, place, f"has no {name!r}: it has {', '.join(map(repr, record)) or 'nothing'}")
    value = record[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        refuse(path, place, f"{name!r} is {_short(value)}: expected {kind.__name__}")
    return value


def integers(value: Any, axes: int, path: Path, place: str, what: str) -> NDArray[np.int64]:
    """Return nested lists, or an array, of integers with a number of axes, or refuse."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        refuse(path, place, f"{what} is ragged or no list of numbers")
    if array.size == 0 and array.ndim <= axes:
        return np.zeros((0,) * axes, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != axes:
        refuse(
            path,
            place,
            f"{what} is {array.dtype} with {array.ndim} axes: expected integers with {axes}",
        )
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
        refuse(
            path,
            place,
            f"{what} is {array.dtype} with {array.ndim} axes: expected numbers with {axes}",
        )
    if not np.isfinite(array).all():
        refuse(path, place, f"{what} holds a value that is not finite")
    return array.astype(np.float64, copy=False)


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

    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
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


def _open(path: Path) -> BufferedIOBase:
    return gzip.GzipFile(path) if path.name.endswith(".gz") else path.open("rb")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."  # noqa: PLR2004
