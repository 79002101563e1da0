"""What a trace is: a header that says what was measured, and rows of routing decisions.

One row is one token at one layer, not one token with a list for each layer. Layers may differ in
modules and choices, and an engine may record only some of them; a row for each says so without
padding. ``GROUP BY layer, label`` and ``UNNEST(chosen)`` then work in DuckDB, Polars and Spark
as they stand, a chunk can be cut after any row, and the columns that repeat from layer to layer
cost next to nothing once Parquet has encoded them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from modeval.errors import TraceError
from modeval.text import brief

VERSION = 1

WeightScale = Literal["probability", "renormalised", "assumed", "selection score", "none"]
Phase = Literal["prefill", "decode", "train", "mixed", "unknown"]
Capacity = Literal["before", "after", "unknown"]
Padding = Literal["excluded", "included", "unknown"]

WORDS: dict[str, tuple[str, ...]] = {
    "weight_scale": get_args(WeightScale),
    "phase": get_args(Phase),
    "capacity": get_args(Capacity),
    "padding": get_args(Padding),
}

# Numbers of the phases in the column `phase`. Only ever append: files on disk use them.
PHASES: tuple[str, ...] = ("unknown", "prefill", "decode", "train")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a trace came from; an empty string is unknown.

    Attributes:
        engine: program that made the routing decisions, such as ``vllm 0.21`` or ``transformers``.
        model: name of the model.
        format: file format it was imported from, or ``live``.
    """

    engine: str = ""
    model: str = ""
    format: str = ""


