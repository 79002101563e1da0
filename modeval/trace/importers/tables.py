"""Tables of counts and averages: EPLB arrays, EMO averages, plumb and moewatch reports."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modeval.trace.importers.format import (
    Counts,
    Format,
    Note,
    Options,
    as_object,
    entry,
    has_keys,
    json_lines,
    load_array,
    numbers,
    parse_json,
    read_bytes,
    refuse,
    tallies,
)
from modeval.trace.importers.sglang import sparse_counts


def read_eplb(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read an array ``[layers, experts]`` of loads."""
    with path.open("rb") as opened:
        array = load_array(opened, path, "", "the file")
    for layer, selections in enumerate(tallies(array, 2, path, "", "the array")):
        yield Counts(layer, selections, choices=options.choices)


def read_emo(path: Path, _options: Options, _note: Note) -> Iterator[Counts]:
    """Read mean router probabilities, layer x expert, one document a line: one sample each."""
    for document, (place, record) in enumerate(json_lines(path)):
        given = entry(record, "avg_router_probabilities", list, path, place)
        shares = numbers(given, 2, path, place, "avg_router_probabilities")
        if shares.min(initial=0) < 0 or (abs(shares.sum(1) - 1) > 0.01).any():  # noqa: PLR2004
            refuse(path, place, "has probabilities that are negative or do not sum to 1")
        for layer, mass in enumerate(shares):
            unknown = np.full(len(mass), np.nan)
            yield Counts(layer, unknown, document=document, mass=mass, samples=1.0)


def read_plumb(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read a snapshot or a report of plumb."""
    record = as_object(parse_json(read_bytes(path), path), path, "")
    if "expert_counts" in record:
        cells = _snapshot(entry(record, "expert_counts", dict, path, ""), path)
    else:
        cells = _report(entry(record, "layers", list, path, ""), path)
    yield from sparse_counts(cells, path, options)


def read_moewatch(path: Path, _options: Options, _note: Note) -> Iterator[Counts]:
    """Read the token counts of moewatch, which are of each token's first choice only."""
    record = as_object(parse_json(read_bytes(path), path), path, "")
    usage = as_object(entry(record, "utilization", dict, path, ""), path, "utilization")
    for name, value in entry(usage, "token_counts", dict, path, "utilization").items():
        place = f"layer {name}"
        if isinstance(value, dict):
            cells = (
                (
                    place,
                    0,
                    _number(expert, path, place),
                    float(tallies([count], 1, path, place, "count")[0]),
                )
                for expert, count in value.items()
            )
            selections = next(sparse_counts(cells, path, Options())).selections
        else:
            selections = tallies(value, 1, path, place, "token_counts")
        yield Counts(int(name) if name.isdigit() else name, selections, choices=1)


def _snapshot(counts: dict[str, Any], path: Path) -> Iterator[tuple[str, int, int, float]]:
    for key, count in counts.items():
        place = f"expert_counts {key!r}"
        layer, _, expert = key.partition(":")
        number = float(tallies([count], 1, path, place, "count")[0])
        yield place, _number(layer, path, place), _number(expert, path, place), number


def _report(layers: list[Any], path: Path) -> Iterator[tuple[str, int, int, float]]:
    for number, item in enumerate(layers):
        place = f"layers[{number}]"
        layer = as_object(item, path, place)
        for expert in entry(layer, "experts", list, path, place):
            record = as_object(expert, path, place)
            yield (
                place,
                entry(layer, "layer_id", int, path, place),
                entry(record, "expert_id", int, path, place),
                float(entry(record, "token_count", int, path, place)),
            )


def _number(text: str, path: Path, place: str) -> int:
    if not text.isdigit():
        refuse(path, place, f"names {text!r}: expected a number")
    return int(text)


FORMATS = (
    Format(
        name="eplb",
        about="EPLB loads: NPY array [layers, experts]",
        patterns=("*.npy",),
        sniff=lambda path, start: start.startswith(b"\x93NUMPY") and path.suffix == ".npy",
        read=read_eplb,
        engine="eplb",
        counts=True,
        sized=True,
        notes=("EPLB loads may be moving averages, not counts of tokens.",),
    ),
    Format(
        name="emo",
        about="EMO activations.jsonl: mean router probabilities of each document",
        patterns=("*.jsonl", "*.jsonl.gz"),
        sniff=lambda _path, start: has_keys(start, "avg_router_probabilities"),
        read=read_emo,
        engine="emo",
        counts=True,
        sized=True,
        weight_scale="probability",
        notes=("EMO gives means of documents: each document is one sample, choices are unknown.",),
    ),
    Format(
        name="moewatch",
        about="moewatch to_json: counts of each token's first choice",
        patterns=("*.json",),
        sniff=lambda _path, start: has_keys(start, "moewatch_version"),
        read=read_moewatch,
        engine="moewatch",
        counts=True,
        notes=(
            (
                "moewatch counts the first choice only, counts padding, and takes the largest "
                "number seen for the number of experts."
            ),
        ),
        padding="included",
    ),
    Format(
        name="plumb",
        about="plumb snapshot or report: counts",
        patterns=("*.json",),
        sniff=lambda _path, start: (
            has_keys(start, "expert_counts", "pass_count")
            or has_keys(start, "layers", "total_forward_passes")
        ),
        read=read_plumb,
        engine="plumb",
        counts=True,
        notes=(
            (
                "plumb counts two choices of each token whatever K is, forgets old tokens, and "
                "leaves out experts that it never saw."
            ),
        ),
    ),
)
