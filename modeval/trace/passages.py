"""A few documents of a trace, token by token, with the module that took each at some layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modeval.errors import TraceError
from modeval.trace.files import Trace, read_columns

LENGTH = 150
"""Tokens that are shown of a document."""
LAYERS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The beginning of one document.

    Attributes:
        document: its number.
        label: name of its label; empty without.
        tokens: ids of its tokens.
        modules: for each shown layer the first module of each token; -1 where nothing is known.
    """

    document: int
    label: str
    tokens: tuple[int, ...]
    modules: tuple[tuple[int, ...], ...]


def layers_shown(layers: int, most: int = LAYERS_SHOWN) -> tuple[int, ...]:
    """Return the numbers of a few layers, evenly spread: the first, the last and between.

    >>> layers_shown(16), layers_shown(2)
    ((0, 8, 15), (0, 1))
    """
    if layers <= most:
        return tuple(range(layers))
    return tuple(round(place * (layers - 1) / (most - 1)) for place in range(most))


def passages(trace: Trace, layers: Sequence[int]) -> tuple[Passage, ...]:
    """Return the beginning of the first document of each label.

    Args:
        trace: rows with token ids, documents and positions.
        layers: numbers of the layers to show.

    Raises:
        TraceError: the trace has no token ids, or does not say where tokens stand.
    """
    if "token" not in trace.header.columns:
        raise TraceError(
            f"{trace.path} has no token ids, so its tokens cannot be shown: record it with modeval "
            "record, which keeps them, or import it from a format that has them."
        )
    wanted = _first_documents(trace, layers[0])
    if not wanted:
        raise TraceError(
            f"{trace.path} does not say of its tokens which document they are of, so that there is "
            "no text to show: record it with documents and positions."
        )
    found = {document: _empty(len(layers)) for document in wanted}
    tokens = {document: np.full(LENGTH, -1, dtype=np.int64) for document in wanted}
    place = {layer: number for number, layer in enumerate(layers)}
    names = ["document", "position", "layer", "chosen", "token"]
    for columns in read_columns(trace, names):
        near = (columns["position"] >= 0) & (columns["position"] < LENGTH)
        mine = near & np.isin(columns["document"], list(wanted)) & np.isin(columns["layer"], layers)
        for row in np.flatnonzero(mine).tolist():
            document, position = int(columns["document"][row]), int(columns["position"][row])
            layer = place[int(columns["layer"][row])]
            found[document][layer, position] = columns["chosen"][row, 0]
            tokens[document][position] = columns["token"][row]
    return tuple(
        _passage(document, label, tokens[document], found[document])
        for document, label in wanted.items()
        if (tokens[document] >= 0).any()
    )


def _empty(layers: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.full((layers, LENGTH), -1, dtype=np.int64)


def _first_documents(trace: Trace, layer: int) -> dict[int, str]:
    """Return the lowest document of each label, by number, in the order of the labels."""
    labels = trace.header.labels
    lowest: dict[int, int] = {}
    for columns in read_columns(trace, ["document", "layer", "label"]):
        here = (columns["layer"] == layer) & (columns["document"] >= 0)
        label, document = columns["label"][here], columns["document"][here]
        for number in np.unique(label).tolist():
            if labels and number < 0:
                continue
            low = int(document[label == number].min())
            lowest[number] = min(low, lowest.get(number, low))
    return {
        document: labels[number] if number >= 0 else ""
        for number, document in sorted(lowest.items())
    }


def _passage(
    document: int,
    label: str,
    tokens: np.ndarray[tuple[int], np.dtype[np.int64]],
    modules: np.ndarray[tuple[int, int], np.dtype[np.int64]],
) -> Passage:
    known = int(np.flatnonzero(tokens >= 0)[-1]) + 1
    kept = np.flatnonzero(tokens[:known] >= 0)
    return Passage(
        document=document,
        label=label,
        tokens=tuple(tokens[kept].tolist()),
        modules=tuple(tuple(row) for row in modules[:, kept].tolist()),
    )