WARNINGS: dict[str, str] = {
    "warm-up": "one choice in one unbroken run of rows: a profiling run or dummy tokens",
    "padding": "rows of modules 0 to K-1 in order, in every layer: padding",
    "nothing recorded": "every choice of every layer is module 0: the engine recorded nothing",
    "repeated rows": "rows repeat their predecessor in every layer: padding, or rows read twice",
    "repeated ranks": "a rank or a file repeats another: tokens were counted twice",
    "copies": "documents, or whole traces, were counted twice",
    "uneven layers": "a layer holds far fewer tokens than the others",
    "too equal": "counts are more equal than independent tokens could be: padded or balanced",
    "rounded": "counts are rounded, as numbers of half precision are",
    "ties": "the weights of a row are all equal: ties, not a choice",
    "equal modules": "modules of a layer have the same parameters: routing decides nothing",
    "assumed": "what the source does not say was assumed",
}
"""Kinds of warnings about a recording, and what they mean."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something seen in a recording that makes its scores doubtful; a gate can refuse it.

    Attributes:
        kind: key of :data:`WARNINGS`.
        text: what was seen, where and how much, and what to do; a sentence or two.
    """

    kind: str
    text: str

    def __post_init__(self) -> None:
        if self.kind not in WARNINGS:
            raise TraceError(
                f"warning of kind {brief(self.kind)}: expected one of {', '.join(WARNINGS)}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """What the rows of a trace mean.

    Attributes:
        layers: name of each routed layer, qualified by module, such as ``model.layers.3.mlp``.
        modules: modules of each layer, from the configuration or the weights of the model.
        choices: modules chosen for each token, K, of each layer; 0 where unknown, which only
            counts may have.
        labels: names of the rules; the column ``label`` is a number into it, -1 for unlabelled.
        source: engine, model and format.
        weight_scale: ``probability``: share of a softmax over all modules, so that the chosen ones
            may sum to less than 1; ``renormalised``: the chosen sum to 1; ``assumed``: a softmax
            over the logits of the chosen, by which the model may or may not weigh them;
            ``selection score``: what the choice was made by, no share of anything; ``none``:
            weights were not recorded.
        phase: when the rows were measured; ``mixed`` when the column ``phase`` tells them apart.
        capacity: whether the choices were taken before or after modules dropped tokens.
        padding: whether padding tokens are among the rows.
        shared: modules that every token visits; they are not among the rows. None is unknown.
        token_ids: whether the column ``token`` is present.
        logits: number of logits kept for each row; 0 when there is no column ``logits``.
        digest: digest of the model's weights, empty when unknown.
        notes: what to know of the measurement, printed with every score.
        warnings: what makes the scores doubtful, printed with every score; a gate can refuse it.
        version: version of the format.
    """

    layers: tuple[str, ...]
    modules: tuple[int, ...]
    choices: tuple[int, ...]
    labels: tuple[str, ...] = ()
    source: Source = Source()
    weight_scale: WeightScale = "none"
    phase: Phase = "unknown"
    capacity: Capacity = "unknown"
    padding: Padding = "unknown"
    shared: int | None = None
    token_ids: bool = False
    logits: int = 0
    digest: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[Warned, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        _check_layers(self)
        _check_words({name: getattr(self, name) for name in WORDS})

    @property
    def width(self) -> int:
        """Return the length of each list of choices: the largest K of all layers."""
        return max(self.choices)

    @property
    def weighted(self) -> bool:
        """Return whether the column ``weight`` is present."""
        return self.weight_scale != "none"

    @property
    def shares(self) -> bool:
        """Return whether the weights of a row are shares of its token, known or assumed."""
        return self.weight_scale in ("probability", "renormalised", "assumed")

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns that are present, in order."""
        present = {"token": self.token_ids, "weight": self.weighted, "logits": self.logits > 0}
        return tuple(field.name for field in fields(TraceChunk) if present.get(field.name, True))

    def noted(self, *notes: str) -> "TraceHeader":
        """Return the header with more notes, each kept once."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def warned(self, *warnings: Warned) -> "TraceHeader":
        """Return the header with more warnings, each kept once."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *warnings))))

    def fingerprint(self) -> str:
        """Return a digest of all that the numbers in the rows depend on: no notes, no warnings."""
        meaning = asdict(self)
        del meaning["notes"], meaning["warnings"]
        text = json.dumps(meaning, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the header as readable JSON."""
        return json.dumps({"kind": "modeval trace", **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class TraceChunk:
    """Rows of a trace: N pairs of a token and a layer, K choices each.

    Attributes:
        document: ``(N,)`` int64: document, sequence or request; -1 where unknown.
        position: ``(N,)`` int32: place of the token in its document, from 0; -1 where unknown.
        phase: ``(N,)`` int8: number into :data:`PHASES`.
        label: ``(N,)`` int32: number into the labels of the header; -1 for unlabelled.
        layer: ``(N,)`` int16: number into the layers of the header.
        chosen: ``(N, K)`` int16: chosen modules, best first where the source says so; -1 pads.
        token: ``(N,)`` int64 token id, -1 where unknown; None when the header has no token ids.
        weight: ``(N, K)`` float32 on the scale of the header, 0 where ``chosen`` is -1; None when
            that scale is ``none``.
        logits: ``(N, header.logits)`` float32; None when the header has no logits.
    """

    document: NDArray[np.int64]
    position: NDArray[np.int32]
    phase: NDArray[np.int8]
    label: NDArray[np.int32]
    layer: NDArray[np.int16]
    chosen: NDArray[np.int16]
    token: NDArray[np.int64] | None = None
    weight: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.document)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "TraceChunk":
        return TraceChunk(**{name: column[rows] for name, column in self.arrays().items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the columns that are present, by name."""
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column for name, column in present.items() if column is not None}


DTYPES: dict[str, Any] = {
    "document": np.int64,
    "position": np.int32,
    "phase": np.int8,
    "label": np.int32,
    "layer": np.int16,
    "chosen": np.int16,
    "token": np.int64,
    "weight": np.float32,
    "logits": np.float32,
}


def make_chunk(
    *,
    layer: Any,
    chosen: Any,
    document: Any = -1,
    position: Any = -1,
    phase: Any = 0,
    label: Any = -1,
    token: Any = None,
    weight: Any = None,
    logits: Any = None,
) -> TraceChunk:
    """Return rows from arrays of any number type; single numbers stand for every row.

    Raises:
        TraceError: a value does not fit its column, or shapes do not agree.

    >>> chunk = make_chunk(layer=0, chosen=[[2, 1], [0, -1]], label=[0, 1])
    >>> len(chunk), chunk.document.tolist()
    (2, [-1, -1])
    """
    rows = len(np.asarray(chosen))
    given = {
        "document": document,
        "position": position,
        "phase": phase,
        "label": label,
        "layer": layer,
        "chosen": chosen,
        "token": token,
        "weight": weight,
        "logits": logits,
    }
    return TraceChunk(
        **{name: _column(name, value, rows) for name, value in given.items() if value is not None}
    )


def _column(name: str, value: Any, rows: int) -> NDArray[Any]:
    source = np.asarray(value)
    kind = DTYPES[name]
    if source.dtype != kind and np.issubdtype(kind, np.integer) and source.size:
        _check_fits(name, source, kind)
    with np.errstate(over="ignore", invalid="ignore"):  # not finite: refused by its row
        column = source.astype(kind, copy=False)
    if column.ndim == 0:
        return np.full(rows, column, dtype=kind)
    wanted = 2 if name in ("chosen", "weight", "logits") else 1
    if column.ndim != wanted or len(column) != rows:
        raise TraceError(
            f"Column {name} has shape {column.shape}: expected {wanted} axes and {rows} rows."
        )
    return column


def _check_fits(name: str, source: NDArray[Any], kind: Any) -> None:
    if source.dtype.kind not in "iub":
        raise TraceError(f"Column {name} holds {source.dtype} numbers: expected integers.")
    bound = np.iinfo(kind)
    for number in (int(source.min()), int(source.max())):
        if not bound.min <= number <= bound.max:
            raise TraceError(f"{name} {number} is out of range: expected at most {bound.max}.")


def check_chunk(chunk: TraceChunk, header: TraceHeader) -> None:
    """Refuse rows that contradict the header: wrong columns, types, shapes, numbers.

    Raises:
        TraceError: names the column, the row within the chunk and the value.
    """
    arrays = chunk.arrays()
    if set(arrays) != set(header.columns):
        raise TraceError(
            f"Rows have the columns {', '.join(sorted(arrays))}: the header asks for "
            f"{', '.join(sorted(header.columns))}."
        )
    for name, column in arrays.items():
        _check_column(name, column, len(chunk), header)
    check_range("document", chunk.document, -1, None)
    check_range("position", chunk.position, -1, None)
    check_range("phase", chunk.phase, 0, len(PHASES))
    check_range("label", chunk.label, -1, len(header.labels))
    check_range("layer", chunk.layer, 0, len(header.layers))
    if len(chunk):
        _check_modules(chunk, header)
    if chunk.weight is not None:
        low = -np.inf if header.weight_scale == "selection score" else 0.0
        _check_weights(chunk.weight, chunk.chosen, low)


def _check_column(name: str, column: NDArray[Any], rows: int, header: TraceHeader) -> None:
    shape = {"logits": (rows, header.logits)}.get(
        name, (rows, header.width) if name in ("chosen", "weight") else (rows,)
    )
    if column.shape != shape or column.dtype != DTYPES[name]:
        raise TraceError(
            f"Column {name} is {column.dtype} of shape {column.shape}: expected "
            f"{np.dtype(DTYPES[name])} of shape {shape}."
        )


MOST_GUESSED = 4096
"""Modules beyond which a number is no longer taken from the largest that occurs."""


def check_guess(modules: int, how: str) -> None:
    """Refuse a number of modules that one wrong number in a file would give.

    Raises:
        TraceError: says how to give it.
    """
    if modules > MOST_GUESSED:
        raise TraceError(
            f"Module {modules - 1} was {how}: more than {MOST_GUESSED} modules are not taken from "
            f"a file that does not say how many there are. If it is right, say it with --modules "
            f"{modules}."
        )


LARGEST_TABLES = 4 << 30
"""Bytes that the counts of a trace may take: what asks for more was no recording of a model."""


def check_size(header: TraceHeader, cells: int) -> None:
    """Refuse a trace whose counts would not fit into memory, before anything is allocated.

    Args:
        header: of the trace.
        cells: (block, rule) pairs, or documents, that are counted apart.

    Raises:
        TraceError: says how much would be needed, and for what.
    """
    modules = np.array(header.modules, dtype=np.float64)
    needed = float(8 * (modules**2 + 2 * cells * modules).sum())
    if needed > LARGEST_TABLES:
        raise TraceError(
            f"Counts of {len(modules)} layers with up to {max(header.modules)} modules and {cells} "
            f"documents or labels would take {needed / 2**30:,.1f} GiB, more than "
            f"{LARGEST_TABLES >> 30}. If the model has fewer modules, import again with --modules "
            "N; if labels are too many, give fewer with --labels."
        )


def check_range(name: str, column: NDArray[Any], low: int, end: int | None) -> None:
    """Refuse a column with a number below ``low``, or not below ``end``.

    Raises:
        TraceError: names the value and its row.
    """
    if not len(column):
        return
    least, most = int(column.min()), int(column.max())
    if least < low or (end is not None and most >= end):
        wrong = least if least < low else most
        row = int(np.argwhere(column == wrong)[0, 0])
        expected = f"{low} or more" if end is None else f"{low} to {end - 1}"
        raise TraceError(f"{name} {wrong} in row {row} is out of range: expected {expected}.")


def _check_modules(chunk: TraceChunk, header: TraceHeader) -> None:
    least, most = int(chunk.chosen.min()), int(chunk.chosen.max())
    if least >= -1 and most < min(header.modules):
        return
    limit = np.asarray(header.modules)[chunk.layer]
    wrong = (chunk.chosen < -1) | (chunk.chosen >= limit[:, None])
    if wrong.any():
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        raise TraceError(
            f"chosen {int(chunk.chosen[row, column])} in row {row} is out of range: layer "
            f"{header.layers[chunk.layer[row]]} has {int(limit[row])} modules, 0 to "
            f"{int(limit[row]) - 1}, and -1 pads."
        )


def _check_weights(weight: NDArray[np.float32], chosen: NDArray[np.int16], low: float) -> None:
    wrong = ~np.isfinite(weight) | (weight < low) | ((chosen < 0) & (weight != 0))
    if wrong.any():
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        raise TraceError(
            f"weight {float(weight[row, column])} in row {row} is wrong: expected a finite number "
            f"of at least {low}, and 0 where no module was chosen."
        )


def _check_layers(header: TraceHeader) -> None:
    counts = {len(header.layers), len(header.modules), len(header.choices)}
    if len(counts) != 1 or not header.layers:
        raise TraceError(
            f"A header needs modules and choices for each layer: got {len(header.layers)} layers, "
            f"{len(header.modules)} numbers of modules, {len(header.choices)} of choices."
        )
    for name, modules, choices in zip(header.layers, header.modules, header.choices, strict=True):
        if not 0 <= choices <= modules <= np.iinfo(np.int16).max or modules == 0:
            raise TraceError(
                f"Layer {name} has {modules} modules of which {choices} are chosen: expected "
                f"0 (unknown) <= chosen <= modules, and 1 to {np.iinfo(np.int16).max} modules."
            )
    for what, names in (("layers", header.layers), ("labels", header.labels)):
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise TraceError(f"Two {what} are named {brief(twice)}: expected different names.")


def _check_words(given: Mapping[str, Any]) -> None:
    for name, words in WORDS.items():
        if given[name] not in words:
            raise TraceError(
                f"{name} is {brief(given[name])}: expected one of {', '.join(map(repr, words))}."
            )


def header_from_json(text: str, where: str) -> TraceHeader:
    """Read what :meth:`TraceHeader.to_json` wrote.

    Raises:
        TraceError: not JSON, not a trace, another version, or a field is missing, unknown or of
            another type.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where} is not JSON: {error}.") from None
    if not isinstance(entries, dict) or entries.pop("kind", None) != "modeval trace":
        raise TraceError(
            f'{where} is not the header of a trace: it has no "kind": "modeval trace".'
        )
    version = entries.get("version")
    if version != VERSION:
        raise TraceError(
            f"{where} has version {brief(version)}: this modeval reads version {VERSION}. Install "
            "the modeval that wrote it, or record again."
        )
    entries.setdefault("warnings", [])  # which earlier versions did not have
    names = {field.name for field in fields(TraceHeader)}
    if set(entries) != names:
        strange = ", ".join(sorted(set(entries) ^ names))
        raise TraceError(f"{where} has missing or unknown fields: {strange:.300}.")
    _check_types(entries, where)
    for name in ("layers", "modules", "choices", "labels", "notes"):
        entries[name] = tuple(entries[name])
    try:
        _check_words(entries)
        entries["warnings"] = tuple(Warned(**warning) for warning in entries["warnings"])
        return TraceHeader(**entries | {"source": Source(**entries["source"])})
    except (TypeError, TraceError) as error:
        raise TraceError(f"{where}: {error}") from None


def _check_types(entries: dict[str, Any], where: str) -> None:
    lists = {
        "layers": str,
        "labels": str,
        "notes": str,
        "warnings": dict,
        "modules": int,
        "choices": int,
    }
    singles: dict[str, Any] = {
        "weight_scale": str,
        "phase": str,
        "capacity": str,
        "padding": str,
        "digest": str,
        "token_ids": bool,
        "logits": int,
        "shared": (int, type(None)),
        "source": dict,
    }
    wrong = [
        name
        for name, kind in lists.items()
        if not isinstance(entries[name], list)
        or not all(type(item) is kind for item in entries[name])
    ]
    wrong += [name for name, kind in singles.items() if not isinstance(entries[name], kind)]
    if wrong:
        raise TraceError(
            f"{where}: {wrong[0]} is {brief(entries[wrong[0]])}, which is of a wrong type."
        )
