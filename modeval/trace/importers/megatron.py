"""Megatron-LM: routing traces and tokens per expert, a JSONL file for each rank."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modeval.trace.importers.format import TRAIN, Counts, Format, Note, Options, Rows
from modeval.trace.importers.reading import (
    has_keys,
    integers,
    json_lines,
    refuse,
    required,
    tallies,
)


def read_trace(path: Path, _options: Options, note: Note) -> Iterator[Rows]:
    """Read ``router_trace_rank{N}.jsonl``: a record for each layer, step and microbatch."""
    for place, record in json_lines(path):
        chosen = integers(
            required(record, "top_indices", list, path, place), 2, path, place, "top_indices"
        )
        tokens = required(record, "num_tokens", int, path, place)
        choices = required(record, "topk", int, path, place)
        if chosen.size and chosen.shape != (tokens, choices):
            refuse(
                path,
                place,
                f"top_indices is {chosen.shape}: num_tokens and topk say {(tokens, choices)}",
            )
        if record.get("stage", "pre_dispatch") != "pre_dispatch":
            note(
                f"{path.name}: stage {record['stage']!r} is not pre_dispatch, so capacity may have "
                "been applied."
            )
        yield Rows(
            layer=_layer(record, path, place), chosen=chosen.reshape(-1, choices), phase=TRAIN
        )


def read_counts(path: Path, options: Options, note: Note) -> Iterator[Counts]:
    """Read ``tokens_per_expert/rank{N}.jsonl``: counts of the experts that live on the rank."""
    for place, record in json_lines(path):
        local = tallies(required(record, "tpe", list, path, place), 2, path, place, "tpe").sum(0)
        modules, offset = _shard(path, place, len(local), options.modules, note)
        selections = np.zeros(modules)
        selections[offset : offset + len(local)] = local
        yield Counts(_layer(record, path, place), selections, choices=options.choices)


def _shard(path: Path, place: str, local: int, modules: int | None, note: Note) -> tuple[int, int]:
    """Return the number of all modules, and the first that lives on the rank of this file."""
    rank = _rank(path)
    ranks = {_rank(file) for file in path.parent.glob("rank*.jsonl")}
    if modules is None and len(ranks) > 1:
        refuse(
            path,
            place,
            f"counts {local} experts of this rank, and there are {len(ranks)} ranks",
            "Say how many experts a layer has with --modules N: ranks are summed if they hold all "
            "of them, else put side by side.",
        )
    total = local if modules is None else modules
    if local == 0 or total % local:
        refuse(path, place, f"counts {local} experts: they do not divide --modules {total}")
    groups = total // local
    if {number % groups for number in ranks} != set(range(groups)):
        refuse(
            path,
            place,
            f"counts {local} of {total} experts, so {groups} ranks make a whole: found only ranks "
            f"{', '.join(map(str, sorted(ranks)))}",
        )
    if groups > 1:
        note(
            f"Experts were placed by rank modulo {groups}: right for expert parallelism without "
            "tensor parallelism. Check it if you use both."
        )
    return total, rank % groups * local


def _rank(path: Path) -> int:
    digits = re.search(r"rank(\d+)", path.name)
    return int(digits[1]) if digits else 0


def _layer(record: dict[str, Any], path: Path, place: str) -> str:
    block = required(record, "block", str, path, place)
    layer = required(record, "layer", int, path, place)
    if block == "decoder":
        return f"decoder.layers.{layer}"
    if block != "mtp":
        refuse(path, place, f"block is {block!r}: expected decoder or mtp")
    return f"mtp.{required(record, 'mtp_idx', int, path, place)}.layers.{layer}"


FORMATS = (
    Format(
        name="megatron-trace",
        about="Megatron-LM --moe-routing-trace-path: router_trace_rank{N}.jsonl",
        patterns=("router_trace_rank*.jsonl", "router_trace_rank*.jsonl.gz"),
        sniff=lambda _path, start: has_keys(start, "top_indices", "layer", "block"),
        read=read_trace,
        engine="megatron-lm",
        phase="train",
        capacity="before",
        notes=(
            "Megatron traces do not tell documents apart: no replicates, so no intervals.",
            "Megatron traces may hold padding tokens, and tensor-parallel ranks may repeat tokens.",
        ),
    ),
    Format(
        name="megatron-counts",
        about="Megatron-LM --save-tokens-per-expert-interval: rank{N}.jsonl",
        patterns=("rank*.jsonl",),
        sniff=lambda _path, start: has_keys(start, "tpe", "iter", "layer"),
        read=read_counts,
        engine="megatron-lm",
        counts=True,
        sized=True,
        phase="train",
    ),
)
