"""Units of evidence: what was routed of each document, kept beside the counts.

Counts pool documents, but how sure a number is depends on how documents differ, and a test of
labels moves the labels of whole documents. A unit is a document with its label; where labels
change within documents it is a stretch of one label, and the document is its cluster. Above a
limit of memory, several documents of one label share a unit, the same number in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from modeval.errors import TraceError
from modeval.types import Prior, RoutingCounts, View

LIMIT = 1 << 24
"""Numbers that the table of one view may hold: layers x units x modules (128 MiB)."""
BY_UNIT = ("mass", "selections", "samples", "entropy", "selection_entropy")
ABOUT_UNIT = ("label", "cluster", "stratum", "documents", "copies", "key")
WIDE = ("mass", "selections")


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What was routed of each unit, the same units for every member of the batch (layer, seed).

    Attributes:
        mass: ``(..., U, M)`` summed routing weight; of a document that stands in the data several
            times, once.
        selections: ``(..., U, M)`` how often a module was chosen.
        samples: ``(..., U)`` samples, 0 where a layer saw nothing of the unit.
        entropy: ``(..., U)`` summed entropy of the routing weights, in nats.
        selection_entropy: ``(..., U)`` summed log of the number of modules a sample chose.
        label: ``(U,)`` rule of the unit.
        cluster: ``(U,)`` which units are of one document, from 0: these are dependent.
        stratum: ``(U,)`` labels may be exchanged between units of one stratum: one for all where
            a document has one label; else the document, and stretches of like length in it.
        documents: ``(U,)`` how many documents (stretches) share the unit.
        copies: ``(U,)`` how many times the documents stood in the data, 1 when never repeated.
        key: ``(U,)`` digest of the content: units stand in the order of label and key, so that
            the order of files shows nowhere.
        rules: number of rules R.

    >>> units = document_units(torch.tensor([[3.0, 1.0], [0.0, 4.0]]), torch.tensor([0, 1]))
    >>> units.joint().tolist()
    [[0.375, 0.125], [0.0, 0.5]]
    """

    mass: Float64[Tensor, "*batch units modules"]
    selections: Float64[Tensor, "*batch units modules"]
    samples: Float64[Tensor, "*batch units"]
    entropy: Float64[Tensor, "*batch units"]
    selection_entropy: Float64[Tensor, "*batch units"]
    label: Int64[Tensor, "units"]
    cluster: Int64[Tensor, "units"]
    stratum: Int64[Tensor, "units"]
    documents: Int64[Tensor, "units"]
    copies: Int64[Tensor, "units"]
    key: Int64[Tensor, "units"]
    rules: int

    def __len__(self) -> int:
        return len(self.label)

    @property
    def mixed(self) -> bool:
        """Return whether labels change within a document."""
        return len(self.cluster.unique()) < len(self)

    @property
    def repeated(self) -> int:
        """Return how many copies of documents were found, which count as one with the first."""
        return int((self.copies - self.documents).sum())

    @property
    def grouped(self) -> int:
        """Return how many documents share a unit with others: copies among them do not show."""
        alone = self.cluster.bincount()[self.cluster] == 1  # else stretches of one document
        return int(self.documents[(self.documents > 1) & alone].sum())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {name: getattr(self, name) for name in (*BY_UNIT, *ABOUT_UNIT)}

    def table(self, view: View = "weight") -> Float64[Tensor, "*batch units modules"]:
        """Return what was routed, in the view."""
        return self.mass if view == "weight" else self.selections

    def joint(
        self, prior: Prior = "uniform", *, view: View = "weight"
    ) -> Float64[Tensor, "*batch rules modules"]:
        """Return the joint distribution of rule and module, as :meth:`RoutingCounts.joint`."""
        return self.counts().joint(prior, view=view)

    def counts(self, coactivation: Tensor | None = None) -> RoutingCounts:
        """Return the counts of all units in one block, copies counted once.

        Args:
            coactivation: ``(..., M, M)``, which units do not keep; else NaN, unknown.
        """
        member = torch.nn.functional.one_hot(self.label, self.rules).double().T  # (R, U)

        def pooled(part: Tensor) -> Tensor:
            if part.dim() > self.samples.dim():
                return (member @ part).unsqueeze(-3)
            return (part @ member.T).unsqueeze(-2)

        modules = self.mass.shape[-1]
        unknown = self.mass.new_full((*self.mass.shape[:-2], modules, modules), torch.nan)
        return RoutingCounts(
            **{name: pooled(getattr(self, name)) for name in BY_UNIT},
            coactivation=unknown if coactivation is None else coactivation,
        )

    def layers(self, places: Sequence[int]) -> "Units":
        """Return some members of the first batch axis."""
        index = torch.as_tensor(places, dtype=torch.int64)
        return replace(self, **{name: getattr(self, name)[index] for name in BY_UNIT})

    def of_rules(self, rules: Sequence[int]) -> "Units":
        """Return the units of some rules, which are numbered anew in the order given."""
        number = torch.full((self.rules,), -1, dtype=torch.int64)
        number[torch.as_tensor(rules, dtype=torch.int64)] = torch.arange(len(rules))
        kept = take_units(self, (number[self.label] >= 0).nonzero()[:, 0])
        return replace(kept, label=number[kept.label], rules=len(rules))


