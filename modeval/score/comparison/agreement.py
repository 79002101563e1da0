"""Agreement of two traces of one model: a quantised build, a port, a rollout against its trainer.

Rows are matched by document, position and layer. Engines differ by a token at the ends of
documents; what one of them lacks is left out and counted. Documents are the unit of the intervals.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from modeval.errors import TraceError
from modeval.metrics.agreement import (
    agreement_different,
    agreement_exact,
    agreement_first,
    agreement_shared,
    agreement_weights,
)
from modeval.trace.files import Trace, open_trace, read_columns

Columns = dict[str, NDArray[Any]]
ROWS_AT_ONCE = 1 << 23
"""Rows of a trace that are held in memory; larger ones are read in several passes."""
SHARES = ("probability", "renormalised")
DECILES = 10
LEVEL = 0.95
MIX = 0x9E3779B97F4A7C15
"""Odd number by which documents are spread over passes."""


@dataclass(frozen=True, slots=True)
class Share:
    """A mean over tokens, with its interval over documents.

    Attributes:
        value: the mean.
        low: lower end; nothing with fewer than two documents.
        high: upper end.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAgreement:
    """How alike two builds route at one layer.

    Attributes:
        layer: its number.
        tokens: tokens that both have.
        documents: documents that they are of.
        measured: the metrics of :mod:`modeval.metrics.agreement` by name; ``agreement_weights`` is
            missing where one of the traces has no weights that are shares.
        chance: the same for choices that know nothing of each other and keep each build's load:
            of ``agreement_shared`` and ``agreement_first``.
        ties: share of tokens whose last choice and first rejected module have equal logits, which
            engines break each in its own way; nothing where logits were not recorded.
        flips: for each tenth of the margins between those logits, from the smallest: share of
            tokens whose set of modules differs; empty without logits.
    """

    layer: int
    tokens: int
    documents: int
    measured: dict[str, Share]
    chance: dict[str, float]
    ties: float | None = None
    flips: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike two builds of one model route the same tokens.

    Attributes:
        layers: one for each layer that has tokens.
        tokens: tokens that both have at every layer.
        missing: rows that only the first, and only the second trace has.
        notes: what to know when reading it.
    """

    layers: tuple[LayerAgreement, ...]
    tokens: int
    missing: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def different(self) -> Share:
        """Share of tokens with a different set of modules at one layer at least."""
        return self.layers[-1].measured["agreement_different"]


@dataclass(slots=True)
class _Sums:
    """Sums of one layer by document: tokens, those that all layers have, and of each metric."""

    tokens: dict[int, float] = field(default_factory=dict)
    whole: dict[int, float] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    loads: tuple[list[NDArray[Any]], list[NDArray[Any]]] = field(default_factory=lambda: ([], []))
    firsts: tuple[list[NDArray[Any]], list[NDArray[Any]]] = field(default_factory=lambda: ([], []))
    margins: list[NDArray[Any]] = field(default_factory=list)
    flipped: list[NDArray[Any]] = field(default_factory=list)


def agreement(one: Path | str, other: Path | str) -> Agreement:
    """Compare the choices of two traces of the same tokens.

    Args:
        one: the trace that is held to be right: the full build, the trainer.
        other: the trace of the other build.

    Raises:
        TraceError: the two are not of the same layers and modules, do not say which token a row
            is, have a token twice, or have no token in common.
    """
    first, second = open_trace(one), open_trace(other)
    _check(first, second)
    weighted = all(trace.header.weight_scale in SHARES for trace in (first, second))
    sums = [_Sums() for _ in first.header.layers]
    missing = [0, 0]
    lost_at_ends = True
    for mine, its in _passes(first, second, weighted=weighted):
        left, right, at_ends = _matched(mine, its, first, second)
        missing[0] += len(mine["layer"]) - len(left)
        missing[1] += len(its["layer"]) - len(right)
        lost_at_ends &= at_ends
        if len(left):
            rows = [
                {k: v[index] for k, v in part.items()}
                for part, index in ((mine, left), (its, right))
            ]
            _add(sums, rows[0], rows[1], first, weighted=weighted)
    layers = tuple(
        _layer(number, each, first) for number, each in enumerate(sums) if sum(each.tokens.values())
    )
    if not layers:
        raise TraceError(
            f"{first.path} and {second.path} have no token in common: no document, position and "
            "layer of one is in the other. Record both builds on the same texts."
        )
    return Agreement(
        layers=layers,
        tokens=int(sum(sums[layers[-1].layer].whole.values())),
        missing=(missing[0], missing[1]),
        notes=tuple(_notes(missing, lost_at_ends=lost_at_ends, weighted=weighted, first=first)),
    )


def _notes(
    missing: list[int], *, lost_at_ends: bool, weighted: bool, first: Trace
) -> Iterator[str]:
    if any(missing):
        where = "all at the ends of documents" if lost_at_ends else "not only at ends of documents"
        yield (
            f"{missing[0]} rows of the first trace and {missing[1]} of the second have no partner, "
            f"{where}; they are left out."
        )
    if not weighted:
        yield "Weights are not compared: one of the traces has none that are shares of a token."
    if not first.header.logits:
        yield "Ties and margins are unknown: the first trace has no logits."


# --- matching rows -------------------------------------------------------------------------------


def _check(first: Trace, second: Trace) -> None:
    for name in ("layers", "modules", "choices"):
        one, two = getattr(first.header, name), getattr(second.header, name)
        if one != two:
            raise TraceError(
                f"{first.path} and {second.path} differ in their {name}, so they are no two builds "
                "of one model."
            )
    if 0 in first.header.choices:
        raise TraceError(f"{first.path} does not say how many modules each token chose.")


def _passes(first: Trace, second: Trace, *, weighted: bool) -> Iterator[tuple[Columns, Columns]]:
    """Read both traces, documents spread over as many passes as memory asks for."""
    parts = -(-max(first.rows, second.rows) // ROWS_AT_ONCE)
    for part in range(max(parts, 1)):
        yield _read(first, part, parts, weighted), _read(second, part, parts, weighted)


def _read(trace: Trace, part: int, parts: int, weighted: bool) -> Columns:  # noqa: FBT001
    names = ["document", "position", "layer", "chosen"]
    names += ["weight"] if weighted else []
    names += [name for name in ("token", "logits") if name in trace.header.columns]
    found: list[Columns] = []
    for columns in read_columns(trace, names):
        if parts > 1:
            mixed = columns["document"].astype(np.uint64) * np.uint64(MIX)
            kept = (mixed >> np.uint64(32)) % np.uint64(parts) == part
            found.append({name: column[kept] for name, column in columns.items()})
        else:
            found.append(columns)
    if not found:
        raise TraceError(f"{trace.path} has no rows.")
    return {name: np.concatenate([each[name] for each in found]) for name in names}


def _matched(
    mine: Columns, its: Columns, first: Trace, second: Trace
) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """Return the rows that belong together, and whether those that do not stand at ends."""
    for part, trace in ((mine, first), (its, second)):
        if bool((part["document"] < 0).any() | (part["position"] < 0).any()):
            raise TraceError(
                f"{trace.path} does not say of every row which token it is: its document or "
                "position is unknown. Record both builds with documents and positions."
            )
    keys = _keys(mine, its, len(first.header.layers))
    for key, trace in zip(keys, (first, second), strict=True):
        if len(np.unique(key)) < len(key):
            raise TraceError(
                f"{trace.path} has a token twice at one layer (same document and position), so "
                "it is not known which row is its partner. Record each text once."
            )
    _, left, right = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    if "token" in mine and "token" in its:
        _check_tokens(mine["token"][left], its["token"][right], first, second)
    return left, right, _only_ends(mine, left) and _only_ends(its, right)


def _keys(mine: Columns, its: Columns, layers: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number document, position and layer of each row, alike for both."""
    documents = np.concatenate([mine["document"], its["document"]])
    _, number = np.unique(documents, return_inverse=True)
    position = np.concatenate([mine["position"], its["position"]]).astype(np.int64)
    layer = np.concatenate([mine["layer"], its["layer"]])
    key = (number * (position.max(initial=0) + 1) + position) * layers + layer
    return key[: len(mine["layer"])], key[len(mine["layer"]) :]


