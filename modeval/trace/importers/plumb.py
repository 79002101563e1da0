"""plumb: snapshots and reports of expert use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def read_plumb(path: Path, options: Options, _note: Note) -> Iterator[Counts]:
    """Read a snapshot or a report of plumb."""
    record = as_object(parse_json(read_bytes(path), path), path, "")
    if "expert_counts" in record:
        cells = _snapshot(required(record, "expert_counts", dict, path, ""), path)
    else:
        cells = _report(required(record, "layers", list, path, ""), path)
    yield from sparse_counts(cells, path, options)


def _snapshot(counts: dict[str, Any], path: Path) -> Iterator[tuple[str, int, int, float]]:
    for key, count in counts.items():
        place = f"expert_counts {key!r}"
        layer, _, expert = key.partition(":")
        number = float(tallies([count], 1, path, place, "count")[0])
        yield place, module_number(layer, path, place), module_number(expert, path, place), number


def _report(layers: list[Any], path: Path) -> Iterator[tuple[str, int, int, float]]:
    for number, item in enumerate(layers):
        place = f"layers[{number}]"
        layer = as_object(item, path, place)
        for expert in required(layer, "experts", list, path, place):
            record = as_object(expert, path, place)
            yield (
                place,
                required(layer, "layer_id", int, path, place),
                required(record, "expert_id", int, path, place),
                float(required(record, "token_count", int, path, place)),
            )


NOTE = (
    "plumb counts two choices of each token whatever K is, forgets old tokens, and "
    "leaves out experts that it never saw."
)

FORMATS = (
    Format(
        name="plumb",
        about="plumb snapshot or report: counts",
        patterns=("*.json",),
        sniff=lambda _path, start: (
            has_keys(start, "expert_counts", "pass_count")
            or has_keys(start, "layers", "total_forward_passes")
        ),
        read=read_plumb,
        engine="plumb",
        counts=True,
        notes=(NOTE,),
    ),
)