def document_units(
    mass: Float[Tensor, "*batch units modules"],
    label: Int64[Tensor, "units"],
    *,
    rules: int | None = None,
    selections: Tensor | None = None,
    samples: Tensor | None = None,
) -> Units:
    """Return units of whole documents, each of one label, from what was routed of each.

    Args:
        mass: ``(..., U, M)`` summed routing weight of each document.
        label: ``(U,)`` its rule.
        rules: number of rules; one more than the largest label when absent.
        selections: ``(..., U, M)``; as the mass when absent.
        samples: ``(..., U)``; the summed mass when absent.
    """
    mass = mass.double()
    size = mass.sum(-1) if samples is None else samples.double()
    own = torch.arange(len(label))
    return Units(
        mass=mass,
        selections=mass if selections is None else selections.double(),
        samples=size,
        entropy=torch.full_like(size, torch.nan),
        selection_entropy=torch.full_like(size, torch.nan),
        label=label,
        cluster=own,
        stratum=torch.zeros_like(own),
        documents=torch.ones_like(own),
        copies=torch.ones_like(own),
        key=own,
        rules=int(label.max()) + 1 if rules is None else rules,
    )


def take_units(units: Units, index: Int64[Tensor, "kept"]) -> Units:
    """Return some units, in the order given; clusters and strata are numbered anew from 0."""
    taken: dict[str, Any] = {
        name: part[..., index, :] if name in WIDE else part[..., index]
        for name, part in units.tensors().items()
    }
    taken["cluster"] = _in_order(taken["cluster"])
    taken["stratum"] = _in_order(taken["stratum"])
    return replace(units, **taken)


def _in_order(number: Int64[Tensor, "units"]) -> Int64[Tensor, "units"]:
    """Number groups from 0 in the order in which they first appear."""
    if not len(number):
        return number
    _, group = number.unique(return_inverse=True)
    count = int(group.max()) + 1
    first = torch.full((count,), len(number)).scatter_reduce_(
        0, group, torch.arange(len(number)), "amin"
    )
    return first.argsort().argsort()[group]


def sum_units(units: Units, group: Int64[Tensor, "units"], stratum: Tensor) -> Units:
    """Return units that share a number as one; units of a group have one label.

    Args:
        units: what is pooled.
        group: ``(U,)`` numbers from 0, each of them taken.
        stratum: ``(G,)`` stratum of each group.
    """
    count = int(group.max()) + 1 if len(group) else 0

    def summed(name: str, part: Tensor) -> Tensor:
        axis = part.dim() - 2 if name in WIDE else part.dim() - 1
        shape = [*part.shape]
        shape[axis] = count
        return part.new_zeros(shape).index_add_(axis, group, part)

    first = torch.full((count,), len(group), dtype=torch.int64)
    first.scatter_reduce_(0, group, torch.arange(len(group)), "amin")
    pooled: dict[str, Any] = {name: summed(name, getattr(units, name)) for name in BY_UNIT}
    pooled |= {name: summed(name, getattr(units, name)) for name in ("documents", "copies", "key")}
    pooled |= {"label": units.label[first], "stratum": stratum}
    pooled["cluster"] = _in_order(units.cluster[first])
    return replace(units, **pooled)


