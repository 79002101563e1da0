"""colibri: counts of experts, and exported traces."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.text import brief
from modeval.trace.importers.format import Counts, Format, Note, Options, Rows, layer_name
from modeval.trace.importers.reading import (
    as_object,
    has_keys,
    integers,
    lines,
    numbers,
    parse_json,
    read_bytes,
    refuse,
    required,
    sparse_counts,
)

ROUTE = re.compile(r"(\d{1,5}):(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")
NUMBER = re.compile(r"\d{1,6}")
ROUTE_LINE = re.compile(rb"(#[^\n]*\n)*\s*\d+[ \t]+\d+[ \t]+\d+([ \t]+\d+:-?[\d.eE+-]+)+\s*\r?\n")
EXPORT = "glm52-routing-trace-export/v2"


def read_stats(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read lines ``layer expert count``; ``<category>_<index>.txt`` is a replicate of a label."""
    named = re.fullmatch(r"(.+)_(\d+)", path.stem)
    label = named[1] if named and options.label is None and not options.label_from else None
    yield from sparse_counts(
        _stats_cells(path), path, options, document=0 if named else -1, label=label
    )


def read_route_trace(path: Path, _options: Options, _note: Note) -> Iterator[Rows]:
    """Read ``#prompt NAME TOKENS``, then lines ``layer token layer id:weight id:weight ...``."""
    document = -1
    held: list[tuple[int, int, list[int], list[float]]] = []
    for place, text in lines(path):
        if text.startswith("#"):
            if held:
                yield _of_routes(held, document)
                held = []
            document += text.startswith("#prompt")
            continue
        first, *rest = text.split()
        pairs = [ROUTE.fullmatch(cell) for cell in rest[2:]]
        if len(rest) < 3 or not all(pairs) or not all(map(NUMBER.fullmatch, (first, *rest[:2]))):  # noqa: PLR2004
            refuse(path, place, f"is {brief(text)}: expected layer token layer id:weight ...")
        if held and len(pairs) != len(held[0][2]):
            yield _of_routes(held, document)
            held = []
        chosen = [int(pair[1]) for pair in pairs if pair]
        held.append((int(rest[1]), int(rest[0]), chosen, [float(p[2]) for p in pairs if p]))
    if held:
        yield _of_routes(held, document)


def _of_routes(held: list[tuple[int, int, list[int], list[float]]], document: int) -> Rows:
    layer, position, chosen, weight = zip(*held, strict=True)
    return Rows(
        np.array(layer),
        np.array(chosen),
        document=document,
        position=np.array(position),
        weight=np.array(weight),
    )


def read_export(path: Path, _options: Options, note: Note) -> Iterator[Rows]:
    """Read an export of colibri issue 119: rows of all layers, prompts as ranges of rows."""
    export = as_object(parse_json(read_bytes(path), path), path, "")
    layers = required(export, "layers", dict, path, "")
    traced = (export.get("layer_map") or {}).get("traced_layers")
    if isinstance(traced, list) and sorted(map(str, traced)) != sorted(layers):
        refuse(path, "layer_map", f"lists {len(traced)} traced layers: layers has {len(layers)}")
    for name, record in layers.items():
        place = f"layer {name}"
        layer = as_object(record, path, place)
        if not name.isdecimal():
            refuse(path, place, "has no number")
        given = required(layer, "executed_topk", list, path, place)
        chosen = integers(given, 2, path, place, "executed_topk")
        scores = layer.get("executed_scores")
        weight = None
        if scores is not None:
            weight = numbers(scores, 2, path, place, "executed_scores")
            if weight.shape != chosen.shape:
                refuse(path, place, f"has scores {weight.shape} for choices {chosen.shape}")
        document, labels = _prompts(export, len(chosen), path)
        yield Rows(layer_name(int(name)), chosen, document=document, label=labels, weight=weight)
    note("executed_scores are selection scores with their bias: they are no shares of anything.")


def _stats_cells(path: Path) -> Iterator[tuple[str, int, int, float]]:
    for place, text in lines(path):
        try:
            layer, expert, count = (int(cell) for cell in text.split())
        except ValueError as error:
            refuse(path, place, f"is not three numbers, layer expert count ({error})")
        if layer >= 0:  # a negative layer is a line of the header
            yield place, layer, expert, float(count)


def _prompts(
    export: dict[str, Any], rows: int, path: Path
) -> tuple[NDArray[np.int64], list[str | None]]:
    document = np.full(rows, -1, dtype=np.int64)
    labels: list[str | None] = [None] * rows
    prompts = (export.get("conditional") or {}).get("prompts") or []
    for number, prompt in enumerate(prompts):
        place = f"prompt {number}"
        start, end = _range(as_object(prompt, path, place), path, place)
        if not 0 <= start <= end <= rows:
            refuse(path, place, f"has the rows {start} to {end}: there are {rows}")
        document[start:end] = number
        labels[start:end] = [required(prompt, "category", str, path, place)] * (end - start)
    return document, labels


def _range(prompt: dict[str, Any], path: Path, place: str) -> tuple[int, int]:
    for names in (("row_start", "row_end"), ("start_row", "end_row"), ("start", "end")):
        if all(name in prompt for name in names):
            start, end = (required(prompt, name, int, path, place) for name in names)
            return start, end
    name = "row_range" if "row_range" in prompt else "rows"
    value = prompt.get(name)
    if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004
        refuse(path, place, f"names no range of rows: it has {', '.join(map(repr, prompt))}")
    start, end = (int(item) for item in integers(value, 1, path, place, name))
    return start, end


NOTE = (
    "colibri counts rejected speculative drafts too, and leaves out experts that top-p "
    "pruning dropped."
)

FORMATS = (
    Format(
        name="colibri-stats",
        about="colibri STATS: lines layer expert count, in <category>_<index>.txt",
        patterns=("*.txt",),
        sniff=lambda _path, start: bool(
            re.match(rb"\s*-?\d+[ \t]+-?\d+[ \t]+-?\d+[ \t]*\r?\n", start)
        ),
        read=read_stats,
        engine="colibri",
        counts=True,
        phase="mixed",
        notes=(NOTE,),
    ),
    Format(
        name="glm52",
        about="glm52-routing-trace-export/v2 (colibri issue 119): gzipped JSON",
        patterns=("*.json.gz", "*.json"),
        sniff=lambda _path, start: EXPORT.encode() in start or has_keys(start, "executed_topk"),
        read=read_export,
        engine="colibri",
        weight_scale="selection score",
    ),
    Format(
        name="route-trace",
        about="colibri route trace: #prompt lines, then layer token layer id:weight ...",
        patterns=("*.trace", "*.txt", "*.log"),
        sniff=lambda _path, start: bool(ROUTE_LINE.match(start)),
        read=read_route_trace,
        engine="colibri",
        weight_scale=None,
    ),
)
