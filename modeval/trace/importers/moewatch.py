"""moewatch: counts of each token's first choice."""

from collections.abc import Iterator
from pathlib import Path

from modeval.trace.importers.format import Counts, Format, Note, Options
from modeval.trace.importers.reading import (
    as_object,
    has_keys,
    module_number,
    parse_json,
    read_bytes,
    required,
    sparse_counts,
    tallies,
)


def read_moewatch(path: Path, _options: Options, _note: Note) -> Iterator[Counts]:
    """Read the token counts of moewatch, which are of each token's first choice only."""
    record = as_object(parse_json(read_bytes(path), path), path, "")
    usage = as_object(required(record, "utilization", dict, path, ""), path, "utilization")
    for name, value in required(usage, "token_counts", dict, path, "utilization").items():
        place = f"layer {name}"
        if isinstance(value, dict):
            cells = (
                (
                    place,
                    0,
                    module_number(expert, path, place),
                    float(tallies([count], 1, path, place, "count")[0]),
                )
                for expert, count in value.items()
            )
            selections = next(sparse_counts(cells, path, Options())).selections
        else:
            selections = tallies(value, 1, path, place, "token_counts")
        yield Counts(int(name) if name.isdecimal() else name, selections, choices=1)


NOTE = (
    "moewatch counts the first choice only, counts padding, and takes the largest "
    "number seen for the number of experts."
)

FORMATS = (
    Format(
        name="moewatch",
        about="moewatch to_json: counts of each token's first choice",
        patterns=("*.json",),
        sniff=lambda _path, start: has_keys(start, "moewatch_version"),
        read=read_moewatch,
        engine="moewatch",
        counts=True,
        notes=(NOTE,),
        padding="included",
    ),
)
