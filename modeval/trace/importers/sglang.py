"""SGLang: replies with routed experts, dumps of its expert distribution recorder, its old CSV."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.text import brief
from modeval.trace.importers.format import (
    DECODE,
    PREFILL,
    Counts,
    Format,
    Note,
    Options,
    Piece,
    Rows,
)
from modeval.trace.importers.reading import (
    array_of,
    grid,
    has_keys,
    integers,
    load_torch,
    records,
    refuse,
    required,
    sparse_counts,
    table_lines,
    tallies,
    token_rows,
    torch_holds,
    unpack_base64,
)

FORWARD_PHASES = {1: PREFILL, "EXTEND": PREFILL, 2: DECODE, "DECODE": DECODE}


def read_replies(path: Path, options: Options, note: Note) -> Iterator[Rows]:
    """Read replies of SGLang: base64 of raw int32, whose shape the reply does not say."""
    for document, (place, reply) in enumerate(records(path)):
        meta = required(reply, "meta_info", dict, path, place)
        packed = required(meta, "routed_experts", str, path, place)
        flat = np.frombuffer(unpack_base64(packed, path, place), dtype=np.uint8)
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
        tokens = _tokens(meta, start, path, place)
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
        yield from token_rows(
            without_padding(chosen, note), document, start, meta.get("prompt_tokens")
        )


def read_stat(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read a dump of mode stat: counts by step, layer and logical expert."""
    dump = load_torch(path)
    if not isinstance(dump, dict) or "logical_count" not in dump:
        refuse(path, "", "holds no logical_count: expected a dump of the mode stat")
    count = tallies(array_of(dump["logical_count"]), 3, path, "logical_count", "logical_count")
    for layer, selections in enumerate(count.sum(0)):
        if selections.any():  # a layer without any count is dense
            yield Counts(layer, selections, choices=options.choices)


