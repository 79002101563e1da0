"""Traces into one another and into other forms: merge, counts, CSV, JSONL, NPZ."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from modeval import atomic
from modeval.errors import TraceError
from modeval.trace.counts import UNWRITTEN, save_counts
from modeval.trace.files import (
    Trace,
    TraceWriter,
    chunks,
    concatenate,
    open_trace,
    relabelled,
)
from modeval.trace.fold import BLOCKS, fold_groups
from modeval.trace.trace import PHASES, TraceChunk, TraceHeader

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
    """Write the rows of several traces as one new trace, in the given order.

    Labels may differ, and are united; phases may differ. All else that gives the rows their
    meaning must be the same. Documents of different traces stay different.

    Raises:
        TraceError: headers differ, or a trace is incomplete and ``allow_partial`` is not given.
    """
    traces = [open_trace(path) for path in paths]
    header = _merged_header(traces)
    for trace in traces:
        if not trace.complete and not allow_partial:
            raise TraceError(
                f"{trace.path} is incomplete: its recording stopped before its end. Merge what is "
                "there with --allow-partial."
            )
        if not trace.complete:
            header = header.noted(f"{trace.path.name} was incomplete: {trace.rows} rows of it.")
    numbers = {label: index for index, label in enumerate(header.labels)}
    with TraceWriter(out, header) as writer:
        offset, largest = 0, -1
        for trace in traces:
            labels = np.array([numbers[label] for label in trace.header.labels], dtype=np.int32)
            for chunk in chunks(trace):
                document = np.where(chunk.document < 0, -1, chunk.document + offset)
                largest = max(largest, int(document.max(initial=-1)))
                writer.append(replace(relabelled(chunk, labels), document=document))
            offset = largest + 1
    return open_trace(out)


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
    with atomic.whole_file(out, UNWRITTEN) as temporary:
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


def _merged_header(traces: Sequence[Trace]) -> TraceHeader:
    first = traces[0].header
    for trace in traces[1:]:
        for name in SAME:
            mine, theirs = getattr(first, name), getattr(trace.header, name)
            if mine != theirs:
                raise TraceError(
                    f"{trace.path} differs from {traces[0].path} in {name}: {theirs!r}, not "
                    f"{mine!r}. Only traces that mean the same can be merged."
                )
    labels = dict.fromkeys(label for trace in traces for label in trace.header.labels)
    phases = {trace.header.phase for trace in traces}
    header = replace(
        first, labels=tuple(labels), phase=first.phase if len(phases) == 1 else "mixed"
    )
    return header.noted(*(note for trace in traces for note in trace.header.notes))


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
