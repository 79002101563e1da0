"""Which module is for which label? Each pair by itself: a specialist drowns in a pooled number.

One label that is told apart by one module leaves nearly all of the pooled information at zero when
labels and modules are many. Its lift, A[r, m] over the mean of the other labels, shows it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from modeval.counting.units import Units, coarser
from modeval.score.inference.documents import LEAST_DOCUMENTS, effective_documents
from modeval.score.inference.multiple import false_discovery
from modeval.types import View

LEVEL = 0.95
TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifts:
    """How much more often each module gets a label than the other labels do.

    Attributes:
        share: ``(..., R, M)`` A: share of the label that the module gets.
        lift: ``(..., R, M)`` that share over the mean share of the other labels; infinite never:
            where the others never go, the share over 1 / (samples of the others).
        low: ``(..., R, M)`` lower 95 % bound of the lift; NaN never: 0 where there is none.
        p_value: ``(..., R, M)`` that the lift is 1 or less, corrected so that of all pairs of a
            layer that are named at a level at most that share is wrong; 1 where untested.
        tested: whether documents tell the error.
        reason: why not, in words.
    """

    share: Float64[Tensor, "*batch rules modules"]
    lift: Float64[Tensor, "*batch rules modules"]
    low: Float64[Tensor, "*batch rules modules"]
    p_value: Float64[Tensor, "*batch rules modules"]
    tested: bool
    reason: str = ""

    def named(
        self, level: float = 0.05, least: float = 2.0
    ) -> Bool[Tensor, "*batch rules modules"]:
        """Tell which modules are for a label: proven, and at least so many times as often."""
        return (self.p_value <= level) & (self.lift >= least)


def lifts_of_counts(
    share: Float64[Tensor, "*batch rules modules"], samples: Float64[Tensor, "*batch rules"]
) -> Lifts:
    """Return lifts where nothing is known of documents: told, but untested.

    Args:
        share: A.
        samples: samples of each label.

    >>> share = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    >>> found = lifts_of_counts(share, torch.tensor([100.0, 100.0], dtype=torch.float64))
    >>> round(found.lift[0, 0].item(), 6), found.tested
    (9.0, False)
    """
    lift = share / _others(share).clamp(min=TINY)
    floor = 1 / (samples.sum(-1, keepdim=True) - samples).clamp(min=1).unsqueeze(-1)
    lift = share / torch.maximum(_others(share), floor.expand_as(share))
    return Lifts(
        share=share,
        lift=lift,
        low=torch.zeros_like(lift),
        p_value=torch.ones_like(lift),
        tested=False,
        reason="nothing is known of single documents, so lifts are untested",
    )


def lifts(units: Units, *, view: View = "weight", level: float = LEVEL, most: int = 2048) -> Lifts:
    """Return how much more often each module gets a label than other labels do, and how surely.

    The logarithm of the lift is tested with the error that documents tell: each A[r, m] is a ratio
    of sums over the documents of r (Cochran 1977, section 6.4), labels are independent, and
    degrees of freedom are those of Welch and Satterthwaite over labels, each counting its
    effective documents. P values are corrected for all pairs of a layer (Benjamini & Hochberg).

    Args:
        units: documents.
        view: routing weights, or each of K chosen modules as 1/K.
        level: of the lower bound.
        most: documents at most; beyond, groups of equally many.
    """
    units = coarser(units, most)
    table = units.table(view)
    member = torch.nn.functional.one_hot(units.label, units.rules).double()
    size = table.sum(-1)
    total = size @ member  # (..., R)
    share = (member.T @ table) / total.unsqueeze(-1).clamp(min=TINY)
    plain = lifts_of_counts(share, units.samples @ member)
    worth = effective_documents(units)
    if units.mixed or float(worth.min()) < LEAST_DOCUMENTS:
        reason = "too few documents of some label: record more of each"
        if units.mixed:
            reason = "labels change within documents, so labels are not independent"
        return Lifts(
            share=share,
            lift=plain.lift,
            low=plain.low,
            p_value=plain.p_value,
            tested=False,
            reason=reason,
        )
    residual = table - size.unsqueeze(-1) * share[..., units.label, :]
    number = member.sum(0)
    variance = (member.T @ residual.square()) / total.square().unsqueeze(-1)
    variance = variance * (number / (number - 1))[:, None]
    others = _others(share)
    rules = units.rules
    variance_others = (variance.sum(-2, keepdim=True) - variance) / (rules - 1) ** 2
    # in logarithms, with half a sample more where a share is zero
    floor = 0.5 / total.unsqueeze(-1).clamp(min=1)
    one, two = torch.maximum(share, floor), torch.maximum(others, floor.amin(-2, keepdim=True))
    parts = variance / one.square(), variance_others / two.square()
    error = (parts[0] + parts[1]).sqrt()
    freedom = (worth - 1).clamp(min=1)[:, None].expand_as(share)
    gain = (one / two).log()
    score = torch.where(error > 0, gain / error.clamp(min=TINY), torch.zeros_like(gain))
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415 - slow to load

    raw = torch.from_numpy(stdtr(freedom.numpy(), -score.numpy()))
    reach = torch.from_numpy(stdtrit(freedom.numpy(), level))
    flat = false_discovery(raw.flatten(-2)).unflatten(-1, raw.shape[-2:])
    return Lifts(
        share=share,
        lift=plain.lift,
        low=torch.where(error > 0, (gain - reach * error).exp(), torch.zeros_like(gain)),
        p_value=torch.where(error > 0, flat, torch.ones_like(flat)),
        tested=True,
    )


def _others(share: Tensor) -> Tensor:
    """Return the mean share that the other labels give each module."""
    rules = share.shape[-2]
    return (share.sum(-2, keepdim=True) - share).clamp(min=0) / max(rules - 1, 1)
