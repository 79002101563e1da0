"""Tables of counts, whatever holds them: CSV, JSON, Parquet or NPZ.

A long table has the columns ``layer``, ``expert`` and ``count``, a row for each cell. A wide one
has a column for each expert beside the layers, or one for each layer beside the experts::

    layer,expert_0,expert_1,expert_2        expert,layer_0,layer_1
    0,598,58,687                            0,598,602

Both may have ``label``, ``phase`` and ``document``; other programs' names of the same are known
(:mod:`.columns`), and further columns are passed over.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeval.text import brief
from modeval.trace.importers.format import Counts, Facts, Note, Options, Piece, layer_name
from modeval.trace.importers.plain.columns import (
    COUNT_NAMES,
    ROW_NAMES,
    Numbering,
    brief_names,
    match_columns,
    missing_columns,
)
from modeval.trace.importers.plain.rows import PHASE_WORDS
from modeval.trace.importers.reading import module_number, refuse
from modeval.trace.trace import Phase

WANTED = ("layer", "expert", "count")
LAYER = re.compile(r"(?:model\.)?(?:layers?|blk|block|h)?[._ -]?(\d{1,6})", re.IGNORECASE)
_WORDS = (
    r"(?:(?:counts?|tokens?|load|n)[ _.-]+)?{}[ _.-]*(\d{{1,5}})(?:[ _.-]+(?:counts?|tokens?))?"
)
WIDE = {
    "expert": re.compile(_WORDS.format(r"(?:experts?|exp|ex|e|modules?|mod|m)?"), re.IGNORECASE),
    "layer": re.compile(_WORDS.format(r"(?:layers?|blk|block|h|l)"), re.IGNORECASE),
}
ACROSS = {"expert": "layer", "layer": "expert"}
FEWEST = 2
THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+")
DECIMALS = re.compile(r"\d+,\d+")
NEARLY = 1e-3
Cells = dict[tuple[str | None, int, str | int], dict[int, float]]


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a table of counts are.

    Attributes:
        names: name in the file, by our name.
        across: what the columns of counts stand for, ``expert`` or ``layer``; empty in long tables.
        wide: number of the expert or layer of each column of counts.
        others: columns that are passed over.
    """

    names: Mapping[str, str]
    across: str
    wide: Mapping[str, int]
    others: tuple[str, ...]

    @property
    def tells_modules(self) -> bool:
        """Return whether each module has a column, from 0 to the last without a gap."""
        return self.across == "expert" and {*self.wide.values()} == {*range(len(self.wide))}


def layout_of(names: Sequence[str], said: Mapping[str, str]) -> Layout | None:
    """Return what the columns of a table of counts are; None for another table.

    >>> layout_of(["layer", "e0", "e1"], {}).wide
    {'e0': 0, 'e1': 1}
    """
    columns = match_columns(names, COUNT_NAMES, said)
    if set(WANTED) <= columns.names.keys():
        return Layout(columns.names, "", {}, columns.others)
    if {"chosen", "position", "token"} & match_columns(names, ROW_NAMES, said).names.keys():
        return None  # a row for each token
    for across, down in ACROSS.items():
        found = {name: WIDE[across].fullmatch(name.strip()) for name in columns.others}
        wide = {name: int(match[1]) for name, match in found.items() if match}
        if down in columns.names and len(wide) >= FEWEST and len({*wide.values()}) == len(wide):
            others = tuple(name for name in columns.others if name not in wide)
            return Layout(columns.names, across, wide, others)
    return None


def numbered_columns(names: Sequence[str]) -> list[str]:
    """Return the columns that may be counts of numbered experts, of a table that lacks layers."""
    found = [name for name in names if WIDE["expert"].fullmatch(name.strip())]
    return found if len(found) >= FEWEST else []


def read_table(
    source: Iterator[tuple[str, Mapping[str, Any]]], path: Path, options: Options, note: Note
) -> Iterator[Piece]:
    """Read the rows of a table of counts, each with its place."""
    cells: Cells = {}
    phases: set[str] = set()
    document = Numbering()
    known: dict[tuple[str, ...], Layout] = {}
    for place, record in source:
        keys = tuple(record)
        if keys not in known:
            known[keys] = _layout(keys, path, place, options, note)
        layout = known[keys]
        row = {name: cell(value) for name, value in record.items()}
        held = {ours: row[name] for ours, name in layout.names.items()}
        if not any(held.values()):
            continue
        number = -1 if not held.get("document") else document(held["document"], path, place)
        phases.add(held.get("phase", ""))
        for layer, expert, count in _counted(layout, held, row, path, place):
            counts = cells.setdefault((held.get("label") or None, number, layer), {})
            if expert in counts and len(phases - {""}) <= 1:
                shown = held.get("layer", layer)
                refuse(path, place, f"repeats layer {shown}, expert {expert}", _twice(layout))
            counts[expert] = counts.get(expert, 0.0) + count
    if phases - {""}:
        yield Facts(phase=_phase(phases, path))
    _check_shares(cells, known.values(), path, note)
    sized = all(layout.tells_modules for layout in known.values())
    yield from (replace(piece, sized=sized) for piece in pieces(cells, options))


