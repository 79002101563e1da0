"""Plain tables of counts: how often each module of each layer was chosen, as CSV or JSON.

CSV has the columns ``layer``, ``expert`` and ``count`` in any order, and may have ``label``,
``phase`` and ``document``; other programs' names of the same are known (:mod:`.columns`), and
further columns are passed over. JSON has a list of numbers for each layer, or an object of modules,
and may have an object of labels around them::

    {"layers.0": [598, 58, 687], "layers.1": {"0": 602, "2": 704}}
    {"code": {"0": [598, 58, 687]}, "prose": {"0": [61, 17, 202]}}
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modeval.errors import TraceError
from modeval.text import brief
from modeval.trace.importers.columns import (
    COUNT_NAMES,
    ROW_NAMES,
    Numbering,
    brief_names,
    match_columns,
    missing_columns,
)
from modeval.trace.importers.format import Counts, Facts, Format, Note, Options, Piece, layer_name
from modeval.trace.importers.plain import PHASE_WORDS
from modeval.trace.importers.reading import (
    module_number,
    parse_json,
    read_bytes,
    refuse,
    table_lines,
    tallies,
)
from modeval.trace.trace import Phase

WANTED = ("layer", "expert", "count")
LAYER = re.compile(r"(?:model\.)?(?:layers?|blk|block|h)?[._ -]?(\d{1,6})", re.IGNORECASE)
Cells = dict[tuple[str | None, int, str | int], dict[int, float]]


def read_csv(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read rows of layer, expert and count, under a line of column names."""
    cells: Cells = {}
    phases: set[str] = set()
    document = Numbering()
    columns = None
    for place, row in table_lines(path):
        if columns is None:
            columns = match_columns(list(row), COUNT_NAMES, options.columns)
            if not set(WANTED) <= columns.names.keys():
                refuse(path, place, missing_columns(list(row), columns, WANTED))
            if columns.others:
                note(
                    f"{path.name}: further columns were passed over: {brief_names(columns.others)}."
                )
        held = {ours: row[name] for ours, name in columns.names.items()}
        if not any(held.values()):
            continue
        expert = module_number(_without_point(held["expert"]), path, place)
        label = held.get("label") or None
        number = -1 if not held.get("document") else document(held["document"], path, place)
        phases.add(held.get("phase", ""))
        key = (label, number, _layer(held["layer"], path, place))
        counts = cells.setdefault(key, {})
        if expert in counts and len(phases - {""}) <= 1:
            refuse(path, place, f"repeats layer {held['layer']}, expert {expert}")
        counts[expert] = counts.get(expert, 0.0) + _count(held["count"], path, place)
    if phases - {""}:
        yield Facts(phase=_phase(phases, path))
    _say_of_parts(cells, path, note)
    yield from _pieces(cells, options)


def _say_of_parts(cells: Cells, path: Path, note: Note) -> None:
    if not all(count.is_integer() for row in cells.values() for count in row.values()):
        note(
            f"{path.name} has counts that are no whole numbers: a point was read as that of "
            "decimals, not of thousands."
        )


def read_json(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read lists or objects of counts by layer, with labels around them or without."""
    value = parse_json(read_bytes(path), path)
    if isinstance(value, dict):
        for name in ("counts", "expert_counts", "layers"):
            if isinstance(value.get(name), dict | list):
                value = value[name]
                break
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
                yield from _pieces({(label, -1, layer): cells}, options)
            else:
                selections = tallies(row, 1, path, place, "the list of counts")
                yield Counts(layer, selections, label=label, choices=options.choices)


def _labelled(value: Any, path: Path) -> dict[str | None, dict[str | int, Any]]:
    """Return the layers of each label; a table without labels has one, None."""
    if isinstance(value, list):
        return {None: dict(enumerate(value))}
    if not isinstance(value, dict) or not value:
        refuse(path, "", f"holds {brief(value)}: expected counts by layer")
    if all(LAYER.fullmatch(name) for name in value):
        return {None: {_layer(name, path, ""): row for name, row in value.items()}}
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
            found[label] = {_layer(str(name), path, ""): row for name, row in layers.items()}
    return found


def _pieces(cells: Mapping[Any, Mapping[int, float]], options: Options) -> Iterator[Counts]:
    for (label, document, layer), row in cells.items():
        selections = np.zeros(max(row, default=-1) + 1)
        selections[list(row)] = list(row.values())
        yield Counts(layer, selections, label=label, document=document, choices=options.choices)


def _layer(text: str, path: Path, place: str) -> str | int:
    """Return the number of a layer, or its name."""
    if not text:
        refuse(path, place, "names no layer")
    match = LAYER.fullmatch(_without_point(text))
    return layer_name(int(match[1])) if match else text


def _without_point(text: str) -> str:
    """Return a whole number as it is written without a point, as tables with gaps have it: 3.0."""
    whole, _, rest = text.partition(".")
    return whole if whole.isdecimal() and not rest.strip("0") else text


def _count(text: str, path: Path, place: str) -> float:
    try:
        count = float(text)
    except ValueError:
        advice = "Write thousands without a comma, and decimals with a point." * ("," in text)
        refuse(path, place, f"count is {brief(text)}: expected a number", advice)
    if not 0 <= count < float("inf"):
        refuse(path, place, f"count is {count}: expected 0 or more")
    return count


def _phase(words: set[str], path: Path) -> Phase:
    """Return the phase of all counts; those of several phases are mixed."""
    phases: dict[str, Phase] = {"prefill": "prefill", "decode": "decode", "train": "train"}
    found = {PHASE_WORDS.get(word.lower()) for word in words if word}
    if None in found:
        refuse(path, "", f"has the phases {', '.join(map(brief, sorted(words)))}")
    return phases.get(str(found.pop()), "unknown") if len(found) == 1 else "mixed"


def _is_csv(_path: Path, start: bytes) -> bool:
    if b"\0" in start or start.lstrip()[:1] in (b"{", b"["):
        return False
    try:
        first = next(iter(table_lines(_path, start)), None)
    except TraceError:
        return False
    return (
        first is not None
        and set(WANTED) <= match_columns(list(first[1]), COUNT_NAMES, {}).names.keys()
    )


def _is_json(path: Path, start: bytes) -> bool:
    """Tell whether an object or a list holds nothing but numbers in lists or objects of layers."""
    if not path.name.removesuffix(".gz").endswith(".json"):
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


FORMATS = (
    Format(
        name="counts-csv",
        about="a table of counts: layer,expert,count and optional label, phase, document",
        patterns=("*.csv", "*.csv.gz", "*.tsv", "*.txt"),
        sniff=_is_csv,
        read=read_csv,
        counts=True,
        phase="mixed",
    ),
    Format(
        name="counts-json",
        about='counts by layer: {"0": [598, 58], ...}, [[598, 58], ...], with labels around them',
        patterns=("*.json", "*.json.gz"),
        sniff=_is_json,
        read=read_json,
        counts=True,
        phase="mixed",
    ),
)
