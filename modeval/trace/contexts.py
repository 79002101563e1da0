"""What a module took: how many tokens of each label, and some of them among their neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeval.errors import SpecError, TraceError
from modeval.trace.files import Trace, read_columns

TOKENS_HELD = 1 << 21
"""Tokens among which contexts are drawn; of larger traces the first ones."""
UNLABELLED = "(no label)"


@dataclass(frozen=True, slots=True)
class Context:
    """One token that a module took, among its neighbours.

    Attributes:
        document: number of its document.
        position: its position there.
        before: ids of the tokens before it.
        token: its id.
        after: ids of the tokens after it.
    """

    document: int
    position: int
    before: tuple[int, ...]
    token: int
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTaken:
    """What a module took of one label.

    Attributes:
        label: its name.
        tokens: tokens of the label that chose the module.
        of: all tokens of the label.
        contexts: some of them, drawn at random; none where the trace has no token ids.
    """

    label: str
    tokens: int
    of: int
    contexts: tuple[Context, ...]

    @property
    def share(self) -> float:
        """Return the share of the label's tokens that chose the module."""
        return self.tokens / max(self.of, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a module took.

    Attributes:
        layer: number of the layer.
        name: its name.
        module: number of the module.
        modules: number of modules of the layer.
        choices: modules that each token chooses.
        labels: what it took of each label.
        missing: why there are no contexts, and what to record; empty where there are.
    """

    layer: int
    name: str
    module: int
    modules: int
    choices: int
    labels: tuple[LabelTaken, ...]
    missing: str = ""

    @property
    def tokens(self) -> int:
        """Return how many tokens chose it."""
        return sum(each.tokens for each in self.labels)

    @property
    def of(self) -> int:
        """Return how many tokens the layer routed."""
        return sum(each.of for each in self.labels)


@dataclass(frozen=True, slots=True)
class _Held:
    """Tokens of one layer, ordered by document and position."""

    document: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]
    label: NDArray[np.int64]
    took: NDArray[np.bool_]


def parse_module(text: str, layers: Sequence[str], modules: Sequence[int]) -> tuple[int, int]:
    """Read ``3:5``, or ``model.layers.3.mlp.gate:5``: a layer and a module.

    Raises:
        SpecError: names what is wrong and what there is.

    >>> parse_module("mlp.1:5", ["mlp.0", "mlp.1"], [8, 8])
    (1, 5)
    """
    place, colon, number = text.rpartition(":")
    if not colon or not number.isdecimal():
        raise SpecError(f"--module {text}: expected a layer and a module, as --module 3:5.")
    if place in layers:
        layer = layers.index(place)
    elif place.isdecimal() and int(place) < len(layers):
        layer = int(place)
    else:
        raise SpecError(
            f"--module {text}: there is no layer {place}. Layers are numbered from 0 to "
            f"{len(layers) - 1}, as modeval trace info names them."
        )
    if int(number) >= modules[layer]:
        raise SpecError(
            f"--module {text}: layer {place} has {modules[layer]} modules, numbered from 0 to "
            f"{modules[layer] - 1}."
        )
    return layer, int(number)


def taken(
    trace: Trace, layer: int, module: int, *, contexts: int = 5, width: int = 8, seed: int = 0
) -> Taken:
    """Return what one module of a trace took, by label, with contexts drawn at random.

    Args:
        trace: rows.
        layer: number of the layer.
        module: number of the module.
        contexts: how many tokens to show of each label.
        width: how many tokens to show before and after each.
        seed: draws them.

    Raises:
        TraceError: the layer has no rows.
    """
    header = trace.header
    names = ["document", "position", "layer", "label", "chosen"]
    named = "token" in header.columns
    of, took = (np.zeros(len(header.labels) + 1, dtype=np.int64) for _ in range(2))
    held: list[dict[str, NDArray[np.int64]]] = []
    rows = 0
    for columns in read_columns(trace, [*names, *(["token"] if named else [])]):
        here = columns["layer"] == layer
        label = columns["label"][here].astype(np.int64)
        hit = (columns["chosen"][here] == module).any(1)
        of += np.bincount(label + 1, minlength=len(of))
        took += np.bincount(label[hit] + 1, minlength=len(of))
        if named and rows < TOKENS_HELD:
            kept = {k: columns[k][here].astype(np.int64) for k in ("document", "position", "token")}
            held.append(kept | {"label": label, "took": hit.astype(np.int64)})
            rows += len(label)
    if not of.sum():
        raise TraceError(f"{trace.path} has no rows of layer {header.layers[layer]}.")
    found = _ordered(held) if held else None
    missing = _missing(found, named=named)
    there = {} if found is None or missing else _by_label(found)
    draw = np.random.default_rng([seed, layer, module])
    labels = [(UNLABELLED, 0), *((name, number) for number, name in enumerate(header.labels, 1))]
    return Taken(
        layer=layer,
        name=header.layers[layer],
        module=module,
        modules=header.modules[layer],
        choices=header.choices[layer],
        labels=tuple(
            LabelTaken(
                label=name,
                tokens=int(took[number]),
                of=int(of[number]),
                contexts=tuple(
                    _context(found, int(row), width)
                    for row in np.sort(draw.permutation(there[number - 1])[:contexts])
                )
                if found is not None and number - 1 in there
                else (),
            )
            for name, number in labels
            if of[number]
        ),
        missing=missing,
    )


def _missing(held: _Held | None, *, named: bool) -> str:
    if not named:
        return (
            "The trace has no token ids, so there are no contexts: modeval record keeps them; an "
            "import needs a format or a column that has them."
        )
    if held is None or not (held.document >= 0).all() or not (held.position >= 0).all():
        return (
            "The trace does not say of every token where it stands, so that its neighbours are not "
            "known: record it with documents and positions, as modeval record does."
        )
    return ""


def _ordered(held: list[dict[str, NDArray[np.int64]]]) -> _Held:
    whole = {name: np.concatenate([part[name] for part in held]) for name in held[0]}
    order = np.lexsort((whole["position"], whole["document"]))
    return _Held(
        document=whole["document"][order],
        position=whole["position"][order],
        token=whole["token"][order],
        label=whole["label"][order],
        took=whole["took"][order] > 0,
    )


def _by_label(held: _Held) -> dict[int, NDArray[np.int64]]:
    """Return the rows that the module took, by label: one look at them, however many labels."""
    rows = np.flatnonzero(held.took)
    rows = rows[np.argsort(held.label[rows], kind="stable")]
    labels, starts = np.unique(held.label[rows], return_index=True)
    return dict(zip(labels.tolist(), np.split(rows, starts[1:]), strict=True))


def _context(held: _Held, row: int, width: int) -> Context:
    """Return a token with those of its document that stand beside it without a gap."""

    def beside(step: int) -> list[int]:
        found: list[int] = []
        for far in range(1, width + 1):
            other = row + step * far
            if not 0 <= other < len(held.token) or held.document[other] != held.document[row]:
                break
            if held.position[other] != held.position[row] + step * far:
                break
            found.append(int(held.token[other]))
        return found

    return Context(
        document=int(held.document[row]),
        position=int(held.position[row]),
        before=tuple(reversed(beside(-1))),
        token=int(held.token[row]),
        after=tuple(beside(1)),
    )