def cell(value: Any) -> str:
    """Return a value as a cell of CSV has it: what is unknown is empty, whole numbers plain.

    >>> cell(3.0), cell(None), cell(float("nan")), cell(0.5)
    ('3', '', '', '0.5')
    """
    if isinstance(value, str):
        return value
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _layout(names: tuple[str, ...], path: Path, place: str, options: Options, note: Note) -> Layout:
    layout = layout_of(names, options.columns)
    if layout is None:
        columns = match_columns(names, COUNT_NAMES, options.columns)
        refuse(path, place, missing_columns(names, columns, WANTED))
    if layout.others:
        note(f"{path.name}: further columns were passed over: {brief_names(layout.others)}.")
    if layout.across:
        shown = brief_names(tuple(layout.wide))
        note(f"{path.name}: each of these columns was taken for counts of one {layout.across}: "
             f"{shown}.")  # fmt: skip
    return layout


def _counted(
    layout: Layout, held: Mapping[str, str], row: Mapping[str, str], path: Path, place: str
) -> Iterator[tuple[str | int, int, float]]:
    """Yield the layer, expert and count of each cell of a row; an empty cell of a wide one is 0."""
    layer = layer_of(held["layer"], path, place) if "layer" in held else ""
    expert = module_number(_whole(held["expert"]), path, place) if "expert" in held else -1
    if not layout.across:
        yield layer, expert, _count(held["count"], path, place)
    for name, number in layout.wide.items():
        count = _count(row[name] or "0", path, place)
        if layout.across == "expert":
            yield layer, module_number(str(number), path, place), count
        else:
            yield layer_name(number), expert, count


def _twice(layout: Layout) -> str:
    if not layout.across:
        others = brief_names(layout.others)
        passed = f"The table has the columns {others} too: keep the rows of one of their values, "
        return f"{passed}or sum over them." if others else ""
    return (
        "A row holds the counts of one layer of a label and document. If a row is a token and its "
        "numbers are the experts that it chose, write them into one column: chosen, as 5 1."
    )


def _check_shares(cells: Cells, layouts: Any, path: Path, note: Note) -> None:
    """Refuse wide tables of shares; say how points were read in counts that are not whole."""
    if all(count.is_integer() for row in cells.values() for count in row.values()):
        return
    if any(layout.across for layout in layouts):
        refuse_shares([sum(row.values()) for row in cells.values()], path)
    note(
        f"{path.name} has counts that are no whole numbers: a point or a comma was read as that of "
        "decimals, not of thousands."
    )


def refuse_shares(sums: Sequence[float], path: Path) -> None:
    """Refuse counts each of whose rows sums to 1."""
    if sums and all(abs(each - 1) < NEARLY for each in sums):
        refuse(
            path,
            "",
            "holds rows that sum to 1: shares, which say nothing of how many tokens there were",
            "Multiply each row by its number of choices. A matrix of rules and modules is scored "
            "as it is: save it as NPY, modeval score matrix.npy.",
        )


def pieces(cells: Mapping[Any, Mapping[int, float]], options: Options) -> Iterator[Counts]:
    """Yield the counts of each label, document and layer; experts that are not listed have 0."""
    for (label, document, layer), row in cells.items():
        selections = np.zeros(max(row, default=-1) + 1)
        selections[list(row)] = list(row.values())
        yield Counts(layer, selections, label=label, document=document, choices=options.choices)


def layer_of(text: str, path: Path, place: str) -> str | int:
    """Return the name of a layer; those that are only numbered are called alike."""
    if not text:
        refuse(path, place, "names no layer")
    match = LAYER.fullmatch(_whole(text))
    return layer_name(int(match[1])) if match else text


def _whole(text: str) -> str:
    """Return a whole number as it is written without a point, as tables with gaps have it: 3.0."""
    whole, _, rest = text.replace(",", ".").partition(".")
    return whole if whole.isdecimal() and not rest.strip("0") else text


def _count(text: str, path: Path, place: str) -> float:
    """Return a count; a comma is that of decimals, unless it may be that of thousands."""
    advice = "Write thousands without a comma, and decimals with a point." * ("," in text)
    decimal = DECIMALS.fullmatch(text) and not THOUSANDS.fullmatch(text)
    try:
        count = float(text.replace(",", ".") if decimal else text)
    except ValueError:
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
