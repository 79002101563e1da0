"""llama.cpp: expert counts of an importance matrix, and the CSV of its trace tool."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from modeval.errors import DependencyError
from modeval.trace.importers.format import Counts, Format, Note, Options
from modeval.trace.importers.reading import lines, refuse, sparse_counts, tallies

LEGACY = re.compile(rb".{4}.{4}(blk\.\d+\.|output|token_embd)", re.DOTALL)
COUNTS = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down|gate_up)_exps\.weight\.counts")


def read_imatrix(path: Path, options: Options, note: Note) -> Iterator[Counts]:
    """Read ``blk.N.ffn_*_exps.weight.counts``: tokens that each expert saw."""
    layers: dict[int, dict[str, Any]] = {}
    for name, data in _tensors(path):
        if match := COUNTS.fullmatch(name):
            flat = np.asarray(data).reshape(1, -1)
            counts = tallies(flat, 2, path, f"tensor {name}", "counts")[0]
            layers.setdefault(int(match[1]), {})[match[2]] = counts
    if not layers:
        refuse(path, "", "has no tensor blk.N.ffn_*_exps.weight.counts: it counts no experts")
    note("llama.cpp counts whole calibration chunks; labels and documents are unknown.")
    for layer, kinds in sorted(layers.items()):
        first = next(kinds[kind] for kind in ("gate", "gate_up", "up", "down") if kind in kinds)
        if any(len(other) != len(first) for other in kinds.values()):
            refuse(path, f"layer {layer}", f"counts differ between {', '.join(kinds)}")
        if any((other != first).any() for other in kinds.values()):
            kept = "those of the first were kept"
            note(f"Counts of layer {layer} differ between {', '.join(kinds)}: {kept}.")
        yield Counts(layer, first, choices=options.choices)


def refuse_legacy(path: Path, _options: Options, _note: Note) -> NoReturn:
    """Say why an importance matrix of the old form cannot be read."""
    refuse(
        path,
        "",
        "is an importance matrix of the old form, which holds no counts of experts",
        "Make it again with llama-imatrix --output-format gguf.",
    )


def read_csv(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read a line ``layer,expert`` for each choice; nothing tells tokens apart."""
    table: Counter[tuple[int, int]] = Counter()
    for place, text in lines(path):
        cells = next(csv.reader([text]))
        if cells == ["layer", "expert"]:
            continue
        try:
            layer, expert = (int(cell) for cell in cells)
        except ValueError as error:
            refuse(path, place, f"is not layer,expert ({error})")
        if min(layer, expert) < 0 or max(layer, expert) >= 1 << 15:
            refuse(path, place, f"layer {layer}, expert {expert} is out of range")
        table[layer, expert] += 1
    gathered = ((f"layer {key[0]}", *key, float(count)) for key, count in sorted(table.items()))
    yield from sparse_counts(gathered, path, options)


def _tensors(path: Path) -> list[tuple[str, Any]]:
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - an optional reader
    except ImportError:
        raise DependencyError(
            f"{path} is GGUF, and the package that reads it is not installed: pip install gguf"
        ) from None
    try:
        return [(tensor.name, tensor.data) for tensor in GGUFReader(path).tensors]
    except Exception as error:  # noqa: BLE001 - the reader raises whatever a damaged file causes
        refuse(path, "", f"is no whole GGUF file ({type(error).__name__}: {error})")


FORMATS = (
    Format(
        name="imatrix",
        about="llama.cpp importance matrix (GGUF) of a mixture of experts: counts",
        patterns=("*.gguf",),
        sniff=lambda _path, start: start.startswith(b"GGUF"),
        read=read_imatrix,
        engine="llama.cpp",
        counts=True,
        sized=True,
        phase="prefill",
        padding="excluded",
    ),
    Format(
        name="imatrix-legacy",
        about="llama.cpp importance matrix before GGUF: refused, it holds no counts of experts",
        patterns=("*.dat", "*.imatrix"),
        sniff=lambda _path, start: bool(LEGACY.match(start)),
        read=refuse_legacy,
        counts=True,
    ),
    Format(
        name="llamacpp-csv",
        about="llama.cpp moe-trace (PR 28544): lines layer,expert, read as counts",
        patterns=("*.csv",),
        sniff=lambda _path, start: bool(re.match(rb"(layer,expert|\d+,\d+)\r?\n", start)),
        read=read_csv,
        engine="llama.cpp",
        counts=True,
        notes=("llama.cpp's moe-trace does not tell tokens apart, so it was read as counts.",),
    ),
)
