"""Agreement of two traces of one model: a quantised build, a port, a rollout against its trainer.

Rows are matched by document, position and layer. Engines differ by a token at the ends of
documents; what one of them lacks is left out and counted. An engine that numbers positions from one
is known by its token ids, and aligned. Documents are the unit of the intervals.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.errors import TraceError
from modeval.metrics.agreement import (
    agreement_different,
    agreement_exact,
    agreement_first,
    agreement_matched,
    agreement_shared,
    agreement_weights,
)
from modeval.score.inference import student
from modeval.trace.files import Trace, open_trace, read_columns
from modeval.trace.trace import TraceHeader

Columns = dict[str, NDArray[Any]]
ROWS_AT_ONCE = 1 << 23
"""Rows of a trace that are held in memory; larger ones are read in several passes."""
DECILES = 10
RENUMBERED = 0.1
"""Gain of a renumbering that is worth saying; the best of all permutations gains a little."""
SHIFTS = (0, 1, -1)
"""By how much positions of the second trace may be higher; tried in order."""
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
        untied: share of the other tokens with the same set of modules; nothing without logits, or
            where all are tied.
        ceiling: ``agreement_shared`` of the first build with itself, recorded again; nothing where
            that was not given.
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
    untied: Share | None = None
    ceiling: Share | None = None
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
    together: NDArray[Any] | None = None
    most: float = 0.0
    untied: dict[int, float] = field(default_factory=dict)
    untied_same: dict[int, float] = field(default_factory=dict)
    margins: list[NDArray[Any]] = field(default_factory=list)
    flipped: list[NDArray[Any]] = field(default_factory=list)


def _same_weights(one: TraceHeader, other: TraceHeader) -> bool:
    """Tell whether both weigh choices by shares; an assumed share is like assumed ones alone."""
    assumed = {header.weight_scale == "assumed" for header in (one, other)}
    return one.shares and other.shares and len(assumed) == 1


def agreement(one: Path | str, other: Path | str, *, again: Path | str | None = None) -> Agreement:
    """Compare the choices of two traces of the same tokens.

    Args:
        one: the trace that is held to be right: the full build, the trainer.
        other: the trace of the other build.
        again: the first build on the same texts once more: no other build can be expected to agree
            with it better than it does with itself.

    Raises:
        TraceError: the two are not of the same layers and modules, do not say which token a row
            is, have a token twice, or have no token in common.
    """
    first, second = open_trace(one), open_trace(other)
    _check(first, second)
    weighted = _same_weights(first.header, second.header)
    sums = [_Sums() for _ in first.header.layers]
    missing = [0, 0]
    lost_at_ends, shifts = True, set()
    for mine, its in _passes(first, second, weighted=weighted):
        left, right, at_ends, shift = _matched(mine, its, first, second)
        shifts.add(shift)
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
    if again is not None:
        layers = _with_ceiling(layers, agreement(one, again))
    return Agreement(
        layers=layers,
        tokens=int(sum(sums[layers[-1].layer].whole.values())),
        missing=(missing[0], missing[1]),
        notes=(
            *_shifted(shifts),
            *_notes(missing, lost_at_ends=lost_at_ends, weighted=weighted, first=first),
            *_renumbered(layers, first),
        ),
    )


def _with_ceiling(
    layers: tuple[LayerAgreement, ...], repeated: Agreement
) -> tuple[LayerAgreement, ...]:
    """Return the layers with what the first build shares with itself."""
    itself = {layer.layer: layer.measured["agreement_shared"] for layer in repeated.layers}
    return tuple(replace(layer, ceiling=itself.get(layer.layer)) for layer in layers)


def _shifted(shifts: set[int]) -> Iterator[str]:
    for shift in sorted(shifts - {0}):
        than = "higher" if shift > 0 else "lower"
        yield (
            f"Positions of the second trace are one {than} than those of the first at the same "
            "tokens: aligned by token ids."
        )


def _renumbered(layers: tuple[LayerAgreement, ...], first: Trace) -> Iterator[str]:
    """Say where the builds agree far better once modules of the second are numbered anew."""
    for layer in layers:
        shared = layer.measured["agreement_shared"].value
        matched = layer.measured["agreement_matched"].value
        if matched - shared > RENUMBERED:
            yield (
                f"{first.header.layers[layer.layer]}: by number {shared:.1%} of the choices are "
                f"shared, and {matched:.1%} once the modules of the second trace are renumbered: "
                "they seem to be the same modules in another order."
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
) -> tuple[NDArray[Any], NDArray[Any], bool, int]:
    """Return the rows that belong together, whether those that do not stand at ends, the shift.

    Where token ids differ at the same positions, positions of one may count from one: the first
    shift at which all token ids are the same is taken.
    """
    for part, trace in ((mine, first), (its, second)):
        if bool((part["document"] < 0).any() | (part["position"] < 0).any()):
            raise TraceError(
                f"{trace.path} does not say of every row which token it is: its document or "
                "position is unknown. Record both builds with documents and positions."
            )
    layers = len(first.header.layers)
    keys = _keys(mine, its, layers)
    for key, trace in zip(keys, (first, second), strict=True):
        if len(np.unique(key)) < len(key):
            raise TraceError(
                f"{trace.path} has a token twice at one layer (same document and position), so "
                "it is not known which row is its partner. Record each text once."
            )
    named = "token" in mine and "token" in its
    for shift in SHIFTS if named else (0,):
        keys = _keys(mine, its, layers, shift)
        _, left, right = np.intersect1d(*keys, assume_unique=True, return_indices=True)
        if not named or (len(left) and not _other_tokens(mine, its, left, right).any()):
            return left, right, _only_ends(mine, left) and _only_ends(its, right), shift
    _, left, right = np.intersect1d(*_keys(mine, its, layers), return_indices=True)
    wrong = _other_tokens(mine, its, left, right)
    if wrong.any():
        raise _other_texts(float(wrong.mean()), first, second)
    return left, right, _only_ends(mine, left) and _only_ends(its, right), 0


def _keys(
    mine: Columns, its: Columns, layers: int, shift: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number document, position and layer of each row, alike for both; positions may be shifted."""
    documents = np.concatenate([mine["document"], its["document"]])
    _, number = np.unique(documents, return_inverse=True)
    moved = (mine["position"] + max(shift, 0), its["position"] + max(-shift, 0))
    position = np.concatenate(moved).astype(np.int64)
    layer = np.concatenate([mine["layer"], its["layer"]])
    key = (number * (position.max(initial=0) + 1) + position) * layers + layer
    return key[: len(mine["layer"])], key[len(mine["layer"]) :]


