"""TensorRT-LLM (EXPERT_STATISTIC_PATH): counts of each iteration and layer, a file for each rank.

Beside ``rank{N}.safetensors``, with a tensor ``{iteration}_{layer}`` of counts of experts, stands
``meta_info.json`` with the numbers of experts and of choices. Files ``rank{N}_raw.safetensors`` of
some versions hold the chosen experts themselves, ``(tokens, K)``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.tensors import DamagedError, read_tensors
from modeval.trace.importers.format import (
    Counts,
    Facts,
    Format,
    Note,
    Options,
    Piece,
    Rows,
    layer_name,
)
from modeval.trace.importers.reading import (
    added,
    array_of,
    as_object,
    integers,
    parse_json,
    read_bytes,
    refuse,
    tallies,
)

META = "meta_info.json"
NAME = re.compile(r"(\d{1,9})_(\d{1,6})")
KEYS = {"modules": "num_experts", "choices": "num_experts_per_token"}


def read_counts(path: Path, _options: Options, _note: Note) -> Iterator[Piece]:
    """Read counts; iterations are summed, ranks too."""
    yield _facts(path)
    sums: dict[int, NDArray[np.float64]] = {}
    for layer, place, tensor in _tensors(path):
        counts = tallies(tensor, 1, path, place, "the counts")
        sums[layer] = added(counts, sums.get(layer, np.zeros(0)))
    for layer, counts in sorted(sums.items()):
        yield Counts(layer, counts)


def read_rows(path: Path, _options: Options, _note: Note) -> Iterator[Piece]:
    """Read the chosen experts of each token."""
    yield _facts(path)
    for layer, place, tensor in _tensors(path):
        yield Rows(layer_name(layer), integers(tensor, 2, path, place, "the experts"))


def _tensors(path: Path) -> Iterator[tuple[int, str, NDArray[Any]]]:
    """Yield layer, place and content of each tensor, iterations in order."""
    try:
        tensors = read_tensors(path).tensors
    except (DamagedError, OSError) as error:
        refuse(path, "", f"is damaged: {error}")
    found = {name: NAME.fullmatch(name) for name in tensors}
    strange = [name for name, match in found.items() if match is None]
    if strange:
        refuse(path, "", f"has a tensor {strange[0]!r}: expected names ITERATION_LAYER")
    keyed = sorted((int(match[1]), int(match[2]), name) for name, match in found.items() if match)
    for _, layer, name in keyed:
        yield layer, f"tensor {name}", array_of(tensors[name])


def _facts(path: Path) -> Facts:
    beside = path.with_name(META)
    if not beside.is_file():
        return Facts()
    record = as_object(parse_json(read_bytes(beside), beside), beside, "")
    said: dict[str, Any] = {ours: record.get(theirs) for ours, theirs in KEYS.items()}
    for name, value in said.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            refuse(beside, "", f"says {KEYS[name]} {value!r}: expected a number of experts")
    return Facts(**said)


def _axes(start: bytes) -> int | None:
    """Return the number of axes of the first tensor whose name is ITERATION_LAYER."""
    try:
        size = int.from_bytes(start[:8], "little")
        header = json.loads(start[8 : 8 + size])
        names = [name for name in header if NAME.fullmatch(name)]
        return len(header[names[0]]["shape"])
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        match = re.search(rb'"\d+_\d+":\{"dtype":"[A-Z0-9]+","shape":\[\d+(,\d+)?\]', start)
        return None if match is None else 1 + (match[1] is not None)


def _is(path: Path, start: bytes, axes: int) -> bool:
    return path.suffix == ".safetensors" and _axes(start) == axes


FORMATS = (
    Format(
        name="tensorrt-counts",
        about="TensorRT-LLM EXPERT_STATISTIC_PATH: rank{N}.safetensors, counts of experts",
        patterns=("rank*.safetensors",),
        sniff=lambda path, start: _is(path, start, 1),
        read=read_counts,
        engine="tensorrt-llm",
        counts=True,
        sized=True,
        phase="mixed",
    ),
    Format(
        name="tensorrt-raw",
        about="TensorRT-LLM raw routed experts: rank{N}_raw.safetensors, (tokens, K) a layer",
        patterns=("rank*_raw.safetensors", "token_selected_experts_rank*.safetensors"),
        sniff=lambda path, start: _is(path, start, 2),
        read=read_rows,
        engine="tensorrt-llm",
        phase="mixed",
    ),
)
