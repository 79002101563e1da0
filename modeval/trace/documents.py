"""Which unit of evidence each row of a trace belongs to: its document, or a stretch within it.

A document has a label as a rule; then it is one unit. Where labels change within a document, the
units are stretches of one label, and those of like length (1, 2 to 3, 4 to 7, ... positions) may
exchange labels. Documents are known by a digest of their content, so that neither their numbers
nor the order of files matter, and copies are noticed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeval.counting.units import BY_UNIT, LIMIT, Units, unique_units

Numbers = NDArray[np.int64]
TELLING_BITS = 10
"""Content from which equal digests are copies: so many bits, beyond the logarithm of the number of
documents, of order among the choices of a document, given how often it chose what, or"""
FEW_DOCUMENTS = 14
"""Logarithm of the number of documents below which a trace is taken for one of so many: it may be a
shard, and whether a document is known again must not depend on the others in it."""
TELLING_TOKENS = 16
"""so many token ids."""
KINDS = 16
"""Kinds of choices that are told apart for that."""
_ODD = np.array(
    [
        *(0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7, 0xA0761D6478BD642F),
        *(0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3, 0x1D8E4E27C47D124F),
    ],
    dtype=np.uint64,
)
"""Odd numbers that what a row holds is multiplied by before it is mixed."""
STRETCHES = 256
"""Stretches of a document that are units of their own; of more, as many in each."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Units of a trace, before anything is counted.

    Attributes:
        document: ``(D,)`` numbers of the documents with labelled rows, sorted.
        start: ``(D + 1,)`` where the spans of each document begin.
        first: ``(P,)`` position at which a span begins: rows from there to the next are its.
        unit: ``(P,)`` unit of the span, -1 for positions without a label.
        label: ``(U,)`` rule of each unit.
        owner: ``(U,)`` place in ``document`` of (one of) its documents.
        stratum: ``(U,)`` see :class:`Units`.
        held: ``(U,)`` documents, or stretches, that share the unit.
        by_label: ``(D,)`` documents whose spans begin at a label, not at a position: positions are
            unknown, or one stands under two labels.
        unknown: whether the document of some labelled row is unknown: then nothing is independent.
    """

    document: Numbers
    start: Numbers
    first: Numbers
    unit: Numbers
    label: Numbers
    owner: Numbers
    stratum: Numbers
    held: Numbers
    by_label: NDArray[np.bool_]
    unknown: bool = False

    def __len__(self) -> int:
        return len(self.label)

    def of_rows(self, document: Numbers, position: Numbers, label: Numbers) -> Numbers:
        """Return the unit of each row; the number of units for rows that belong to none."""
        nowhere = len(self)
        if not len(self.document) or not len(document):
            return np.full(len(document), nowhere, dtype=np.int64)
        change = (document[1:] != document[:-1]) | (label[1:] != label[:-1])
        begin = np.append(0, np.flatnonzero(change) + 1)
        lengths = np.diff(np.append(begin, len(document)))
        place = np.searchsorted(self.document, document[begin])
        place = np.minimum(place, len(self.document) - 1)
        inside = (self.document[place] == document[begin]) & (label[begin] >= 0)
        span = np.repeat(self.start[place], lengths)
        rows = np.repeat(inside & (np.diff(self.start)[place] > 1), lengths)
        if rows.any():
            owner = np.repeat(place, lengths)[rows]
            where = np.where(self.by_label[owner], label[rows], position[rows])
            code = np.repeat(np.arange(len(self.document)), np.diff(self.start)) << 32
            wanted = (owner << 32) + where
            span[rows] = np.searchsorted(code + self.first, wanted, side="right") - 1
        found: Numbers = np.where(np.repeat(inside, lengths), self.unit[span], nowhere)
        return found


def plan(columns_read: Iterable[dict[str, Any]], labels: int, width: int) -> Plan:
    """Look at the labels of all documents and decide what the units are.

    Args:
        columns_read: columns ``document``, ``label`` and ``position``, again and again, of the
            rows that are counted.
        labels: number of labels; 0 when there are none, all rows being of one rule.
        width: numbers to keep for each unit: modules of all layers.
    """
    found: list[Numbers] = []
    unknown = False
    for columns in columns_read:
        document = columns["document"].astype(np.int64)
        label = columns["label"].astype(np.int64) if labels else np.zeros_like(document)
        rows = np.stack([document, label, columns["position"].astype(np.int64)], axis=1)
        rows = rows[label >= 0]
        unknown |= bool((rows[:, 0] < 0).any())
        found.append(_runs(rows[rows[:, 0] >= 0]))
    pieces = _joined(found)
    if not len(pieces):
        return replace(_empty(), unknown=unknown)
    return replace(_units(pieces, max(LIMIT // max(width, 1), 1)), unknown=unknown)


def _runs(rows: Numbers) -> Numbers:
    """Return ``(document, label, first, last)`` of each run of positions in a row, each once."""
    if not len(rows):
        return np.zeros((0, 4), dtype=np.int64)
    step = np.diff(rows, axis=0)
    going_on = (step[:, 0] == 0) & (step[:, 1] == 0) & ((step[:, 2] == 1) | (step[:, 2] == 0))
    begin = np.append(0, np.flatnonzero(~going_on) + 1)
    end = np.append(begin[1:], len(rows)) - 1
    runs = np.column_stack([rows[begin], rows[end, 2]])
    return np.unique(runs, axis=0)


def _joined(found: list[Numbers]) -> Numbers:
    """Return stretches ``(document, label, first, last)``, sorted, runs of one stretch together."""
    runs = np.unique(np.concatenate(found or [np.zeros((0, 4), dtype=np.int64)]), axis=0)
    if not len(runs):
        return runs
    runs = runs[np.lexsort((runs[:, 3], runs[:, 2], runs[:, 0]))]
    reach = runs[:, 3].copy()
    # a run goes on with the next one of its label, unless another label stands between
    goes_on = (runs[1:, 0] == runs[:-1, 0]) & (runs[1:, 1] == runs[:-1, 1])
    begin = np.append(0, np.flatnonzero(~goes_on) + 1)
    last = np.maximum.reduceat(reach, begin)
    return np.column_stack([runs[begin, :3], last])


def _units(pieces: Numbers, most: int) -> Plan:
    owner = np.unique(pieces[:, 0], return_inverse=True)[1].reshape(-1)
    lost = _lost(pieces, owner)
    lost_documents = np.unique(pieces[lost, 0])
    if lost.any():  # a piece for each label, that begins at its number
        pairs = np.unique(pieces[lost, :2], axis=0)
        flat = np.column_stack([pairs, pairs[:, 1], pairs[:, 1]])
        pieces = np.concatenate([pieces[~lost], flat])
        pieces = pieces[np.lexsort((pieces[:, 2], pieces[:, 0]))]
    document, start, count = np.unique(pieces[:, 0], return_index=True, return_counts=True)
    owner = np.repeat(np.arange(len(document)), count)
    by_label = np.isin(document, lost_documents)
    mixed = count[owner] > 1
    length = np.log2(pieces[:, 3] - pieces[:, 2] + 1).astype(np.int64)
    size = np.where(mixed, np.where(by_label[owner], -1, length), 0)
    number = _per_unit(owner, pieces[:, 1], size, mixed, most)
    code = np.column_stack([owner, pieces[:, 1], size, number])
    _, one, unit, held = np.unique(
        code, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    unit = unit.reshape(-1)
    exchange = np.column_stack([owner[one], size[one], held])
    stratum = np.unique(exchange, axis=0, return_inverse=True)[1].reshape(-1) + 1
    alone = mixed[one] & by_label[owner[one]]
    stratum[alone] = stratum.max() + 1 + np.arange(int(alone.sum()))
    stratum[~mixed[one]] = 0
    return Plan(
        document=document,
        start=np.append(start, len(pieces)),
        first=np.maximum(pieces[:, 2], 0),
        unit=unit,
        label=pieces[one, 1],
        owner=owner[one],
        stratum=stratum,
        held=held,
        by_label=by_label,
    )


def grouped(found: Plan, digests: "Digests", most: int) -> Plan:
    """Return at most about ``most`` units: documents of one label together, as many in each.

    Which belong together follows from their content. What is left over of a label stays single.
    Documents whose labels change are pooled too, with one unit for each label, which then never
    exchange labels: there are too many of them to keep their stretches.
    """
    if len(found) <= most:
        return found
    content = digests.total[found.owner]
    mixed = found.stratum > 0
    together = -(-len(np.unique(found.owner)) // max(most // (2 if mixed.any() else 1), 1))
    code = np.where(mixed, found.label.max() + 1, found.label)
    order = np.lexsort((content, code))
    _, begin, count = np.unique(code[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(begin, count)
    whole = np.repeat(count // together * together, count)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.where(rank < whole, rank // together, len(order) + rank)
    documents = np.unique(found.owner[mixed], return_inverse=True)[1].reshape(-1)
    number[mixed] = documents // together
    key = np.column_stack([mixed, found.label, number])
    _, one, into, held = np.unique(
        key, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    into = into.reshape(-1)
    stratum = np.where(held == together, 0, 1)
    stratum[mixed[one]] = 2 + np.arange(int(mixed[one].sum()))
    return replace(
        found,
        unit=into[found.unit],
        label=found.label[one],
        owner=found.owner[one],
        stratum=stratum,
        held=held,
    )


def _lost(pieces: Numbers, owner: Numbers) -> NDArray[np.bool_]:
    """Tell which pieces are of documents whose positions do not tell their labels apart."""
    bad = (pieces[1:, 2] <= pieces[:-1, 3]) & (owner[1:] == owner[:-1])
    wrong = np.zeros(int(owner.max()) + 1, dtype=bool)
    wrong[owner[1:][bad]] = True
    return wrong[owner]


def _per_unit(
    owner: Numbers, label: Numbers, size: Numbers, mixed: NDArray[np.bool_], most: int
) -> Numbers:
    """Number the units of each document, label and length: as many stretches in each.

    What is left over, fewer stretches than the others hold, is one unit more (-1).
    """
    order = np.lexsort((np.arange(len(owner)), size, label, owner))
    code = np.column_stack([owner, label, size])[order]
    begin = np.append(0, np.flatnonzero((code[1:] != code[:-1]).any(1)) + 1)
    count = np.diff(np.append(begin, len(code)))
    rank = np.arange(len(code)) - np.repeat(begin, count)
    documents = np.bincount(owner)
    allowed = max(min(STRETCHES, most // max(int((documents > 1).sum()), 1)), 1)
    step = -(-documents[owner] // allowed)[order]
    number = rank // step
    whole = np.repeat(count, count) // step * step
    number = np.where((rank >= whole) & (step > 1), -1, number)
    found = np.empty_like(number)
    found[order] = number
    return np.where(mixed, found, 0)


def _empty() -> Plan:
    none = np.zeros(0, dtype=np.int64)
    start = np.zeros(1, dtype=np.int64)
    return Plan(none, start, none, none, none, none, none, none, none.astype(bool))


def places(found: Plan, document: Numbers, rule: Numbers | None = None) -> Numbers:
    """Return the place of each row's document; D where it has none, or the row has no label."""
    nowhere = len(found.document)
    begin = np.append(0, np.flatnonzero(document[1:] != document[:-1]) + 1)[: len(document)]
    lengths = np.diff(np.append(begin, len(document)))
    place = np.minimum(np.searchsorted(found.document, document[begin]), max(nowhere - 1, 0))
    place[found.document[place] != document[begin]] = nowhere
    rows = np.repeat(place, lengths)
    return rows if rule is None else np.where(rule >= 0, rows, nowhere)