def _check_tokens(mine: NDArray[Any], its: NDArray[Any], first: Trace, second: Trace) -> None:
    wrong = (mine != its) & (mine >= 0) & (its >= 0)
    if bool(wrong.any()):
        share = float(wrong.mean())
        raise TraceError(
            f"{first.path} and {second.path} have other tokens at the same document and position "
            f"({share:.1%} of the rows), so they were recorded on different texts or with another "
            "count of positions. Record both builds on the same texts."
        )


def _only_ends(part: Columns, kept: NDArray[Any]) -> bool:
    """Tell whether the rows that are left out lie before or after all that are kept."""
    left_out = np.ones(len(part["layer"]), dtype=bool)
    left_out[kept] = False
    if not left_out.any():
        return True
    documents, number = np.unique(part["document"], return_inverse=True)
    lowest = np.full(len(documents), np.iinfo(np.int64).max)
    highest = np.full(len(documents), -1)
    np.minimum.at(lowest, number[kept], part["position"][kept])
    np.maximum.at(highest, number[kept], part["position"][kept])
    where, position = number[left_out], part["position"][left_out]
    inside = (position > lowest[where]) & (position < highest[where])
    return not bool(inside.any())


# --- measuring -----------------------------------------------------------------------------------


def _add(sums: list[_Sums], mine: Columns, its: Columns, first: Trace, *, weighted: bool) -> None:
    """Add rows to the sums."""
    exact = np.zeros(len(mine["layer"]))
    present = np.unique(mine["layer"])
    for layer in present:
        rows = np.flatnonzero(mine["layer"] == layer)
        exact[rows] = _add_layer(sums[layer], int(layer), rows, mine, its, first, weighted)
    _add_different(sums, mine, exact, present)


