"""Router logits of EMO, and text dumps of selection scores: choices are the K largest."""

import re
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
    json_lines,
    lines,
    load_array,
    numbers,
    refuse,
)

TOKENS = 1 << 14
LOGITS, TOKEN_FILES = "embeddings_logits.npy", ("metadata_tokens.jsonl.gz", "metadata_tokens.jsonl")
SCORE_LINE = re.compile(rb"\s*\d+[ \t]+\d+([ \t]+-?\d+(\.\d+)?([eE][+-]?\d+)?){4,}\s*\r?\n")


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
        part = table[rows].astype(np.float64).reshape(-1, options.layers, modules)
        if not np.isfinite(part).all():
            refuse(path, f"tokens {start} to {start + len(part) - 1}", "hold no finite numbers")
        for layer in range(options.layers):
            logits = part[:, layer]
            chosen = _largest(logits, options.choices)
            share = np.exp(logits - logits.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            weight = np.take_along_axis(share, chosen, 1)
            found = {name: values[rows] for name, values in about.items()}
            yield Rows(f"layers.{layer}", chosen, weight=weight, **found)


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
        columns["label"].append(entry(record, "source", str, beside, place))
        for column, name in names.items():
            columns[column].append(entry(record, name, int, beside, place))
    if len(columns["label"]) != tokens:
        refuse(beside, "", f"has {len(columns['label'])} tokens, and {path.name} has {tokens}")
    return {
        name: values if name == "label" else np.array(values, dtype=np.int64)
        for name, values in columns.items()
    }


def read_scores(path: Path, options: Options, _note: Note) -> Iterator[Rows]:
    """Read lines ``position layer v0 v1 ...`` of the scores that experts are chosen by."""
    choices = options.choices
    if choices is None:
        refuse(path, "", "holds scores of all experts", "Say how many are chosen: --choices K")
    held: list[tuple[int, int, NDArray[np.float64]]] = []
    for place, text in lines(path):
        cells = text.split()
        try:
            position, layer = int(cells[0]), int(cells[1])
            scores = numbers([float(cell) for cell in cells[2:]], 1, path, place, "scores")
        except (ValueError, IndexError):
            refuse(path, place, "is not: position layer score score ...")
        if held and len(scores) != len(held[0][2]):
            refuse(
                path, place, f"has {len(scores)} scores, and lines before have {len(held[0][2])}"
            )
        if position < 0 or layer < 0 or len(scores) < choices:
            refuse(path, place, f"has {len(scores)} scores: --choices says {choices}")
        held.append((position, layer, scores))
        if len(held) == TOKENS:
            yield _of_scores(held, choices)
            held = []
    if held:
        yield _of_scores(held, choices)


def _of_scores(held: list[tuple[int, int, NDArray[np.float64]]], choices: int) -> Rows:
    position, layer, scores = zip(*held, strict=True)
    chosen = _largest(np.stack(scores), choices)
    return Rows(np.array(layer), chosen, position=np.array(position))


def _largest(values: NDArray[np.float64], choices: int) -> NDArray[np.int64]:
    """Return the places of the K largest of each row, the largest first; ties by their place."""
    return np.argsort(-values, axis=1, kind="stable")[:, :choices]


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
        name="warp-scores",
        about="warp (WASTE_DUMP_SCORES): lines position layer score score ...",
        patterns=("*.txt", "*.log"),
        sniff=lambda _path, start: bool(SCORE_LINE.match(start)),
        read=read_scores,
        engine="warp",
        notes=(
            (
                "The dump holds the scores that experts are chosen by: the K largest were taken "
                "for the choices, as if there were no groups of experts."
            ),
        ),
    ),
)
