"""vLLM and SGLang replies: the routed experts of each request, packed in base64 or as lists.

A reply lists the routing of every token but the last generated one, which no forward pass has
seen. Dense layers take a slot too: see :func:`modeval.trace.importers.import_files.survey`.
"""

import base64
import binascii
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.trace.importers.format import (
    Format,
    Note,
    Options,
    Rows,
    entry,
    grid,
    has_keys,
    integers,
    load_array,
    records,
    refuse,
)
from modeval.trace.trace import PHASES

PREFILL, DECODE = PHASES.index("prefill"), PHASES.index("decode")


def read_vllm(path: Path, _options: Options, note: Note) -> Iterator[Rows]:
    """Read replies of vLLM, each choice a document; base64 of NPY, or nested lists before 0.22."""
    document = 0
    for place, reply in records(path):
        prompt = (reply.get("usage") or {}).get("prompt_tokens")
        before = reply.get("prompt_routed_experts")
        head = None
        if before is not None:
            head = _signed(integers(before, 3, path, place, "prompt_routed_experts"), path, place)
            prompt = len(head)
        for number, choice in enumerate(_choices(reply, path, place)):
            where = f"{place}, choice {number}"
            routed = choice.get("routed_experts")
            if routed is None:
                refuse(path, where, "has no routed_experts", _VLLM_ADVICE)
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
            yield from _token_rows(chosen, document, 0, prompt if isinstance(prompt, int) else None)
            document += 1


def read_sglang(path: Path, options: Options, note: Note) -> Iterator[Rows]:
    """Read replies of SGLang: base64 of raw int32, whose shape the reply does not say."""
    for document, (place, reply) in enumerate(records(path)):
        meta = entry(reply, "meta_info", dict, path, place)
        flat = np.frombuffer(
            _base64(entry(meta, "routed_experts", str, path, place), path, place), dtype=np.uint8
        )
        if options.choices is None:
            refuse(
                path, place, "does not say how many experts a token chooses", "Give --choices K."
            )
        if flat.size % (4 * options.choices):
            refuse(
                path,
                place,
                f"routed_experts has {flat.size} bytes: no int32 rows of {options.choices} choices",
            )
        values = flat.view("<i4").astype(np.int64)
        start = meta.get("routed_experts_start_len", 0)
        tokens = _sglang_tokens(meta, start, path, place)
        layers = options.layers or (values.size // (tokens * options.choices) if tokens else 0)
        if not layers:
            refuse(path, place, "does not say how many layers it has", "Give --layers N.")
        if values.size % (layers * options.choices):
            refuse(
                path,
                place,
                f"routed_experts has {values.size} numbers: expected a multiple of {layers} layers "
                f"x {options.choices} choices",
            )
        chosen = values.reshape(-1, layers, options.choices)
        if tokens and len(chosen) not in (tokens, tokens + 1):
            refuse(
                path,
                place,
                f"routed_experts is for {len(chosen)} tokens: its meta_info says {tokens}",
            )
        if meta.get("completion_tokens") == 0 or meta.get("completion_tokens") == 1:
            note("Prefill-only requests of SGLang lose the last token of the prompt (issue 20964).")
        yield from _token_rows(
            without_padding(chosen, note), document, start, meta.get("prompt_tokens")
        )


def without_padding(chosen: NDArray[Any], note: Note) -> NDArray[Any]:
    """Blank tokens that chose 0..K-1 in that order in every layer: SGLang's padding (PR 9499)."""
    _, layers, choices = chosen.shape
    if layers * choices < 4 or choices < 2:  # noqa: PLR2004 - may be chance
        return chosen
    padding = (chosen == np.arange(choices)).all((1, 2))
    if not padding.any():
        return chosen
    note(
        f"{int(padding.sum())} tokens chose experts 0 to {choices - 1} in order in every layer and "
        "were left out as padding (SGLang PR 9499)."
    )
    return np.where(padding[:, None, None], -1, chosen)


def _token_rows(
    chosen: NDArray[Any], document: int, start: int, prompt: int | None
) -> Iterator[Rows]:
    if not chosen.size:
        return
    layer, position, rows = grid(chosen, positions=np.arange(len(chosen)) + start)
    phase = 0 if prompt is None else np.where(position < prompt, PREFILL, DECODE)
    yield Rows(layer=layer, chosen=rows, document=document, position=position, phase=phase)


_VLLM_ADVICE = "Start vLLM with --enable-return-routed-experts."


def _choices(reply: dict[str, Any], path: Path, place: str) -> list[dict[str, Any]]:
    name = "choices" if "choices" in reply else "outputs"
    found: list[dict[str, Any]] = entry(reply, name, list, path, place)
    for choice in found:
        if not isinstance(choice, dict):
            refuse(path, place, f"{name} holds {choice!r}: expected JSON objects")
    return found


def _npy(text: str, path: Path, place: str) -> NDArray[np.int64]:
    file = io.BytesIO(_base64(text, path, place))
    array = load_array(file, path, place, "routed_experts")
    return integers(array, 3, path, place, "routed_experts")


def _base64(text: str, path: Path, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        refuse(path, place, f"routed_experts is no base64 ({error})")


def _signed(chosen: NDArray[Any], path: Path, place: str) -> NDArray[Any]:
    if chosen.size and (chosen.min() < -1 or chosen.max() > np.iinfo(np.int16).max):
        refuse(path, place, "routed_experts holds a number that is no expert")
    return chosen


def _joined(before: NDArray[Any], after: NDArray[Any], path: Path, place: str) -> NDArray[Any]:
    if before.size and before.shape[1:] != after.shape[1:]:
        refuse(path, place, f"is {after.shape[1:]} for each token, its prompt {before.shape[1:]}")
    return np.concatenate([before, after]) if before.size else after


def _sglang_tokens(meta: dict[str, Any], start: Any, path: Path, place: str) -> int:
    """Return how many tokens the reply must cover; 0 when it does not say."""
    if not isinstance(start, int) or start < 0:
        refuse(path, place, f"routed_experts_start_len is {start!r}: expected a number of tokens")
    prompt, completion = meta.get("prompt_tokens"), meta.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return 0
    return max(prompt + completion - 1 - start, 0)


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
        padding="excluded",
        notes=(
            (
                "Under prefill/decode disaggregation the prompt rows of vLLM's decode replies are "
                "invalid unless the router spliced them (vllm-project/router PR 184)."
            ),
        ),
    ),
    Format(
        name="sglang-request",
        about="SGLang replies with meta_info.routed_experts: JSON or JSONL (needs --choices)",
        patterns=("*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz"),
        sniff=lambda _path, start: has_keys(start, "meta_info", "routed_experts"),
        read=read_sglang,
        engine="sglang",
        phase="mixed",
        padding="excluded",
    ),
)
