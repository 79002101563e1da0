"""How sure is a number that comes from one set of documents, and how much of it is bias?

Plug-in information, matching and most load metrics are biased by the noise of few documents. The
jackknife leaves out one document after another: what that changes in the mean tells the bias, and
how differently it changes tells the error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64
from scipy.special import stdtrit
from torch import Tensor

from modeval.counting.units import BY_UNIT, WIDE, Units, coarser
from modeval.score.inference.estimate import LEVEL, Estimate
from modeval.score.inference.resampling import side_by_side
from modeval.types import RoutingCounts, View

MOST_GROUPS = 512
"""Documents, or groups of them, that are left out one after another."""
LEAST_DOCUMENTS = 5
"""Effective documents of the rarest label below which no interval keeps its promise."""
SAMPLES_PER_CELL = 50


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """A metric without each document.

    Attributes:
        value: ``(...)`` of all documents.
        left: ``(C, ...)`` without document c.
        stratum: ``(C,)`` label of the document; 0 for all when labels change within documents.
        worth: ``(H,)`` effective number of documents of each stratum, see
            :func:`effective_documents`.
    """

    value: Float64[Tensor, "*batch"]
    left: Float64[Tensor, "clusters *batch"]
    stratum: Int64[Tensor, "clusters"]
    worth: Float64[Tensor, "strata"]

    def over(self, reduce: Callable[[Tensor], Tensor]) -> "LeaveOneOut":
        """Return what a function of the batch, such as its mean, would have been."""
        return replace(self, value=reduce(self.value), left=reduce(self.left))


def leave_one_out(
    units: Units,
    function: Callable[[RoutingCounts], Mapping[str, Tensor]],
    *,
    view: View = "weight",
    most: int = MOST_GROUPS,
) -> dict[str, LeaveOneOut]:
    """Measure metrics without each document (or group of them, above ``most``).

    Args:
        units: documents, batch ``(...)``.
        function: gives metrics by name, ``(C, ...)``, from counts of batch ``(C, ...)``;
            :func:`modeval.metrics.measure` is one.
        view: what ``function`` reads; the table of the other view is left empty.
        most: documents left out one after another, at most; beyond, groups of equally many are.
    """
    coarse = coarser(units, most)
    whole = coarse.counts()
    stratum, clusters = _strata(coarse)
    batch = whole.mass[..., 0, :, :]

    def without(part: slice) -> Mapping[str, Tensor]:
        return function(_without(coarse, whole, clusters[part], view))

    found = side_by_side(without, len(clusters), batch)
    value = function(whole)
    worth = effective_documents(coarse)
    return {
        name: LeaveOneOut(value[name], torch.cat([part[name] for part in found]), stratum, worth)
        for name in found[0]
    }


def _strata(units: Units) -> tuple[Tensor, list[Tensor]]:
    """Return the stratum and the units of each cluster."""
    if not units.mixed:
        return units.label, list(torch.arange(len(units)).split(1))
    members = [(units.cluster == c).nonzero()[:, 0] for c in range(int(units.cluster.max()) + 1)]
    return torch.zeros(len(members), dtype=torch.int64), members


def _without(
    units: Units, whole: RoutingCounts, clusters: list[Tensor], view: View
) -> RoutingCounts:
    """Return the counts without each of some clusters, batch ``(C, ...)``."""
    read = "mass" if view == "weight" else "selections"
    index = torch.cat(clusters)
    row = torch.repeat_interleave(
        torch.arange(len(clusters)), torch.tensor([len(members) for members in clusters])
    )
    parts = {}
    for name in BY_UNIT:
        total = getattr(whole, name)
        if name in WIDE and name != read:
            parts[name] = total.new_zeros(()).expand(len(clusters), *total.shape)
            continue
        axis = -2 if name in WIDE else -1
        rest = (
            total.squeeze(-3 if name in WIDE else -2)
            .expand(len(clusters), *[-1] * (total.dim() - 1))
            .clone()
        )
        taken = getattr(units, name).index_select(getattr(units, name).dim() + axis, index)
        taken = taken.movedim(axis, 0)  # (I, ..., M) or (I, ...)
        rule = units.label[index]
        view_of = rest.movedim(-2 if name in WIDE else -1, 1)  # (C, R, ...)
        view_of.index_put_((row, rule), -taken, accumulate=True)
        parts[name] = rest.clamp_(min=0).unsqueeze(-3 if name in WIDE else -2)
    pairs = whole.coactivation
    return RoutingCounts(**parts, coactivation=pairs.expand(len(clusters), *pairs.shape))


def estimate(found: LeaveOneOut, bounds: tuple[float, float], *, level: float = LEVEL) -> Estimate:
    """Return the metric of one layer (or of several, reduced to one), corrected, with interval.

    The bias is that of the jackknife over documents, stratified by label:
    ``sum_h (n_h - 1) (mean over c in h of t_c - t)``; the error likewise,
    ``sqrt(sum_h (n_h - 1) / n_h sum_c (t_c - mean)^2)``. The interval is Student's t about the
    corrected value with the degrees of freedom of Welch and Satterthwaite over labels, a label
    counting as many documents as it has effective ones, and is cut at the bounds of the metric.

    Args:
        found: values ``()`` and ``(C,)``.
        bounds: least and largest value that the metric can have.
        level: promised coverage.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 10 and 11;
    Arvesen 1969 for strata.
    """
    plugin = float(found.value)
    least, most = bounds
    labels = found.stratum.unique()
    sizes = torch.stack([(found.stratum == label).sum() for label in labels]).double()
    if int(sizes.min()) < 2:  # noqa: PLR2004 - one document has no spread
        return Estimate(value=plugin, plugin=plugin, reason=TOO_FEW)
    means, spreads = [], []
    for label, size in zip(labels, sizes.tolist(), strict=True):
        own = found.left[found.stratum == label]
        means.append((size - 1) * (own.mean() - found.value))
        spreads.append((size - 1) / size * (own - own.mean()).square().sum())
    bias = float(torch.stack(means).sum())
    parts = torch.stack(spreads)
    variance = float(parts.sum())
    corrected = min(max(plugin - bias, least), most)
    known = Estimate(value=corrected, plugin=plugin, corrected=corrected, level=level)
    worth = found.worth[labels]
    if float(worth.min()) < LEAST_DOCUMENTS:
        return replace(known, reason=TOO_FEW)
    if not variance > 0:
        return replace(known, reason="it is the same without any one of the documents")
    error = variance**0.5
    freedom = float(parts.sum().square() / (parts.square() / (worth - 1)).sum())
    reach = error * float(stdtrit(freedom, (1 + level) / 2))
    centre = plugin - bias
    return replace(
        known,
        low=min(corrected, max(centre - reach, least)),
        high=max(corrected, min(centre + reach, most)),
        error=error,
        freedom=freedom,
    )


TOO_FEW = (
    "too few documents of some label tell how others would differ: record more documents of each"
)


def effective_documents(units: Units) -> Float64[Tensor, "strata"]:
    """Return how many equal documents the documents of each label are worth, all layers the least.

    ``(sum w)^2 / sum w^2``, w the samples of each document: one giant document counts as one.
    Where labels change within documents there is one stratum, of whole documents.

    Source: Kish 1965, Survey Sampling, section 11.7.
    """
    stratum = torch.zeros_like(units.label) if units.mixed else units.label
    size = units.samples.reshape(-1, len(units))
    clusters = int(units.cluster.max()) + 1
    document = size.new_zeros(len(size), clusters).index_add_(1, units.cluster, size)
    label = stratum.new_zeros(clusters).scatter_(0, units.cluster, stratum)
    member = torch.nn.functional.one_hot(label, int(label.max()) + 1).double()
    total, squares = document @ member, document.square() @ member
    return (total.square() / squares.clamp(min=1)).amin(0)
