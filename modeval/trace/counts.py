"""Counts on disk: one safetensors file with the header of the trace that they come from.

What a source does not say is NaN, never 0: most engines that count modules say nothing of which
modules were chosen together, and some do not say how many tokens there were.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeval import atomic
from modeval.counting.units import ABOUT_UNIT, BY_UNIT, Units
from modeval.errors import TraceError
from modeval.tensors import DamagedError, read_tensors, write_tensors
from modeval.trace.files import HEADER, is_header, open_trace, read_columns
from modeval.trace.fold import BLOCKS, LayerGroup, fold_groups
from modeval.trace.trace import TraceHeader, header_from_json
from modeval.types import RoutingCounts

UNWRITTEN = atomic.Fault(
    TraceError, "Nothing was left there; free some space or give another name with --out."
)
SUFFIX = ".counts.safetensors"
UNITS = "units."
"""Before the names of tensors that are about single documents."""
AXES = {
    "mass": 4,
    "selections": 4,
    "samples": 3,
    "entropy": 3,
    "selection_entropy": 3,
    "coactivation": 3,
}


@dataclass(frozen=True, slots=True)
class Survey:
    """What a trace holds beside its counts.

    Attributes:
        rows: number of rows, pairs of a token and a layer; nothing for counts.
        documents: number of documents; nothing where some token's document is unknown.
        mixed: whether labels change within a document.
        complete: whether its writer came to its end.
    """

    rows: int | None = None
    documents: int | None = None
    mixed: bool = False
    complete: bool = True


def is_trace(path: Path) -> bool:
    """Tell whether a path is the folder of a trace, or a file of counts."""
    if path.is_dir():
        return (path / HEADER).is_file() or path.suffix == ".trace"
    return path.name.endswith(SUFFIX)


def find_traces(root: Path) -> list[Path]:
    """Return the traces and files of counts at or below a path, in order of their names."""
    if is_trace(root):
        return [root]
    if not root.is_dir():
        return []
    folders = [path.parent for path in root.rglob(HEADER) if is_header(path)]
    return sorted({*folders, *root.rglob(f"*{SUFFIX}")})


def gather(
    path: Path | str, *, blocks: int = BLOCKS, phase: str | None = None
) -> tuple[TraceHeader, tuple[LayerGroup, ...]]:
    """Return the counts of a trace, folding it, or of a file of counts, whichever is there.

    Args:
        path: folder of a trace, or a file of counts.
        blocks: number of replicate blocks that the documents of a trace are hashed to.
        phase: count only rows of this phase: ``prefill``, ``decode`` or ``train``.

    Raises:
        TraceError: there is neither, it is damaged, or a phase is asked of counts.
    """
    if Path(path).is_dir():
        trace = open_trace(path)
        return trace.header, fold_groups(trace, blocks=blocks, phase=phase)
    header, groups = load_counts(path)
    if phase not in (None, header.phase):
        raise TraceError(
            f"--phase {phase}: {path} holds counts of phase {header.phase!r}, and rows cannot be "
            "told apart in counts. Drop --phase, or score the trace that they were made of."
        )
    return header, groups


def survey(path: Path | str) -> Survey:
    """Count the documents of a trace, and see whether each has one label.

    Raises:
        TraceError: a file is damaged.
    """
    if not Path(path).is_dir():
        return Survey()
    trace = open_trace(path)
    pairs = np.zeros((0, 2), dtype=np.int64)  # of document and label, each once
    for columns in read_columns(trace, ("document", "label")):
        found = np.stack([columns["document"], columns["label"]], axis=1, dtype=np.int64)
        changed = np.flatnonzero((found[1:] != found[:-1]).any(1)) + 1
        pairs = np.unique(np.concatenate([pairs, found[:1], found[changed]]), axis=0)
    known = bool((pairs[:, 0] >= 0).all())
    labelled = pairs[(pairs >= 0).all(1), 0]
    return Survey(
        rows=trace.rows,
        documents=len(np.unique(pairs[:, 0])) if known else None,
        mixed=bool((np.diff(labelled) == 0).any()),
        complete=trace.complete,
    )


def save_counts(path: Path | str, header: TraceHeader, groups: Sequence[LayerGroup]) -> None:
    """Write counts to a new file, under a temporary name until they are whole.

    Raises:
        TraceError: the file exists already.
    """
    file = Path(path)
    if file.exists():
        raise TraceError(f"{file} exists: expected a new file. Remove it, or give another name.")
    tensors = {
        f"{number}.{name}": part.contiguous()
        for number, group in enumerate(groups)
        for name, part in group.counts.tensors().items()
    }
    tensors |= {
        f"{number}.{UNITS}{name}": part.contiguous()
        for number, group in enumerate(groups)
        if group.units is not None
        for name, part in group.units.tensors().items()
    }
    layers = json.dumps([group.layers for group in groups])
    words = {"header": header.to_json(), "groups": layers}
    with atomic.reported(file, UNWRITTEN), atomic.new_folders(file.parent):
        write_tensors(file, tensors, UNWRITTEN, words=words)


def load_counts(path: Path | str) -> tuple[TraceHeader, tuple[LayerGroup, ...]]:
    """Read what :func:`save_counts` wrote.

    Raises:
        TraceError: no such file, not counts of modeval, another version, or damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise TraceError(
            f"No trace or counts at {file}. Import them with: modeval import SOURCE --out {file}"
        )
    try:
        stored = read_tensors(file)
    except (DamagedError, OSError) as error:
        raise TraceError(f"{file} is damaged: {error}.") from None
    metadata, tensors = stored.words, stored.tensors
    if "header" not in metadata or "groups" not in metadata:
        raise TraceError(f"{file} holds tensors, but no counts of modeval: it has no header.")
    header = header_from_json(metadata["header"], str(file))
    return header, _groups(metadata["groups"], tensors, header, file)


