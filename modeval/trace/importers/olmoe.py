"""OLMoE's analysis files: routed tokens as JSONL, and pickled counters of experts by domain."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.text import brief
from modeval.trace.importers.format import Counts, Format, Note, Options, Rows
from modeval.trace.importers.pickles import PickleError, read_pickle
from modeval.trace.importers.reading import (
    grid,
    has_keys,
    integers,
    json_lines,
    read_bytes,
    refuse,
    required,
)

PUBLISHED_LAYERS = (0, 7, 15)
LARGEST_PICKLE = 1 << 24
LARGEST_COUNT = 1 << 62
MOST_COUNTERS, MOST_EXPERTS = 1024, (1 << 15) - 1


def read_jsonl(path: Path, _options: Options, _note: Note) -> Iterator[Rows]:
    """Read a document for each line; ``exp_ids`` has the axes token, choice, layer."""
    for document, (place, record) in enumerate(json_lines(path)):
        given = required(record, "exp_ids", list, path, place)
        chosen = integers(given, 3, path, place, "exp_ids").transpose(0, 2, 1)
        tokens = required(record, "input_ids", list, path, place)
        token = integers(tokens, 1, path, place, "input_ids")
        if len(token) != len(chosen):
            refuse(path, place, f"has {len(token)} input_ids and {len(chosen)} exp_ids")
        if chosen.size:
            layer, position, rows = grid(chosen)
            yield Rows(layer, rows, document, position, token=token[position])


def read_counts(path: Path, options: Options, note: Note) -> Iterator[Counts]:
    """Read a list of counters, one for each layer, of the domain that names the file."""
    counters = _unpickle(path)
    if not isinstance(counters, list) or not all(isinstance(item, dict) for item in counters):
        refuse(path, "", "is no list of counters")
    if len(counters) > MOST_COUNTERS:
        refuse(
            path, "", f"has {len(counters)} counters: expected one a layer, {MOST_COUNTERS} at most"
        )
    layers = PUBLISHED_LAYERS if len(counters) == len(PUBLISHED_LAYERS) else range(len(counters))
    if len(counters) == len(PUBLISHED_LAYERS):
        note("The three counters were taken for layers 0, 7 and 15, as OLMoE publishes them.")
    top_one = "top1" in path.parent.name
    choices = 1 if top_one and options.choices is None else options.choices
    for number, (layer, counter) in enumerate(zip(layers, counters, strict=True)):
        yield Counts(layer, _selections(counter, path, f"counter {number}"), choices=choices)


def _selections(counter: dict[Any, Any], path: Path, place: str) -> NDArray[np.float64]:
    for expert, count in counter.items():
        numbers = type(expert) is int and type(count) is int
        if not numbers or not 0 <= expert < MOST_EXPERTS or not 0 <= count < LARGEST_COUNT:
            what = f"{brief(expert)}: {brief(count)}"
            refuse(path, place, f"counts {what}, which is no expert and its count")
    selections = np.zeros(max(counter, default=-1) + 1)
    for expert, count in counter.items():
        selections[expert] = count
    return selections


def _unpickle(path: Path) -> Any:
    data = read_bytes(path)
    if len(data) > LARGEST_PICKLE:
        refuse(path, "", f"has {len(data)} bytes: counters are smaller")
    try:
        return read_pickle(data)
    except PickleError as error:
        refuse(
            path,
            "",
            f"asks for {error}: a pickle may hold counters and numbers only",
            "Do not load it with anything else unless you trust who made it.",
        )
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything
        refuse(path, "", f"is no whole pickle ({type(error).__name__}: {brief(str(error), 200)})")


def _is_pickle(path: Path, start: bytes) -> bool:
    return path.suffix in {".pkl", ".pickle"} and start[:1] in {b"\x80", b"(", b"]", b"c"}


FORMATS = (
    Format(
        name="olmoe",
        about="OLMoE run_moe_analysis.py: JSONL with input_ids and exp_ids[token][k][layer]",
        patterns=("*.jsonl", "*.jsonl.gz"),
        sniff=lambda _path, start: (
            has_keys(start, "exp_ids") or has_keys(start, "predicted_token_ids", "input_ids")
        ),
        read=read_jsonl,
        engine="transformers",
        phase="prefill",
        padding="unknown",
    ),
    Format(
        name="olmoe-counts",
        about="OLMoE scripts/routing_output: {domain}.pkl, a list of counters (one a layer)",
        patterns=("*.pkl",),
        sniff=_is_pickle,
        read=read_counts,
        engine="transformers",
        counts=True,
        label_from="file",
        phase="prefill",
    ),
)