# --- content -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Digests:
    """Running digest of the content of each document: a sum over rows, in whatever order.

    Attributes:
        total: ``(D,)`` of all rows, wrapping at 64 bits.
        tokens: ``(D,)`` rows with a token id, of all layers.
        kinds: ``(D, 16)`` rows of the first layer by a hash of what they chose: how many orders
            of them there are tells how unlikely it is that another document has the same.
        by_tokens: whether the content is the token ids, or else the choices.
    """

    total: NDArray[np.uint64]
    tokens: Numbers
    kinds: Numbers
    by_tokens: bool

    @classmethod
    def zeros(cls, documents: int, *, by_tokens: bool) -> "Digests":
        """Return the digests of no rows."""
        return cls(
            total=np.zeros(documents, dtype=np.uint64),
            tokens=np.zeros(documents, dtype=np.int64),
            kinds=np.zeros((documents, KINDS), dtype=np.int64),
            by_tokens=by_tokens,
        )

    def add(self, place: Numbers, columns: dict[str, Any]) -> None:
        """Add rows: ``place`` is the place of their document, or D for rows that count nowhere."""
        content = _content(columns, by_tokens=self.by_tokens)
        position, layer = (columns[name].astype(np.uint64) for name in ("position", "layer"))
        own = _mixed(content + position * _ODD[0] + layer * _ODD[1])
        begin = np.append(0, np.flatnonzero(place[1:] != place[:-1]) + 1)[: len(place)]
        if not len(begin):
            return
        sums = np.add.reduceat(own, begin)
        inside = place[begin] < len(self.total)
        np.add.at(self.total, place[begin][inside], sums[inside])
        if self.by_tokens:
            rows = np.add.reduceat((columns["token"] >= 0).astype(np.int64), begin)
            np.add.at(self.tokens, place[begin][inside], rows[inside])
            return
        first = (columns["layer"] == 0) & (place < len(self.total))
        kind = (_mixed(content[first]) % np.uint64(KINDS)).astype(np.int64)
        flat = np.bincount(place[first] * KINDS + kind, minlength=self.kinds.size)
        np.add(self.kinds, flat.reshape(self.kinds.shape), out=self.kinds)

    def telling(self, layers: int) -> NDArray[np.bool_]:
        """Tell which documents hold so much that another like them is a copy."""
        if self.by_tokens:
            return self.tokens >= TELLING_TOKENS * layers
        kinds = torch.from_numpy(self.kinds).double()
        orders = torch.lgamma(kinds.sum(-1) + 1) - torch.lgamma(kinds + 1).sum(-1)
        wanted = TELLING_BITS + max(math.log2(max(len(kinds), 1)), FEW_DOCUMENTS)
        found: NDArray[np.bool_] = (orders / math.log(2) >= wanted).numpy()
        return found


