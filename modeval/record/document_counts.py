"""What was routed of each document, added up on the device beside the counts.

Documents are numbered by the recording, so a table with a row for each is enough. Nothing is
fetched from the device while the model runs: whether a number was too large, or a document had two
labels, is found out when the counts are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from modeval.counting.units import BY_UNIT, LIMIT, Units, unique_units
from modeval.record.device_counts import Tally, add_choices

MOST = 4096
"""Documents that are kept apart at most; of more, a trace on disk keeps what it can."""
NO_LABEL = 1 << 30


@dataclass(frozen=True, slots=True)
class DocumentTally:
    """Running tables of documents, for layers with the same number of modules, on one device.

    Attributes:
        tables: of the documents, in place of cells.
        lowest: ``(D + 1,)`` the lowest label of each document; likewise ``highest``.
        outside: ``()`` labelled rows of documents that have no row here.
    """

    tables: Tally
    lowest: Int64[Tensor, " rows"]
    highest: Int64[Tensor, " rows"]
    outside: Float64[Tensor, ""]

    @classmethod
    def zeros(
        cls, layers: tuple[int, ...], modules: int, width: int, device: torch.device
    ) -> "DocumentTally":
        """Return tables of nothing; ``width`` is the number of modules of all layers."""
        documents = min(MOST, max(LIMIT // max(width, 1), 1))
        return cls(
            tables=Tally.zeros(layers, documents, modules, device),
            lowest=torch.full((documents + 1,), NO_LABEL, device=device),
            highest=torch.full((documents + 1,), -1, device=device),
            outside=torch.zeros((), dtype=torch.float64, device=device),
        )

    def add(
        self,
        layers: list[int],
        *,
        document: Int64[Tensor, " rows"],
        label: Int64[Tensor, " rows"],
        counted: Tensor,
        chosen: Tensor,
        weight: Tensor | None,
    ) -> None:
        """Add the choices of some layers for the same rows."""
        documents = len(self.lowest) - 1
        there = counted & (document >= 0) & (document < documents)
        slot = torch.where(there, document, documents)
        self.outside.add_((counted & ~there).sum())
        self.lowest.scatter_reduce_(0, slot, label, "amin")
        self.highest.scatter_reduce_(0, slot, label, "amax")
        add_choices(self.tables, layers, slot, chosen, weight, pairs=False)


def units_of(groups: Sequence[Sequence[DocumentTally]], rules: int) -> list[Units] | None:
    """Return the documents of each group of layers, in one order for all.

    Args:
        groups: tables of each group: of one phase and device each.
        rules: number of rules.

    Returns:
        Nothing where some row was of an unknown document, of one more than there is room for, or
        where a document has several labels: a trace on disk can tell these.
    """
    every = [tally for group in groups for tally in group]
    if not every or any(float(tally.outside) for tally in every):
        return None
    lowest = torch.stack([tally.lowest[:-1].cpu() for tally in every]).amin(0)
    highest = torch.stack([tally.highest[:-1].cpu() for tally in every]).amax(0)
    there = (highest >= 0).nonzero()[:, 0]
    if not len(there) or bool((lowest[there] != highest[there]).any()):
        return None
    tables = [_summed(group, there) for group in groups if group]
    digest = torch.stack([_digest(parts["selections"]) for parts in tables]).sum(0)
    key = -1 - (digest & ((1 << 62) - 1))  # too little to tell copies by: below 0
    own = torch.arange(len(there))
    return [
        unique_units(
            Units(
                **parts,
                label=lowest[there],
                cluster=own,
                stratum=torch.zeros_like(own),
                documents=torch.ones_like(own),
                copies=torch.ones_like(own),
                key=key,
                rules=rules,
            )
        )
        for parts in tables
    ]


def _summed(tallies: Sequence[DocumentTally], there: Tensor) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for tally in tallies:
        for name in BY_UNIT:
            part = getattr(tally.tables, name)[:, :-1].cpu()[:, there]
            part = part[..., 1:] if part.dim() > 2 else part  # noqa: PLR2004 - column 0 is none
            total[name] = total[name] + part if name in total else part.clone()
    return total


def _digest(table: Float64[Tensor, "layers documents modules"]) -> Int64[Tensor, " documents"]:
    """Return a number that follows from what was routed of each document: an order of its own."""
    size = table.shape[0] * table.shape[2]
    odd = torch.arange(1, size + 1) * 0x9E3779B97F4A7C1 | 1
    flat = table.movedim(1, 0).flatten(1).long()
    return (flat * odd).sum(-1)
