"""EPLB: loads of experts as an array."""

from collections.abc import Iterator
from pathlib import Path

from modeval.trace.importers.format import Counts, Format, Note, Options
from modeval.trace.importers.reading import load_array, tallies


def read_eplb(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read an array ``[layers, experts]`` of loads."""
    with path.open("rb") as opened:
        array = load_array(opened, path, "", "the file")
    for layer, selections in enumerate(tallies(array, 2, path, "", "the array")):
        yield Counts(layer, selections, choices=options.choices)


FORMATS = (
    Format(
        name="eplb",
        about="EPLB loads: NPY array [layers, experts]",
        patterns=("*.npy",),
        sniff=lambda path, start: start.startswith(b"\x93NUMPY") and path.suffix == ".npy",
        read=read_eplb,
        engine="eplb",
        counts=True,
        sized=True,
        notes=("EPLB loads may be moving averages, not counts of tokens.",),
    ),
)
