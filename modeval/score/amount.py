"""How many samples are behind a score, and how many independent ones they are worth."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from modeval.counting.units import Units
from modeval.score.routing import LayerStack, Routing
from modeval.types import View

SAMPLES_PER_CELL = 50
"""Independent samples for each rule and module below which chance moves a score noticeably."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Samples of each seed and layer.

    Attributes:
        samples: ``(S, L)``; NaN where unknown.
        worth: ``(S, L)`` independent samples that would be as telling; NaN where unknown.
        wanted: ``(L,)`` independent samples below which chance moves a score noticeably.
    """

    samples: Float64[Tensor, "seeds layers"]
    worth: Float64[Tensor, "seeds layers"]
    wanted: Float64[Tensor, "layers"]

    @property
    def few(self) -> Bool[Tensor, "seeds layers"]:
        """Return where there are too few; of what is unknown nothing is said."""
        return self.worth < self.wanted


def amount_of(routing: Routing) -> Amount:
    """Return the samples of some routing, and what they are worth."""
    modules = torch.tensor(routing.modules, dtype=torch.float64)
    return Amount(
        samples=routing.samples,
        worth=routing.across(_worth(routing, group) for group in routing.groups),
        wanted=SAMPLES_PER_CELL * routing.rules * modules,
    )


def _worth(routing: Routing, group: LayerStack) -> Float64[Tensor, "seeds layers"]:
    if routing.evidence == "documents" and group.units is not None:
        return independent_samples(group.units, routing.view)
    if routing.evidence == "samples":
        return _of_blocks(group, routing.view)
    return torch.full_like(group.counts.samples.sum((-2, -1)), torch.nan)


def _of_blocks(group: LayerStack, view: View) -> Float64[Tensor, "seeds layers"]:
    """Return what samples drawn anew are worth, by how much A differs between blocks of them.

    ``N / D``, D the design effect: how much more A varies than it would if each sample chose one
    module. Soft weights vary less: where they follow from the rule alone, any sample tells all.
    """
    table, size = group.table(view), group.counts.samples.unsqueeze(-1)
    whole = size.sum(-3, keepdim=True).clamp(min=1)
    mean = table.sum(-3, keepdim=True) / whole
    between = (size * (table / size.clamp(min=1) - mean).square()).sum((-3, -2, -1))
    freedom = ((size > 0).sum(-3, keepdim=True) - 1).clamp(min=0)
    expected = (freedom * mean * (1 - mean).clamp(min=0)).sum((-3, -2, -1))
    samples = size.sum((-3, -2, -1))
    effect = between / expected.clamp(min=torch.finfo(expected.dtype).tiny)
    return torch.where(freedom.sum((-3, -2, -1)) > 0, samples / effect.clamp(min=1e-12), samples)


def independent_samples(units: Units, view: View = "weight") -> Float64[Tensor, "*batch"]:
    """How many independent samples would be as telling as the tokens of these documents?

    ``R min_r n_r / (rho + (1 - rho) n_r / N_r)`` with N_r the samples of rule r, n_r the equal
    documents that its documents are worth, ``(sum w)^2 / sum w^2`` of their sizes w, and rho the
    intraclass correlation: the share of the variance of choices that lies between documents of
    one rule. A giant document is one document, and the rule with least decides.

    Args:
        units: documents, batch ``(...)``.
        view: what counts as routing.

    Returns:
        ``(...)`` samples: all of them when documents are alike, about one for each document when
        all tokens of a document go the same way.

    Source: Kish 1965, Survey Sampling, sections 5.4 and 11.7.

    >>> from modeval.counting.units import document_units
    >>> table = torch.tensor([[10.0, 0], [0, 10], [10, 0], [0, 10]])  # all or nothing
    >>> independent_samples(document_units(table, torch.tensor([0, 0, 1, 1]))).item()
    4.0
    """
    member = torch.nn.functional.one_hot(units.label, units.rules).double()  # (U, R)
    size = units.samples
    total = size @ member
    worth = total.square() / (size.square() @ member).clamp(min=1)
    rho = _between(units, view, member).unsqueeze(-1)
    each = worth / (rho + (1 - rho) * worth / total.clamp(min=1))
    return each.amin(-1) * units.rules


def _between(units: Units, view: View, member: Tensor) -> Tensor:
    """Return the intraclass correlation ``(...)`` of the choices, each document weighing alike."""
    table = units.table(view)
    there = units.samples > 0
    share = table / table.sum(-1, keepdim=True).clamp(min=torch.finfo(table.dtype).tiny)
    share = share * there.unsqueeze(-1)
    documents = there.double() @ member  # (..., R)
    mean = (member.T @ share) / documents.clamp(min=1).unsqueeze(-1)
    residual = (share - mean[..., units.label, :]) * there.unsqueeze(-1)
    freedom = (documents - 1).clamp(min=0).sum(-1)
    between = residual.square().sum((-2, -1)) / freedom.clamp(min=1)
    weight = documents / documents.sum(-1, keepdim=True).clamp(min=1)
    whole = ((mean * (1 - mean)).sum(-1) * weight).sum(-1)
    single = (there / units.samples.clamp(min=1)).sum(-1) / there.sum(-1).clamp(min=1)
    room = whole * (1 - single)
    found = (between - whole * single) / room.clamp(min=torch.finfo(room.dtype).tiny)
    return torch.where((room > 0) & (freedom > 0), found, torch.zeros_like(found)).clamp(0, 1)