def read_passes(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read a dump of mode per_pass or per_token: a record for each forward pass."""
    dump = load_torch(path)
    if not isinstance(dump, dict) or not isinstance(dump.get("records"), list):
        refuse(path, "", "holds no records: expected a dump of the modes per_pass or per_token")
    logical = _map(dump, path, note)
    document = 0
    for number, record in enumerate(dump["records"]):
        place = f"record {number}"
        if not isinstance(record, dict):
            refuse(path, place, f"is a {type(record).__name__}: expected a dictionary")
        if "topk_ids_of_layer" in record:
            chosen = _pass_choices(record, logical, path, place, note)
            if chosen.size:
                yield _pass_rows(record, chosen, document, path, place)
            document += len(_lengths(record))
        elif "global_physical_count" in record:
            yield from _pass_counts(record, logical, path, place, options)
        else:
            refuse(path, place, "has neither topk_ids_of_layer nor global_physical_count")


def read_csv(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read the CSV of 2025-04: ``layer_id,expert_id,count``."""
    yield from sparse_counts(_csv_cells(path), path, options)


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


def _tokens(meta: dict[str, Any], start: Any, path: Path, place: str) -> int:
    """Return how many tokens the reply must cover; 0 when it does not say."""
    if not isinstance(start, int) or start < 0:
        refuse(path, place, f"routed_experts_start_len is {start!r}: expected a number of tokens")
    prompt, completion = meta.get("prompt_tokens"), meta.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return 0
    return max(prompt + completion - 1 - start, 0)


def _map(dump: dict[str, Any], path: Path, note: Note) -> NDArray[np.int64] | None:
    """Return the logical expert of each layer and physical expert."""
    name = "last_physical_to_logical_map"
    if dump.get(name) is None:
        return None
    logical = integers(array_of(dump[name]), 2, path, name, name)
    if logical.size and not -1 <= logical.min() <= logical.max() <= np.iinfo(np.int16).max:
        refuse(path, name, f"names the experts {logical.min()} to {logical.max()}")
    if (logical != np.arange(logical.shape[1])).any():
        note(
            "Physical experts were mapped to logical ones by the last map of the dump, which is "
            "wrong for passes before a rebalancing."
        )
    return logical


def _csv_cells(path: Path) -> Iterator[tuple[str, int, int, float]]:
    for place, cells in table_lines(path):
        try:
            layer, expert = int(cells["layer_id"]), int(cells["expert_id"])
            yield place, layer, expert, float(cells["count"])
        except ValueError:
            refuse(path, place, f"holds {brief(cells)}: expected three numbers")
        except KeyError:
            refuse(path, place, "has no columns layer_id, expert_id and count")


def _pass_choices(
    record: dict[str, Any], logical: NDArray[Any] | None, path: Path, place: str, note: Note
) -> NDArray[Any]:
    """Return the logical experts ``(T, L, K)`` of a pass."""
    ids = integers(array_of(record["topk_ids_of_layer"]), 3, path, place, "topk_ids_of_layer")
    chosen = without_padding(ids.transpose(1, 0, 2), note)
    return chosen if logical is None else _to_logical(chosen, logical, path, place)


def _pass_rows(
    record: dict[str, Any], chosen: NDArray[Any], document: int, path: Path, place: str
) -> Rows:
    tokens = len(chosen)
    columns = {
        name: integers(array_of(record[name]), 1, path, place, name)
        for name in ("input_ids", "positions")
        if record.get(name) is not None
    }
    for name, column in columns.items():
        if len(column) != tokens:
            refuse(path, place, f"{name} has {len(column)} numbers for {tokens} tokens")
    position = columns.get("positions", np.full(tokens, -1))
    token = columns.get("input_ids")
    owner = _owners(record, tokens, document)
    layer, place_of, rows = grid(chosen)
    return Rows(
        layer=layer,
        chosen=rows,
        document=owner[place_of],
        position=position[place_of],
        token=None if token is None else token[place_of],
        phase=FORWARD_PHASES.get(record.get("forward_mode", 0), 0),
    )


def _lengths(record: dict[str, Any]) -> list[int]:
    value = record.get("extend_seq_lens")
    return [] if value is None else [int(length) for length in np.ravel(array_of(value))]


def _owners(record: dict[str, Any], tokens: int, document: int) -> NDArray[np.int64]:
    """Return the document of each token: the sequences of a prefill; unknown when decoding."""
    lengths = _lengths(record)
    if sum(lengths) > tokens or min(lengths, default=0) < 0:
        lengths = []
    owners = np.repeat(np.arange(len(lengths), dtype=np.int64) + document, lengths)
    return np.append(owners, np.full(tokens - len(owners), -1))


def _to_logical(
    chosen: NDArray[Any], logical: NDArray[Any], path: Path, place: str
) -> NDArray[Any]:
    low, high = chosen.min(initial=-1), chosen.max(initial=-1)
    if chosen.shape[1] != len(logical) or low < -1 or high >= logical.shape[1]:
        refuse(
            path,
            place,
            f"chooses physical expert {low if low < -1 else high} in {chosen.shape[1]} layers: the "
            f"map has {logical.shape[1]} in {len(logical)}",
        )
    mapped = logical[np.arange(len(logical))[None, :, None], chosen]
    return np.where(chosen < 0, -1, mapped)


def _pass_counts(
    record: dict[str, Any],
    logical: NDArray[Any] | None,
    path: Path,
    place: str,
    options: Options,
) -> Iterator[Counts]:
    name = "global_physical_count"
    count = tallies(array_of(record[name]), 2, path, place, name)
    if logical is None or logical.shape != count.shape or logical.min() < 0:
        refuse(path, place, f"{name} is {count.shape}: no last_physical_to_logical_map fits it")
    for layer, (physical, target) in enumerate(zip(count, logical, strict=True)):
        if physical.any():
            selections = np.bincount(target, physical, minlength=int(logical.max()) + 1)
            yield Counts(layer, selections, choices=options.choices)


NOTE = (
    "Ranks that share tokens by tensor parallelism write the same tokens: import one "
    "file for each data-parallel rank."
)

_PASSES = Format(
    name="sglang-pass",
    about="SGLang recorder, per_pass or per_token: expert_distribution_recorder_*.pt",
    patterns=("*.pt",),
    sniff=lambda path, start: torch_holds(path, start, b"records", b"topk_ids_of_layer"),
    read=read_passes,
    engine="sglang",
    phase="mixed",
    notes=(NOTE,),
)
FORMATS = (
    Format(
        name="sglang-request",
        about="SGLang replies with meta_info.routed_experts: JSON or JSONL (needs --choices)",
        patterns=("*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz"),
        sniff=lambda _path, start: has_keys(start, "meta_info", "routed_experts"),
        read=read_replies,
        engine="sglang",
        phase="mixed",
        padding="excluded",
    ),
    Format(
        name="sglang-stat",
        about="SGLang recorder, stat: expert_distribution_recorder_*.pt with logical_count",
        patterns=("*.pt",),
        sniff=lambda path, start: torch_holds(path, start, b"logical_count"),
        read=read_stat,
        engine="sglang",
        counts=True,
        sized=True,
    ),
    _PASSES,
    Format(
        name="sglang-pass-counts",
        about="SGLang recorder, per_pass without token choices: counts of physical experts",
        patterns=("*.pt",),
        sniff=lambda path, start: torch_holds(path, start, b"records", b"global_physical_count"),
        read=read_passes,
        engine="sglang",
        counts=True,
        sized=True,
    ),
    Format(
        name="sglang-csv",
        about="SGLang before May 2025: layer_id,expert_id,count",
        patterns=("*.csv",),
        sniff=lambda _path, start: start.lstrip().startswith(b"layer_id,expert_id,count"),
        read=read_csv,
        engine="sglang",
        counts=True,
    ),
)
