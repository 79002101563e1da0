"""Traces into one another and into other forms: merge, counts, CSV, JSONL, NPZ."""

import csv
import functools
import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from modeval import atomic
from modeval.counting.units import merge_units
from modeval.errors import TraceError
from modeval.text import natural
from modeval.trace.counts import UNWRITTEN, load_counts, save_counts
from modeval.trace.files import (
    Trace,
    TraceWriter,
    check_new,
    chunks,
    concatenate,
    open_trace,
    relabelled,
    write_header,
)
from modeval.trace.fold import BLOCKS, LayerGroup, fold_groups
from modeval.trace.trace import PHASES, TraceChunk, TraceHeader, Warned
from modeval.types import RoutingCounts

LARGEST_PLAIN = 10_000_000
SAME = (
    "layers",
    "modules",
    "choices",
    "source",
    "weight_scale",
    "capacity",
    "padding",
    "shared",
    "token_ids",
    "logits",
    "digest",
)


def merge(paths: Sequence[Path], out: Path, *, allow_partial: bool = False) -> Trace:
    """Write the rows of several traces as one new trace, in the given order, whole or not at all.

    Labels may differ, and are united; phases may differ. All else that gives the rows their
    meaning must be the same. Documents of different traces stay different.

    Raises:
        TraceError: headers differ, or a trace is incomplete and ``allow_partial`` is not given.
    """
    traces = [open_trace(path) for path in paths]
    header = merged_header([(trace.path, trace.header) for trace in traces])
    for trace in traces:
        if not trace.complete and not allow_partial:
            raise TraceError(
                f"{trace.path} is incomplete: its recording stopped before its end. Merge what is "
                "there with --allow-partial."
            )
        if not trace.complete:
            header = header.noted(f"{trace.path.name} was incomplete: {trace.rows} rows of it.")
    check_new(out)
    with atomic.whole_folder(out, UNWRITTEN) as draft:
        with TraceWriter(draft, header) as writer:
            _append_all(writer, traces)
        _look_for_copies(draft)
    return open_trace(out)


def _append_all(writer: TraceWriter, traces: Sequence[Trace]) -> None:
    """Append the rows of traces, with other documents for each, and say which repeats another."""
    numbers = {label: index for index, label in enumerate(writer.header.labels)}
    contents: dict[str, Path] = {}
    offset, largest = 0, -1
    for trace in traces:
        content = hashlib.sha256()
        labels = np.array([numbers[label] for label in trace.header.labels], dtype=np.int32)
        for chunk in chunks(trace):
            document = np.where(chunk.document < 0, -1, chunk.document + offset)
            largest = max(largest, int(document.max(initial=-1)))
            own = relabelled(chunk, labels)
            for column in (own.layer, own.label, own.chosen):
                content.update(np.ascontiguousarray(column).data)
            writer.append(replace(own, document=document))
        offset = largest + 1
        twin = contents.setdefault(content.hexdigest(), trace.path)
        if twin is not trace.path and trace.rows:
            writer.warn(_copied(trace.path, twin))


def _look_for_copies(out: Path) -> None:
    """Say in the header of a merged trace how many documents stand in it more than once."""
    merged = open_trace(out)
    said = any(warning.kind == "copies" for warning in merged.header.warnings)
    if said or not 0 < merged.rows <= LARGEST_PLAIN:
        return
    units = fold_groups(merged)[0].units
    if units is not None and units.repeated:
        text = (
            f"{units.repeated} documents stand in the data more than once; each counts once where "
            "chance is told from evidence. Merge each recording once."
        )
        write_header(out, merged.header.warned(Warned("copies", text)))


def _copied(path: Path, twin: Path) -> Warned:
    return Warned("copies", f"{path} repeats {twin} row for row. Merge each recording once.")


def merge_counts(paths: Sequence[Path], out: Path) -> TraceHeader:
    """Add up files of counts of one model as one new file; labels are united.

    What one of them does not know stays unknown. Documents that several of them hold count once.

    Raises:
        TraceError: headers differ, or the file exists.
    """
    loaded = [(path, *load_counts(path)) for path in paths]
    header = merged_header([(path, header) for path, header, _ in loaded])
    for number, (path, _, groups) in enumerate(loaded):
        for twin, _, others in loaded[:number]:
            if _same_counts(groups, others):
                header = header.warned(_copied(path, twin))
    rules = max(len(header.labels), 1)
    merged: list[LayerGroup] = []
    for index, first in enumerate(loaded[0][2]):
        parts = [
            _with_rules(groups[index], [header.labels.index(label) for label in own.labels], rules)
            for _, own, groups in loaded
        ]
        if len({part.counts.mass.shape for part in parts}) > 1:  # other numbers of blocks
            parts = [replace(part, counts=part.counts.pooled()) for part in parts]
        counts = functools.reduce(operator.add, (part.counts for part in parts))
        units = [part.units for part in parts if part.units is not None]
        known = functools.reduce(merge_units, units) if len(units) == len(parts) else None
        if known is not None and known.repeated and not header.warnings:
            text = f"{known.repeated} documents stand in several of the files; each counts once."
            header = header.warned(Warned("copies", text))
        merged.append(LayerGroup(first.layers, counts, known))
    save_counts(out, header, merged)
    return header


def _same_counts(groups: Sequence[LayerGroup], others: Sequence[LayerGroup]) -> bool:
    return all(
        torch.equal(mine.counts.selections, its.counts.selections)
        for mine, its in zip(groups, others, strict=True)
    )


