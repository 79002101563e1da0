"""Replies of vLLM with the experts of each token, packed in base64 or as lists.

A reply lists the routing of every token but the last generated one, which no forward pass has
seen. Dense layers take a slot too: the first pass of an import leaves them out.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.trace.importers.format import Counts, Facts, Format, Note, Options, Piece, Rows
from modeval.trace.importers.plain.rows import read_jsonl
from modeval.trace.importers.reading import (
    added,
    has_keys,
    integers,
    json_lines,
    load_array,
    records,
    refuse,
    required,
    tallies,
    token_rows,
    unpack_base64,
)


def read_vllm(path: Path, _options: Options, note: Note) -> Iterator[Rows]:
    """Read replies of vLLM, each choice a document; base64 of NPY, or nested lists before 0.22."""
    document = 0
    for place, reply in records(path):
        usage = reply.get("usage")
        prompt = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        before = reply.get("prompt_routed_experts")
        head = None
        if before is not None:
            head = _signed(integers(before, 3, path, place, "prompt_routed_experts"), path, place)
            prompt = len(head)
        for number, choice in enumerate(_choices(reply, path, place)):
            where = f"{place}, choice {number}"
            routed = choice.get("routed_experts")
            if routed is None:
                refuse(path, where, "has no routed_experts", ADVICE)
            packed = isinstance(routed, str)
            chosen = (
                _npy(routed, path, where)
                if packed
                else _signed(integers(routed, 3, path, where, "routed_experts"), path, where)
            )
            if head is not None and chosen.size:
                chosen = _joined(head, chosen, path, where)
            elif head is not None:
                chosen = head
            if not isinstance(prompt, int):
                note(f"{path.name}: replies do not say prompt_tokens, so phases are unknown.")
            yield from token_rows(chosen, document, 0, prompt if isinstance(prompt, int) else None)
            document += 1


def read_loads(path: Path, _options: Options, note: Note) -> Iterator[Piece]:
    """Read statistics of vLLM's load balancer: loads of physical experts, step by step.

    Replicas of an expert are added up by ``p2l_map``, the logical expert of each physical one.
    """
    total: dict[int, NDArray[np.float64]] = {}
    for place, record in json_lines(path):
        if record.get("record_type") == "eplb_load_stats":
            for layer, row in enumerate(_logical_loads(record, path, place)):
                total[layer] = added(row, total.get(layer, np.zeros(0)))
        elif isinstance(record.get("model"), str):
            yield Facts(model=record["model"])
    if not total:
        refuse(path, "", "has no record eplb_load_stats")
    note("Loads of physical experts were added up by p2l_map, and steps were summed.")
    for layer, row in total.items():
        yield Counts(layer, row)


def _logical_loads(record: dict[str, Any], path: Path, place: str) -> Iterator[NDArray[np.float64]]:
    """Yield the loads of logical experts of each layer of one step."""
    given = required(record, "expert_load", list, path, place)
    load = tallies(given, 2, path, place, "expert_load")
    logical = integers(required(record, "p2l_map", list, path, place), 2, path, place, "p2l_map")
    if load.shape != logical.shape or logical.min(initial=0) < 0:
        refuse(path, place, f"expert_load is {load.shape}, p2l_map {logical.shape}")
    if logical.max(initial=0) > np.iinfo(np.int16).max:
        refuse(path, place, f"p2l_map holds {logical.max()}, which is no expert")
    for physical, target in zip(load, logical, strict=True):
        yield np.bincount(target, physical).astype(np.float64)


ADVICE = "Start vLLM with --enable-return-routed-experts."


def _choices(reply: dict[str, Any], path: Path, place: str) -> list[dict[str, Any]]:
    name = "choices" if "choices" in reply else "outputs"
    found: list[dict[str, Any]] = required(reply, name, list, path, place)
    for choice in found:
        if not isinstance(choice, dict):
            refuse(path, place, f"{name} holds {choice!r}: expected JSON objects")
    return found


def _npy(text: str, path: Path, place: str) -> NDArray[np.int64]:
    file = io.BytesIO(unpack_base64(text, path, place))
    array = load_array(file, path, place, "routed_experts")
    return integers(array, 3, path, place, "routed_experts")


def _signed(chosen: NDArray[Any], path: Path, place: str) -> NDArray[Any]:
    if chosen.size and (chosen.min() < -1 or chosen.max() > np.iinfo(np.int16).max):
        refuse(path, place, "routed_experts holds a number that is no expert")
    return chosen


def _joined(before: NDArray[Any], after: NDArray[Any], path: Path, place: str) -> NDArray[Any]:
    if before.size and before.shape[1:] != after.shape[1:]:
        refuse(path, place, f"is {after.shape[1:]} for each token, its prompt {before.shape[1:]}")
    return np.concatenate([before, after]) if before.size else after


NOTE = (
    "Under prefill/decode disaggregation the prompt rows of vLLM's decode replies are "
    "invalid unless the router spliced them (vllm-project/router PR 184)."
)

FORMATS = (
    Format(
        name="vllm",
        about="vLLM replies with routed_experts: JSON or JSONL, base64 NPY or nested lists",
        patterns=("*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz"),
        sniff=lambda _path, start: (
            has_keys(start, "routed_experts") and not has_keys(start, "meta_info")
        ),
        read=read_vllm,
        engine="vllm",
        phase="mixed",
        notes=(NOTE,),
    ),
    Format(
        name="vllm-eplb",
        about="vLLM load balancer: JSONL of eplb_load_stats with expert_load and p2l_map",
        patterns=("*.jsonl", "*.jsonl.gz"),
        sniff=lambda _path, start: has_keys(start, "record_type") and b"eplb_load" in start,
        read=read_loads,
        engine="vllm",
        counts=True,
        sized=True,
    ),
    Format(
        name="vllm-log",
        about="moe_routes.jsonl of vLLM: a line of type meta, then lines of type route",
        patterns=("*.jsonl", "*.jsonl.gz"),
        sniff=lambda _path, start: (
            has_keys(start, "type", "layer", "topk_ids")
            and bool(re.search(rb'"type": ?"(route|meta)"', start))
        ),
        read=read_jsonl,
        engine="vllm",
        keep_empty=True,
        weight_scale=None,
        phase="mixed",
    ),
)