def _content(columns: dict[str, Any], *, by_tokens: bool) -> NDArray[np.uint64]:
    """Return a number for what each row holds."""
    if by_tokens:
        token: NDArray[np.uint64] = columns["token"].astype(np.uint64) * _ODD[2]
        return token
    chosen = columns["chosen"]
    total = np.zeros(len(chosen), dtype=np.uint64)
    for rank in range(chosen.shape[1]):
        total += (chosen[:, rank] + 2).astype(np.uint64) * _ODD[2 + rank % 6] ** np.uint64(rank + 1)
    return total


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64 well mixed bits of each number (the finaliser of SplitMix64)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Contents:
    """Documents of a trace, labelled or not, by all that they hold.

    Attributes:
        document: ``(D,)`` their numbers.
        total: ``(D,)`` digest of labels, tokens and choices at their positions: documents that
            share it are the same to whoever looks at nothing else.
        rows: ``(D,)`` rows of all layers.
    """

    document: Numbers
    total: NDArray[np.uint64]
    rows: Numbers


def contents(columns_read: Iterable[dict[str, Any]]) -> Contents:
    """Look at all that documents hold, in whatever order their rows stand.

    Args:
        columns_read: columns ``document``, ``position``, ``layer``, ``label``, ``chosen`` and,
            where there is one, ``token``, again and again.
    """
    pieces: list[tuple[Numbers, NDArray[np.uint64], Numbers]] = []
    for columns in columns_read:
        document = columns["document"].astype(np.int64)
        begin = np.append(0, np.flatnonzero(document[1:] != document[:-1]) + 1)[: len(document)]
        if not len(begin):
            continue
        own = columns["label"].astype(np.uint64) * _ODD[3]
        if "token" in columns:
            own += _content(columns, by_tokens=True)
        own = _mixed(own) + _content(columns, by_tokens=False)
        for name, odd in (("position", _ODD[0]), ("layer", _ODD[1])):
            own += columns[name].astype(np.uint64) * odd
        lengths = np.diff(np.append(begin, len(document)))
        pieces.append((document[begin], np.add.reduceat(_mixed(own), begin), lengths))
    if not pieces:
        none = np.zeros(0, dtype=np.int64)
        return Contents(none, none.astype(np.uint64), none)
    run, total, rows = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    document, place = np.unique(run, return_inverse=True)
    totals, counts = np.zeros(len(document), dtype=np.uint64), np.zeros_like(document)
    np.add.at(totals, place.reshape(-1), total)
    np.add.at(counts, place.reshape(-1), rows)
    known = document >= 0
    return Contents(document[known], totals[known], counts[known])