def _with_rules(group: LayerGroup, numbers: Sequence[int], rules: int) -> LayerGroup:
    """Return counts and documents with each rule under its number among all rules."""
    if not numbers:
        return group
    parts = {}
    for name, part in group.counts.tensors().items():
        axis = {4: 2, 3: 2}.get(part.dim())
        if name == "coactivation" or axis is None:
            parts[name] = part
            continue
        shape = list(part.shape)
        shape[axis] = rules
        parts[name] = part.new_zeros(shape).index_copy(axis, torch.tensor(numbers), part)
    units = group.units
    if units is not None:
        units = replace(units, label=torch.tensor(numbers)[units.label], rules=rules)
    return LayerGroup(group.layers, RoutingCounts(**parts), units)


def convert(trace: Trace, out: Path, *, kind: str, blocks: int = BLOCKS) -> None:
    """Write a trace as ``counts``, ``csv``, ``jsonl`` or ``npz``; the last three if it is small.

    What was written as CSV, JSONL or NPZ imports again as the same rows.

    Raises:
        TraceError: the kind is unknown, the file exists, or the trace is too large.
    """
    if kind == "counts":
        save_counts(out, trace.header, fold_groups(trace, blocks=blocks))
        return
    writers: dict[str, Callable[[Trace, Path], None]] = {
        "csv": _write_csv,
        "jsonl": _write_jsonl,
        "npz": _write_npz,
    }
    if kind not in writers:
        raise TraceError(f"--to {kind!r}: expected counts, {', '.join(writers)}.")
    if out.exists():
        raise TraceError(f"{out} exists: expected a new file. Remove it, or give another name.")
    if trace.rows > LARGEST_PLAIN:
        raise TraceError(
            f"{trace.path} has {trace.rows} rows: {kind} is for at most {LARGEST_PLAIN}. Its parts "
            "are Parquet, which DuckDB, Polars and Spark read as they are."
        )
    with (
        atomic.reported(out, UNWRITTEN),
        atomic.new_folders(out.parent),
        atomic.whole_file(out, UNWRITTEN) as temporary,
    ):
        writers[kind](trace, temporary)


def records(chunk: TraceChunk, header: TraceHeader) -> Iterator[dict[str, Any]]:
    """Yield each row as a dictionary with names for its numbers, without what is unknown."""
    for index in range(len(chunk)):
        row: dict[str, Any] = {
            "layer": header.layers[chunk.layer[index]],
            "chosen": chunk.chosen[index].tolist(),
        }
        if chunk.weight is not None:
            row["weight"] = [float(str(value)) for value in chunk.weight[index]]
        for name, column in (("document", chunk.document), ("position", chunk.position)):
            if column[index] >= 0:
                row[name] = int(column[index])
        if chunk.token is not None:
            row["token"] = int(chunk.token[index])
        if chunk.phase[index]:
            row["phase"] = PHASES[chunk.phase[index]]
        if chunk.label[index] >= 0:
            row["label"] = header.labels[chunk.label[index]]
        yield row


def merged_header(held: Sequence[tuple[Path, TraceHeader]]) -> TraceHeader:
    """Return the header of what several traces hold together.

    Raises:
        TraceError: they differ in what gives their rows their meaning.
    """
    path, first = held[0]
    for other, header in held[1:]:
        for name in SAME:
            mine, theirs = getattr(first, name), getattr(header, name)
            if mine != theirs:
                raise TraceError(
                    f"{other} differs from {path} in {name}: {theirs!r}, not {mine!r}. Only "
                    "traces that mean the same can be merged."
                )
        if bool(header.labels) != bool(first.labels):
            raise TraceError(
                f"{other if first.labels else path} has no labels, and others have. Import it "
                "again with --label, or merge it with its like."
            )
    phases = {header.phase for _, header in held}
    header = replace(
        first, labels=_united(held), phase=first.phase if len(phases) == 1 else "mixed"
    )
    header = header.noted(*(note for _, each in held for note in each.notes))
    return header.warned(*(warning for _, each in held for warning in each.warnings))


def _united(held: Sequence[tuple[Path, TraceHeader]]) -> tuple[str, ...]:
    """Return the labels of all: where they differ in the order of an import, whatever came first.

    Labels are numbered in this order, and permuted by number: no order of files may show in p.
    """
    orders = {header.labels for _, header in held}
    if len(orders) == 1:
        return orders.pop()
    return tuple(sorted({label for labels in orders for label in labels}, key=natural))


def _write_csv(trace: Trace, out: Path) -> None:
    names = ["layer", "chosen", "document", "position", "phase", "label"]
    names += [name for name in ("token", "weight") if name in trace.header.columns]

    def text(value: Any) -> Any:
        return " ".join(map(str, value)) if isinstance(value, list) else value

    def write(file: TextIO) -> None:
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        for chunk in chunks(trace):
            for row in records(chunk, trace.header):
                table.writerow({name: text(value) for name, value in row.items()})

    _write(out, write)


def _write_jsonl(trace: Trace, out: Path) -> None:
    def write(file: TextIO) -> None:
        for chunk in chunks(trace):
            file.writelines(json.dumps(row) + "\n" for row in records(chunk, trace.header))

    _write(out, write)


def _write(out: Path, write: Callable[[TextIO], None]) -> None:
    with out.open("w", encoding="utf-8", newline="") as file:
        write(file)


def _write_npz(trace: Trace, out: Path) -> None:
    rows = concatenate(list(chunks(trace))) if trace.rows else None
    if rows is None:
        raise TraceError(f"{trace.path} has no rows to write.")
    arrays: dict[str, Any] = rows.arrays()
    arrays.pop("logits", None)
    arrays["layer"] = np.array(trace.header.layers)[rows.layer]
    arrays["label"] = np.array([*trace.header.labels, ""])[rows.label]
    with out.open("wb") as file:  # a name that does not end in .npz would be given that ending
        np.savez_compressed(file, **arrays)