def _groups(
    text: str, tensors: dict[str, Tensor], header: TraceHeader, file: Path
) -> tuple[LayerGroup, ...]:
    try:
        layers = [tuple(int(layer) for layer in group) for group in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TraceError(f"{file} has a damaged list of layers: {error}.") from None
    if sorted(layer for group in layers for layer in group) != list(range(len(header.layers))):
        raise TraceError(f"{file} does not hold each of its {len(header.layers)} layers once.")
    return tuple(
        _group(number, group, tensors, header, file) for number, group in enumerate(layers)
    )


def _group(
    number: int,
    layers: tuple[int, ...],
    tensors: dict[str, Tensor],
    header: TraceHeader,
    file: Path,
) -> LayerGroup:
    parts: dict[str, Any] = {}
    for field in fields(RoutingCounts):
        name = f"{number}.{field.name}"
        part = tensors.get(name)
        kind = None if part is None else (part.dtype, part.ndim, len(part) if part.ndim else 0)
        if part is None or kind != (torch.float64, AXES[field.name], len(layers)):
            found = "missing" if part is None else f"{part.dtype} of shape {tuple(part.shape)}"
            raise TraceError(
                f"{file}: tensor {name} is {found}: expected torch.float64 with "
                f"{AXES[field.name]} axes, the first of {len(layers)} layers."
            )
        parts[field.name] = part
    shape = tuple(parts["mass"].shape[2:])
    wanted = (max(len(header.labels), 1), header.modules[layers[0]])
    if shape != wanted:
        raise TraceError(f"{file} counts (rules, modules) {shape}: its header says {wanted}.")
    return LayerGroup(layers, RoutingCounts(**parts), _units(number, shape, tensors, file))


def _units(
    number: int, shape: tuple[int, ...], tensors: dict[str, Tensor], file: Path
) -> Units | None:
    """Return the documents of a group; nothing where the file keeps none, as older ones do."""
    prefix = f"{number}.{UNITS}"
    parts: dict[str, Any] = {
        name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)
    }
    if not parts:
        return None
    wanted = {*BY_UNIT, *ABOUT_UNIT}
    if set(parts) != wanted or len({part.shape[-1] for part in parts.values()}) > 2:  # noqa: PLR2004
        strange = ", ".join(sorted(set(parts) ^ wanted)) or "of different lengths"
        raise TraceError(f"{file}: what it keeps of documents is damaged: {strange}.")
    rules, modules = shape
    count = len(parts["label"])
    sound = (
        parts["mass"].shape[-2:] == (count, modules)
        and bool((parts["label"] >= 0).all())
        and bool((parts["label"] < rules).all())
    )
    if not sound:
        raise TraceError(f"{file}: what it keeps of documents does not fit its header.")
    return Units(**parts, rules=rules)
