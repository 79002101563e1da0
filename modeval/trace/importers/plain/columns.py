"""Names of columns: our own, what other programs call the same, and what the user says.

A log of chosen experts is the same table whoever wrote it; only its columns have other names. The
names here are those of public files; ``--columns chosen=my_name`` says any other.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeval.text import brief, visible
from modeval.trace.importers.reading import refuse

ROW_NAMES: dict[str, tuple[str, ...]] = {
    "layer": ("layer_id", "layer_idx", "layer_index", "layer_number", "moe_layer", "layer_name"),
    "chosen": (
        *("topk_ids", "expert_ids", "selected_experts", "topk_experts", "top_k_experts", "experts"),
        *("topk_indices", "top_indices", "top_k_indices", "top_k_index", "expert_indices"),
        *("router_indices", "topk_idx", "chosen_experts", "selected"),
        *("modules", "topk", "routed_experts"),
    ),
    "weight": (
        *("weights", "topk_weights", "top_k_weights", "expert_weights", "routing_weights"),
        *("topk_probs", "topk_scores", "top_k_scores", "router_scores", "gate_weights", "scores"),
    ),
    "document": (
        *("doc", "doc_id", "document_id", "doc_index", "req_id", "request_id", "request"),
        *("sequence", "seq_id", "sequence_id", "prompt_id", "sample_id", "conversation_id"),
        *("batch_id",),
    ),
    "position": ("pos", "token_idx", "token_index", "token_pos", "token_position", "position_id"),
    "token": ("token_id", "input_id"),
    "phase": ("stage", "forward_mode"),
    "label": ("labels", "domain", "category", "task", "language", "lang", "topic", "source"),
}
"""Columns of rows: our name, and what it is called elsewhere, the surest first."""

COUNT_NAMES: dict[str, tuple[str, ...]] = {
    "layer": ROW_NAMES["layer"],
    "expert": ("expert_id", "expert_idx", "expert_index", "module", "module_id", "module_idx"),
    "count": (
        *("counts", "hits", "tokens", "token_count", "num_tokens", "n", "selections", "selected"),
        *("activations", "activation_count", "frequency", "freq", "load", "times"),
    ),
    "label": ROW_NAMES["label"],
    "phase": ROW_NAMES["phase"],
    "document": ROW_NAMES["document"],
}
"""Columns of counts; likewise."""

SHOWN = 12
_NUMBERS = re.compile(r"[\s\d,;|()\[\].eE+-]*")
_FLAT = re.compile(r"[\s\[]*(\{[^{}\[\]]*\})")
_SPLIT = re.compile(r"[\s,;|()\[\]]+")


@dataclass(frozen=True, slots=True)
class MatchedColumns:
    """Which column of a file is which of ours.

    Attributes:
        names: name in the file, by our name.
        others: columns that are passed over.
    """

    names: dict[str, str]
    others: tuple[str, ...]


def match_columns(
    names: Sequence[str], known: Mapping[str, tuple[str, ...]], said: Mapping[str, str]
) -> MatchedColumns:
    """Return which columns are which: what the user says, then our own names, then the others'.

    >>> match_columns(["Layer_ID", "topk_ids", "x"], ROW_NAMES, {}).names
    {'layer': 'Layer_ID', 'chosen': 'topk_ids'}
    """
    plain = {_plain(name): name for name in reversed(names)}
    left = {name for name in names if name not in said.values()}
    found: dict[str, str] = {}
    for ours, theirs in known.items():
        wanted = said.get(ours)
        candidates = (ours, *theirs) if wanted is None else ()
        name = wanted if wanted in names else None
        for candidate in candidates:
            if plain.get(candidate) in left:
                name = plain[candidate]
                break
        if name is not None:
            found[ours] = name
            left.discard(name)
    return MatchedColumns(found, tuple(name for name in names if name not in found.values()))


def with_nested(record: Mapping[str, Any], wanted: Iterable[str]) -> Mapping[str, Any]:
    """Return a record with the fields that lie within others and were asked for: ``meta.domain``.

    >>> with_nested({"meta": {"domain": "code"}}, ["meta.domain"])["meta.domain"]
    'code'
    """
    found: dict[str, Any] = {}
    for name in wanted:
        if "." not in name or name in record:
            continue
        value: Any = record
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    return {**record, **found} if found else record


def missing_columns(names: Sequence[str], columns: MatchedColumns, wanted: Sequence[str]) -> str:
    """Return what to say of a table that lacks columns, with the line to type."""
    lacking = [name for name in wanted if name not in columns.names]
    if not lacking:
        return f"has all columns that it needs: {brief_names(names)}"
    spare = columns.others if len(columns.others) == len(lacking) else ["NAME"] * len(lacking)
    counted = match_columns(names, COUNT_NAMES, {}).names.get("count")
    if counted and lacking == ["chosen"] and columns.others == (counted,):
        return (
            f"has the columns {brief_names(names)}: as it seems {visible(counted)} holds counts, "
            "and nothing is said of single tokens. Write a row for each module of a layer: "
            "layer,expert,count"
        )
    said = ",".join(f"{ours}={theirs}" for ours, theirs in zip(lacking, spare, strict=False))
    choice = f"chosen={columns.names.get('expert', '')}"
    each = f". Where each row is one choice: --columns {visible(_quoted(choice))}"
    return (
        f"has the columns {brief_names(names)}: which of them is {' and which '.join(lacking)}? "
        f"Say it with --columns {visible(_quoted(said))}" + (each if lacking == ["count"] else "")
    )


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text


def brief_names(names: Sequence[str]) -> str:
    """Return the names of columns for a message, not too many of them."""
    shown = ", ".join(visible(name[:30]) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") or "none"


def cell_numbers(text: str, kind: type[int] | type[float], path: Path, place: str) -> list[Any]:
    """Return the numbers of a cell: ``1 2``, ``1,2`` or ``[1, 2]``; an empty cell has none."""
    if kind is int and text.replace(" ", "").isdecimal():
        return [int(part) for part in text.split()]  # as most are
    if not _NUMBERS.fullmatch(text):
        refuse(path, place, f"holds {brief(text)} where numbers stand")
    try:
        return [_number(part, kind) for part in _SPLIT.split(text) if part]
    except (ValueError, OverflowError):
        refuse(path, place, f"holds {brief(text)} where numbers stand")


def _number(text: str, kind: type[int] | type[float]) -> int | float:
    """Return a number; whole ones may be written as tables with gaps have them: ``3.0``."""
    if kind is int and "." in text and float(text).is_integer():
        return int(float(text))
    return kind(text)


def by_rows(
    record: Mapping[str, Any], known: Mapping[str, tuple[str, ...]], path: Path, place: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of an object that holds columns, as lists or by number, each with its place.

    pandas writes such objects. What is no column is the same in every row. An object whose layer is
    a number or a name is a row itself, and so is one whose choices are a list of lists: of a batch.

    >>> columns = {"layer": {"0": 4, "1": 5}, "chosen": {"0": [1], "1": [2]}}
    >>> [row for _, row in by_rows(columns, ROW_NAMES, Path("x"), "record 0")]
    [{'layer': 4, 'chosen': [1]}, {'layer': 5, 'chosen': [2]}]
    """
    names = match_columns(list(record), known, {}).names
    layer, chosen = record.get(names.get("layer", "")), record.get(names.get("chosen", ""))
    batch = isinstance(chosen, list) and chosen and isinstance(chosen[0], list)
    if not isinstance(layer, list | dict) or batch or not layer:
        yield place, record
        return
    columns: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and isinstance(layer, dict) and value.keys() == layer.keys():
            columns[name] = list(value.values())
        elif isinstance(value, list) and isinstance(layer, list) and len(value) == len(layer):
            columns[name] = value
        elif isinstance(value, list | dict):
            refuse(path, place, f"the columns {names['layer']} and {name} have no rows in common")
        else:
            columns[name] = [value] * len(layer)
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        yield f"{place}, row {number}".removeprefix(", "), dict(zip(columns, values, strict=True))


