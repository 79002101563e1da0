"""warp: text dumps of the scores that experts are chosen by."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeval.trace.importers.format import Format, Note, Options, Rows
from modeval.trace.importers.reading import largest, lines, numbers, refuse

LINES = 1 << 14
SCORE_LINE = re.compile(rb"\s*\d+[ \t]+\d+([ \t]+-?\d+(\.\d+)?([eE][+-]?\d+)?){4,}\s*\r?\n")


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
        if len(held) == LINES:
            yield _of_scores(held, choices)
            held = []
    if held:
        yield _of_scores(held, choices)


def _of_scores(held: list[tuple[int, int, NDArray[np.float64]]], choices: int) -> Rows:
    position, layer, scores = zip(*held, strict=True)
    table = np.stack(scores)
    return Rows(
        np.array(layer),
        largest(table, choices),
        position=np.array(position),
        modules=table.shape[1],
    )


NOTE = (
    "The dump holds the scores that experts are chosen by: the K largest were taken "
    "for the choices, as if there were no groups of experts."
)

FORMATS = (
    Format(
        name="warp-scores",
        about="warp (WASTE_DUMP_SCORES): lines position layer score score ...",
        patterns=("*.txt", "*.log"),
        sniff=lambda _path, start: bool(SCORE_LINE.match(start)),
        read=read_scores,
        engine="warp",
        notes=(NOTE,),
    ),
)
