"""EPLB: loads of experts as an array."""

from collections.abc import Iterator
from pathlib import Path

from modeval.errors import TraceError
from modeval.trace.importers.format import Counts, Format, Note, Options
from modeval.trace.importers.packing import plain_name
from modeval.trace.importers.plain.arrays import guess_axes
from modeval.trace.importers.reading import load_npy, tallies


def read_eplb(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read an array ``[layers, experts]`` of loads."""
    for layer, selections in enumerate(tallies(load_npy(path), 2, path, "", "the array")):
        yield Counts(layer, selections, choices=options.choices)


def _is_eplb(path: Path, start: bytes) -> bool:
    """Tell whether an array can be nothing but loads of layers and experts."""
    if not start.startswith(b"\x93NUMPY") or not plain_name(path).endswith(".npy"):
        return False
    try:
        return guess_axes(load_npy(path), path) == ("layer", "expert")
    except (TraceError, OSError):
        return False


FORMATS = (
    Format(
        name="eplb",
        about="EPLB loads: NPY array [layers, experts]",
        patterns=("*.npy",),
        sniff=_is_eplb,
        read=read_eplb,
        engine="eplb",
        counts=True,
        sized=True,
        notes=("EPLB loads may be moving averages, not counts of tokens.",),
    ),
)
