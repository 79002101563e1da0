"""EMO: router logits of each token, and mean router probabilities of each document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modeval.trace.importers.format import Counts, Format, Note, Options, Rows, layer_name
from modeval.trace.importers.reading import (
    has_keys,
    json_lines,
    largest,
    load_array,
    numbers,
    real,
    refuse,
    required,
)

TOKENS = 1 << 14
LOGITS, TOKEN_FILES = "embeddings_logits.npy", ("metadata_tokens.jsonl.gz", "metadata_tokens.jsonl")


def read_logits(path: Path, options: Options, note: Note) -> Iterator[Rows]:
    """Read router logits ``(tokens, layers * experts)``; a file beside them says whose they are."""
    if options.layers is None or options.choices is None:
        refuse(
            path,
            "",
            "holds logits of all layers and experts in one row",
            "Say how many layers there are and how many experts a token chooses: --layers N "
            "--choices K",
        )
    with path.open("rb") as opened:
        table = load_array(opened, path, "", "the file")
    if table.dtype.kind != "f" or table.ndim != 2 or table.shape[1] % options.layers:  # noqa: PLR2004
        refuse(
            path,
            "",
            f"is {table.dtype} of shape {table.shape}: expected (tokens, {options.layers} layers x "
            "experts) real numbers",
        )
    modules = table.shape[1] // options.layers
    if options.choices > modules:
        refuse(path, "", f"has {modules} experts a layer: --choices says {options.choices}")
    about = _tokens(path, len(table), note)
    for start in range(0, len(table), TOKENS):
        rows = slice(start, start + TOKENS)
        part = real(table[rows]).reshape(-1, options.layers, modules)
        if not np.isfinite(part).all():
            refuse(path, f"tokens {start} to {start + len(part) - 1}", "hold no finite numbers")
        for layer in range(options.layers):
            logits = part[:, layer]
            chosen = largest(logits, options.choices)
            share = np.exp(logits - logits.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            weight = np.take_along_axis(share, chosen, 1)
            found = {name: values[rows] for name, values in about.items()}
            yield Rows(layer_name(layer), chosen, weight=weight, modules=modules, **found)


def read_averages(path: Path, _options: Options, _note: Note) -> Iterator[Counts]:
    """Read mean router probabilities, layer x expert, one document a line: one sample each."""
    for document, (place, record) in enumerate(json_lines(path)):
        given = required(record, "avg_router_probabilities", list, path, place)
        shares = numbers(given, 2, path, place, "avg_router_probabilities")
        if shares.min(initial=0) < 0 or (abs(shares.sum(1) - 1) > 0.01).any():  # noqa: PLR2004
            refuse(path, place, "has probabilities that are negative or do not sum to 1")
        for layer, mass in enumerate(shares):
            unknown = np.full(len(mass), np.nan)
            yield Counts(layer, unknown, document=document, mass=mass, samples=1.0)


def _tokens(path: Path, tokens: int, note: Note) -> dict[str, Any]:
    """Return document, position, token id and source of each token, where a file says them."""
    beside = next(
        (path.parent / name for name in TOKEN_FILES if (path.parent / name).is_file()), None
    )
    if beside is None:
        note(f"There is no {TOKEN_FILES[0]} beside the logits: documents and labels are unknown.")
        return {}
    columns: dict[str, list[Any]] = {"label": [], "document": [], "position": [], "token": []}
    names = {"document": "doc_index", "position": "token_position", "token": "token_id"}
    for place, record in json_lines(beside):
        columns["label"].append(required(record, "source", str, beside, place))
        for column, name in names.items():
            columns[column].append(required(record, name, int, beside, place))
    if len(columns["label"]) != tokens:
        refuse(beside, "", f"has {len(columns['label'])} tokens, and {path.name} has {tokens}")
    return {
        name: values if name == "label" else np.array(values, dtype=np.int64)
        for name, values in columns.items()
    }


FORMATS = (
    Format(
        name="emo-logits",
        about="EMO embeddings_logits.npy with metadata_tokens.jsonl.gz: router logits",
        patterns=(LOGITS,),
        sniff=lambda path, start: path.name == LOGITS and start.startswith(b"\x93NUMPY"),
        read=read_logits,
        engine="emo",
        weight_scale="probability",
        notes=("EMO gives logits: the K largest of each layer were taken for the choices.",),
    ),
    Format(
        name="emo",
        about="EMO activations.jsonl: mean router probabilities of each document",
        patterns=("*.jsonl", "*.jsonl.gz"),
        sniff=lambda _path, start: has_keys(start, "avg_router_probabilities"),
        read=read_averages,
        engine="emo",
        counts=True,
        sized=True,
        weight_scale="probability",
        notes=("EMO gives means of documents: each document is one sample, choices are unknown.",),
    ),
)