def _other_tokens(
    mine: Columns, its: Columns, left: NDArray[Any], right: NDArray[Any]
) -> NDArray[np.bool_]:
    one, two = mine["token"][left], its["token"][right]
    wrong: NDArray[np.bool_] = (one != two) & (one >= 0) & (two >= 0)
    return wrong


def _other_texts(share: float, first: Trace, second: Trace) -> TraceError:
    return TraceError(
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
    _add_together(sums, one, two, modules)
    if first.header.logits > width:
        logits = -np.sort(-mine["logits"][rows].astype(np.float64), axis=1)
        margins = logits[:, width - 1] - logits[:, width]
        sums.margins.append(margins)
        sums.flipped.append(1 - measured["agreement_exact"])
        apart = margins > 0
        _pour(sums.untied, documents, np.bincount(number, apart))
        _pour(sums.untied_same, documents, np.bincount(number, apart * measured["agreement_exact"]))
    return measured["agreement_exact"]


def _add_together(
    sums: _Sums, one: NDArray[np.int64], two: NDArray[np.int64], modules: int
) -> None:
    """Add in how many tokens each module of one build goes with each of the other."""
    if sums.together is None:
        sums.together = np.zeros((modules, modules))
    for left in range(one.shape[1]):
        for right in range(two.shape[1]):
            both = (one[:, left] >= 0) & (two[:, right] >= 0)
            pair = one[both, left] * modules + two[both, right]
            sums.together += np.bincount(pair, minlength=modules**2).reshape(modules, modules)
    sums.most += float(np.maximum((one >= 0).sum(1), (two >= 0).sum(1)).sum())


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
    if sums.together is not None:
        matched = agreement_matched(sums.together, sums.most)
        measured["agreement_matched"] = Share(matched, None, None)
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
        untied=_share_of(sums.untied_same, sums.untied) if sum(sums.untied.values()) else None,
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
    reach = error * student.quantile(count - 1.0, (1 + LEVEL) / 2)
    return Share(value, max(value - reach, 0.0), min(value + reach, 1.0))