def first_keys(start: bytes) -> list[str]:
    """Return the keys of the first object of JSON, if it is flat: a row of a table of numbers."""
    flat = _FLAT.match(start.decode("utf-8", "replace"))
    try:
        return list(json.loads(flat[1])) if flat else []
    except (ValueError, RecursionError):
        return []


def spread(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a record that holds several: a record for each layer, or lists of lists.

    What stands beside a list of layers, such as a domain, holds of each of them. Where ``chosen``
    is a list of lists, each of them is a token, and lists of the same length beside it are columns.
    """
    chosen = record.get("chosen")
    if not isinstance(chosen, list) or not chosen or not isinstance(chosen[0], list):
        yield record
        return
    rows = len(chosen)
    columns = {
        name: value if isinstance(value, list) and len(value) == rows else [value] * rows
        for name, value in record.items()
    }
    columns.setdefault("position", list(range(rows)))
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


class Numbering:
    """Numbers for documents that have names, in order of their first row."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._numbered = False

    def __call__(self, value: Any, path: Path, place: str) -> int:
        """Return the number of a document; numbers stay as they are."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        number = isinstance(value, int) and not isinstance(value, bool)
        if number and not self._numbers:
            self._numbered = True
            return int(value)
        if not number and not isinstance(value, str):
            refuse(path, place, f"document is {brief(value)}: expected a number or a name")
        if number or self._numbered:
            refuse(path, place, f"document is {brief(value)}: some have numbers and others names")
        return self._numbers.setdefault(value, len(self._numbers))


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