def names(found: Plan, digests: Digests) -> Numbers:
    """Return a number from 0 for the document of each unit: a hash of what it holds.

    So it is the same whatever file or shard the document came in. Documents of a trace that hold
    the same have different numbers, because short ones may be many.
    """
    total = digests.total
    order = np.argsort(total, kind="stable")
    change = np.append(True, total[order[1:]] != total[order[:-1]])[: len(order)]
    begin = np.flatnonzero(change)
    rank = np.empty(len(order), dtype=np.uint64)
    lengths = np.diff(np.append(begin, len(order)))
    rank[order] = (np.arange(len(order)) - np.repeat(begin, lengths)).astype(np.uint64)
    known: Numbers = (_mixed(total + rank * _ODD[3]) >> np.uint64(1)).astype(np.int64)
    return known[found.owner]


def keys(found: Plan, digests: Digests, layers: int) -> Numbers:
    """Return the key of each unit: what its document holds, negative where that tells too little.

    Args:
        found: the units.
        digests: of their documents.
        layers: number of layers.
    """
    telling = digests.telling(layers)
    content = digests.total[found.owner]
    shared = (found.held > 1) & (np.bincount(found.owner)[found.owner] == 1)
    if shared.any():  # of all documents that share a unit, whichever stands for it
        total = np.zeros(len(found), dtype=np.uint64)
        np.add.at(total, found.unit[found.start[:-1]], digests.total)
        content = np.where(shared, total, content)
    content = (content >> np.uint64(2)).astype(np.int64)
    # several units of one document differ in what they are of it, not in its content
    begin = np.zeros(len(found.document), dtype=np.int64)
    np.add.at(begin, found.owner, 1)
    first = np.cumsum(begin) - begin
    rank = np.empty(len(found.owner), dtype=np.int64)
    order = np.lexsort((np.arange(len(rank)), found.owner))
    rank[order] = np.arange(len(rank)) - first[found.owner[order]]
    mixed = (content ^ (rank * 0x1E3779B97F4A7C15)) & (2**62 - 1)
    return np.where(telling[found.owner] & ~shared, mixed, -mixed - 1)


def units_of(
    found: Plan,
    key: Numbers,
    parts: dict[str, Tensor],
    rules: int,
) -> Units:
    """Return the units of some layers, ``(L, U, M)`` and so on, copies of a document as one."""
    units = Units(
        **{name: parts[name] for name in BY_UNIT},
        label=torch.from_numpy(found.label),
        cluster=torch.from_numpy(found.owner.copy()),
        stratum=torch.from_numpy(found.stratum.copy()),
        documents=torch.from_numpy(found.held.copy()),
        copies=torch.from_numpy(found.held.copy()),
        key=torch.from_numpy(key),
        rules=rules,
    )
    return unique_units(units)