def _add_different(
    sums: list[_Sums], mine: Columns, exact: NDArray[np.float64], present: NDArray[Any]
) -> None:
    """Add how far each token that all layers have went before it was routed differently."""
    order = np.lexsort((mine["layer"], mine["position"], mine["document"]))
    document, position = mine["document"][order], mine["position"][order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (document[1:] != document[:-1]) | (position[1:] != position[:-1])
    token = np.cumsum(starts) - 1
    whole = (np.bincount(token) == len(present))[token]
    different = agreement_different(exact[order][whole].reshape(-1, len(present)))
    documents, number = np.unique(document[whole][:: len(present)], return_inverse=True)
    for index, layer in enumerate(present):
        values = sums[layer].values.setdefault("agreement_different", {})
        _pour(values, documents, np.bincount(number, different[:, index]))
        _pour(sums[layer].whole, documents, np.bincount(number))


def _add_layer(  # noqa: PLR0917 - one step of _add, cut out to fit a glance
    sums: _Sums,
    layer: int,
    rows: NDArray[Any],
    mine: Columns,
    its: Columns,
    first: Trace,
    weighted: bool,  # noqa: FBT001
) -> NDArray[np.float64]:
    width = first.header.choices[layer]
    one, two = (part["chosen"][rows, :width].astype(np.int64) for part in (mine, its))
    weights = [part["weight"][rows, :width] for part in (mine, its)] if weighted else []
    if weighted:  # best first, whatever the order on file
        one, two = (_by_weight(c, w) for c, w in zip((one, two), weights, strict=True))
        weights = [-np.sort(-w.astype(np.float64), axis=1, kind="stable") for w in weights]
    measured = {
        "agreement_shared": agreement_shared(one, two),
        "agreement_exact": agreement_exact(one, two),
        "agreement_first": agreement_first(one, two),
    }
    if weighted:
        measured["agreement_weights"] = agreement_weights(one, two, weights[0], weights[1])
    documents, number = np.unique(mine["document"][rows], return_inverse=True)
    _pour(sums.tokens, documents, np.bincount(number))
    for name, values in measured.items():
        _pour(sums.values.setdefault(name, {}), documents, np.bincount(number, values))
    modules = first.header.modules[layer]
    for index, chosen in enumerate((one, two)):
        sums.loads[index].append(np.bincount(chosen[chosen >= 0], minlength=modules))
        sums.firsts[index].append(np.bincount(chosen[:, 0].clip(0), minlength=modules))
    if first.header.logits > width:
        logits = -np.sort(-mine["logits"][rows].astype(np.float64), axis=1)
        sums.margins.append(logits[:, width - 1] - logits[:, width])
        sums.flipped.append(1 - measured["agreement_exact"])
    return measured["agreement_exact"]


def _by_weight(chosen: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    order = np.argsort(-weight, axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1)


def _pour(into: dict[int, float], documents: NDArray[Any], values: NDArray[Any]) -> None:
    for document, value in zip(documents.tolist(), values.tolist(), strict=True):
        into[document] = into.get(document, 0.0) + value


def _layer(number: int, sums: _Sums, first: Trace) -> LayerAgreement:
    documents = sorted(sums.tokens)
    tokens = np.array([sums.tokens[document] for document in documents])
    measured = {
        name: _share_of(values, sums.whole if name == "agreement_different" else sums.tokens)
        for name, values in sums.values.items()
    }
    one, two = (np.sum(side, 0) / tokens.sum() for side in sums.loads)
    chance = {
        "agreement_shared": float((one * two).sum() / first.header.choices[number]),
        "agreement_first": float(
            np.prod([np.sum(side, 0) / tokens.sum() for side in sums.firsts], axis=0).sum()
        ),
    }
    margins = np.concatenate(sums.margins) if sums.margins else None
    ties = None if margins is None else float((margins == 0).mean())
    flips = () if margins is None else _flips(margins, np.concatenate(sums.flipped))
    return LayerAgreement(
        layer=number,
        tokens=int(tokens.sum()),
        documents=len(documents),
        measured=measured,
        chance=chance,
        ties=ties,
        flips=flips,
    )


def _flips(margins: NDArray[Any], flipped: NDArray[Any]) -> tuple[float, ...]:
    ordered = flipped[np.argsort(margins, kind="stable")]
    return tuple(float(part.mean()) for part in np.array_split(ordered, DECILES) if len(part))


def _share_of(totals: dict[int, float], tokens: dict[int, float]) -> Share:
    documents = sorted(tokens)
    return _share(*(np.array([part.get(d, 0.0) for d in documents]) for part in (totals, tokens)))


def _share(totals: NDArray[Any], tokens: NDArray[Any]) -> Share:
    """Return a ratio of sums over documents with its interval.

    Student's t of the residuals ``y_d - value n_d`` (Cochran 1977, Sampling Techniques, 2.11). If
    all documents are alike in having all or nothing, no spread is seen; the share of those that
    could still differ is below ``1 - (alpha/2)^(1/D)`` (exact binomial), and the interval says so.
    """
    count, size = len(totals), tokens.sum()
    value = float(totals.sum() / size)
    if count < 2:  # noqa: PLR2004 - one document has no spread
        return Share(value, None, None)
    residual = totals - value * tokens
    error = math.sqrt(float((residual**2).sum()) * count / (count - 1)) / size
    if error == 0 and value in (0.0, 1.0):
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / count)
        return Share(value, value - unseen if value else 0.0, value or unseen)
    reach = error * float(student.ppf((1 + LEVEL) / 2, count - 1))
    return Share(value, max(value - reach, 0.0), min(value + reach, 1.0))