def coarser(units: Units, most: int) -> Units:
    """Return at most about ``most`` units, by pooling as many documents of one label into each.

    Labels of groups of equally many documents may be exchanged as those of documents may. What is
    left over of a label, fewer documents than a group, stays as single documents, which exchange
    labels among themselves. Which documents share a unit follows from their contents alone.
    Units that are stretches within documents are left as they are.
    """
    if len(units) <= most or units.mixed or bool((units.stratum != units.stratum[0]).any()):
        return units
    together = -(-len(units) // most)
    order = torch.argsort(units.key, stable=True)
    order = order[torch.argsort(units.label[order], stable=True)]
    label = units.label[order]
    start = torch.searchsorted(label, label)
    place = torch.arange(len(label)) - start
    whole = torch.bincount(label, minlength=units.rules)[label] // together * together
    single = place >= whole
    number = torch.where(single, place, place // together)
    code = (label * 2 + single) * (len(label) + 1) + number
    _, group = code.unique(return_inverse=True)
    stratum = torch.zeros(int(group.max()) + 1, dtype=torch.int64)
    stratum[group[single]] = 1
    return sum_units(take_units(units, order), group, stratum)


def merge_units(first: Units, second: Units) -> Units:
    """Return the units of two sources of one model; a document that is in both counts once.

    Raises:
        TraceError: layers, modules or rules differ.
    """
    if first.mass.shape[:-2] != second.mass.shape[:-2] or (
        first.mass.shape[-1],
        first.rules,
    ) != (second.mass.shape[-1], second.rules):
        raise TraceError(
            "Documents of sources with other layers, modules or labels do not add up. Fold both "
            "with the same header."
        )
    shift = {
        "cluster": int(first.cluster.max()) + 1 if len(first) else 0,
        "stratum": int(first.stratum.max()) + 1 if first.mixed or second.mixed else 0,
    }
    joined: dict[str, Any] = {
        name: torch.cat(
            [part, getattr(second, name) + shift.get(name, 0)],
            dim=part.dim() - 2 if name in WIDE else part.dim() - 1,
        )
        for name, part in first.tensors().items()
    }
    if not (first.mixed or second.mixed):  # labels are exchanged where equally many share a unit
        joined["stratum"] = joined["documents"].unique(return_inverse=True)[1].reshape(-1)
    return unique_units(replace(first, **joined))


def unique_units(units: Units) -> Units:
    """Return the units in order of label and key, those of one content as one, counted once.

    What was routed of copies is averaged, to the same bits if it is the same. Contents that are
    too short to tell have negative keys and are never taken for copies. A unit holds one document
    here: pool after, not before.
    """
    ordered = take_units(units, _in_canonical_order(units))
    telling = ordered.key >= 0
    same = torch.zeros(len(ordered), dtype=torch.bool)
    same[1:] = telling[1:] & (ordered.key.diff() == 0) & (ordered.label.diff() == 0)
    if not bool(same.any()):
        return ordered
    group = (~same).cumsum(0) - 1
    first = (~same).nonzero()[:, 0]
    pooled = sum_units(ordered, group, ordered.stratum[first])
    averaged: dict[str, Any] = {name: _averaged(ordered, name, group, first) for name in BY_UNIT}
    documents, key = ordered.documents[first], ordered.key[first]
    return replace(pooled, **averaged, documents=documents, key=key)


def _averaged(units: Units, name: str, group: Tensor, first: Tensor) -> Tensor:
    """Return the mean of the copies of each document: where they are the same, what they hold."""
    part: Tensor = getattr(units, name)
    axis = part.dim() - (2 if name in WIDE else 1)
    times = units.copies.double()[:, None] if name in WIDE else units.copies.double()
    one = part.index_select(axis, first)
    apart = (part - one.index_select(axis, group)) * times
    total = torch.zeros_like(one).index_add_(axis, group, apart)
    count = torch.bincount(group, units.copies.double())
    return one + total / (count[:, None] if name in WIDE else count)


def _in_canonical_order(units: Units) -> Tensor:
    """Return the order of label and key; where both are the same, of the bits of what was routed.

    So that nothing of the order of files, or of the shards that they were in, is left.
    """

    def by_key(order: Tensor) -> Tensor:
        order = order[torch.argsort(units.key[order], stable=True)]
        return order[torch.argsort(units.label[order], stable=True)]

    order = by_key(torch.arange(len(units)))
    key, label = units.key[order], units.label[order]
    if not bool(((key.diff() == 0) & (label.diff() == 0)).any()):
        return order
    rows = units.mass.movedim(-2, 0).flatten(1).contiguous().view(torch.int64)
    odd = torch.arange(rows.shape[1]) * 0x1E3779B97F4A7C16 + 1
    return by_key(torch.argsort((rows * odd).sum(1), stable=True))
