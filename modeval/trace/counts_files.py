"""Folded routing on disk: one safetensors file, versioned, written whole or not at all."""

import os
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from modeval.errors import TraceError
from modeval.types import RoutingCounts

FORMAT = "modeval-counts"
VERSION = "1"
# 1: mass, selections, samples, entropy, selection_entropy, coactivation, all float64


def save_counts(path: Path | str, counts: RoutingCounts) -> Path:
    """Write counts to a file; a file that stands there is replaced in one step.

    Raises:
        TraceError: the file cannot be written.
    """
    target = Path(path)
    tensors = {
        name: part.cpu().clone(memory_format=torch.contiguous_format)
        for name, part in counts.tensors().items()
    }
    data = save(tensors, metadata={"format": FORMAT, "version": VERSION})
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(data)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise TraceError(
            f"Cannot write counts to {target}: {error.strerror}. Give a path in a folder that "
            "exists and has room."
        ) from None
    return target


def load_counts(path: Path | str) -> RoutingCounts:
    """Read counts from a file.

    Raises:
        TraceError: there is no such file, it is damaged, or another version wrote it.
    """
    source = Path(path)
    if not source.is_file():
        raise TraceError(f"No counts at {source}. Give the path of a file from save_counts.")
    try:
        with safe_open(source, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dictionary
    except SafetensorError as error:
        raise TraceError(
            f"{source} is damaged or no safetensors file: {error}. Fold the trace again."
        ) from None
    _check_header(source, header)
    _check_tensors(source, tensors)
    return RoutingCounts(**tensors)


def _check_header(source: Path, header: dict[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise TraceError(
            f"{source} holds no routing counts: its format is {header.get('format')!r}, expected "
            f"{FORMAT!r}. Give a file from save_counts."
        )
    if header.get("version") != VERSION:
        raise TraceError(
            f"{source} has version {header.get('version')!r} of {FORMAT}; this modeval reads "
            f"{VERSION!r}. Fold the trace again, or use the modeval that wrote it."
        )


def _check_tensors(source: Path, tensors: dict[str, Tensor]) -> None:
    names = {entry.name for entry in fields(RoutingCounts)}
    if set(tensors) != names or any(part.dtype != torch.float64 for part in tensors.values()):
        raise TraceError(
            f"{source} does not hold the tensors {', '.join(sorted(names))} in float64. "
            "Fold the trace again."
        )
    *batch, blocks, rules, modules = tensors["mass"].shape
    shapes = {
        "mass": (*batch, blocks, rules, modules),
        "selections": (*batch, blocks, rules, modules),
        "coactivation": (*batch, modules, modules),
        **dict.fromkeys(("samples", "entropy", "selection_entropy"), (*batch, blocks, rules)),
    }
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != tuple(shape):
            raise TraceError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}, expected "
                f"{tuple(shape)}. Fold the trace again."
            )
