"""How sure is a number that comes from one set of documents, and how much of it is bias?

Plug-in information, matching and most load metrics are biased by the noise of few documents. The
jackknife leaves out one document after another: what that changes in the mean tells the bias, and
how differently it changes tells the error.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from modeval.counting.units import BY_UNIT, WIDE, Units, coarser
from modeval.score.inference import student
from modeval.score.inference.draws import side_by_side
from modeval.score.inference.estimate import LEVEL, Estimate
from modeval.score.inference.picked import cross_fitted, dead_ends
from modeval.types import Prior, RoutingCounts, View

MOST_GROUPS = 512
"""Documents, or groups of them, that are left out one after another."""
LEAST_DOCUMENTS = 2.5
"""Equal documents that those of the rarest label must be worth: below, no interval keeps its
promise. With 15 documents of lognormal lengths (sigma 1.5) they mostly are."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done about the bias of a kind of metric: chosen by simulation.

    Attributes:
        slow: how much larger the bias is than the jackknife sees it, ``1 + slow / n`` with n
            effective documents: what it leaves is of the order ``1 / n^2``.
        doubt: share of the correction that is added to the error, squared: the correction is
            itself uncertain.
        from_top: whether the lower end lies at so many errors in the logarithm of the distance from
            the largest value: that distance is the share of one rare module, which is skewed.
        brackets: whether, of a metric that picks, the truth lies between its two values for sure.
        uneven: power of ``n / (n - 1)`` by which the squared error grows, n effective documents:
            where few long documents make most of a value, what is left around it looks too small.
            Of a metric that picks the two values between which the truth lies do this already.
    """

    slow: float = 0.0
    doubt: float = 0.6
    from_top: bool = False
    brackets: bool = True
    uneven: float = 1.0


INFORMATION = Correction(slow=3.0, doubt=0.2, uneven=2.0)
KINKED = Correction(doubt=1.0, brackets=False)
SMOOTH = Correction()
RARE = Correction(from_top=True, uneven=3.0)
OF_INFORMATION = frozenset(
    {
        "mutual_information",
        "inverse_mutual_information",
        "homogeneity",
        "completeness",
        "v_measure",
        "rule_specialization",
        "input_distraction",
    }
)
OF_KINKS = frozenset({"collapse_avg", "adaptation_distance", "matched_adaptation_distance"})


def correction_of(name: str) -> Correction:
    """Return what is done about the bias of a metric."""
    if name in OF_INFORMATION:
        return INFORMATION
    if name == "collapse_worst":
        return RARE
    return KINKED if name in OF_KINKS else SMOOTH


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """A metric without each document.

    Attributes:
        value: ``(...)`` of all documents.
        left: ``(C, ...)`` without document c.
        stratum: ``(C,)`` label of the document; 0 for all when labels change within documents.
        worth: ``(H,)`` effective number of documents of each stratum, see
            :func:`effective_documents`.
        correction: what is done about its bias.
        floor: ``(...)`` for a metric that picks (a matching, the busiest module): what it is when
            others pick, see :func:`modeval.score.inference.picked.cross_fitted`. The truth lies
            between this and the value. Of dead modules: the share of those that surely are.
        ceiling: ``(...)`` of dead modules: the share of those that may be.
    """

    value: Float64[Tensor, "*batch"]
    left: Float64[Tensor, "clusters *batch"]
    stratum: Int64[Tensor, "clusters"]
    worth: Float64[Tensor, "strata"]
    correction: Correction = SMOOTH
    floor: Float64[Tensor, "*batch"] | None = None
    ceiling: Float64[Tensor, "*batch"] | None = None

    def over(self, reduce: Callable[[Tensor], Tensor]) -> "LeaveOneOut":
        """Return what a function of the batch, such as its mean, would have been."""
        return replace(
            self,
            value=reduce(self.value),
            left=reduce(self.left),
            floor=None if self.floor is None else reduce(self.floor),
            ceiling=None if self.ceiling is None else reduce(self.ceiling),
        )


def leave_one_out(
    units: Units,
    function: Callable[[RoutingCounts], Mapping[str, Tensor]],
    *,
    prior: Prior = "uniform",
    view: View = "weight",
    most: int = MOST_GROUPS,
) -> dict[str, LeaveOneOut]:
    """Measure metrics without each document (or group of them, above ``most``).

    Args:
        units: documents, batch ``(...)``.
        function: gives metrics by name, ``(C, ...)``, from counts of batch ``(C, ...)``;
            :func:`modeval.metrics.measure` is one.
        prior: weight of the rules in ``function``.
        view: what ``function`` reads; the table of the other view is left empty.
        most: documents left out one after another, at most; beyond, groups of equally many are.
    """
    coarse = coarser(units, most)
    whole = coarse.counts()
    stratum, clusters = _strata(coarse)
    batch = whole.mass[..., 0, :, :]

    def without(part: slice) -> Mapping[str, Tensor]:
        return function(_without(coarse, whole, clusters[part], view))

    found = side_by_side(without, len(clusters), batch, what="leaving documents out in parts")
    value = function(whole)
    worth = effective_documents(coarse)
    between = cross_fitted(coarse, [*value], prior=prior, view=view)
    ceilings: dict[str, Tensor] = {}
    if DEAD in value:
        between[DEAD], ceilings[DEAD] = dead_ends(coarse, prior=prior, view=view)
    return {
        name: LeaveOneOut(
            value=value[name],
            left=torch.cat([part[name] for part in found]),
            stratum=stratum,
            worth=worth,
            correction=correction_of(name),
            floor=between.get(name),
            ceiling=ceilings.get(name),
        )
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
    alone = _last_of_label(units, row, index, len(clusters))
    index, row = index[~alone[row]], row[~alone[row]]
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


def _last_of_label(units: Units, row: Tensor, index: Tensor, clusters: int) -> Tensor:
    """Tell without which clusters some label has nothing in some layer: these stay in.

    What their label is worth says then that there is no interval.
    """
    size = units.selections.sum(-1).reshape(-1, len(units))
    taken = size.new_zeros(len(size), clusters * units.rules)
    taken.index_add_(1, row * units.rules + units.label[index], size[:, index])
    member = torch.nn.functional.one_hot(units.label, units.rules).double()
    rest: Tensor = (size @ member)[:, None] - taken.unflatten(1, (clusters, units.rules))
    return (rest <= 0).any(-1).any(0)


def estimate(
    left_out: LeaveOneOut, bounds: tuple[float, float], *, level: float = LEVEL
) -> Estimate:
    """Return the metric of one layer (or of several, reduced to one), corrected, with interval.

    The bias is that of the jackknife over documents, stratified by label and a little larger
    (:class:`Correction`): ``sum_h (1 + slow / n_h) (n_h - 1) (mean over c in h of t_c - t)``. The
    error has two parts: ``sum_h (n_h - 1) / n_h sum_c (t_c - mean)^2``, a little larger where
    documents are worth few, and the square of a share of the bias. The interval is Student's t
    about the corrected value, with the degrees of freedom of Welch and Satterthwaite over labels,
    each counting as many documents as it has effective ones, and is cut at the bounds of the
    metric. A metric that picks lies between what it is when it picks itself and when others pick:
    the corrected value is the middle, the interval reaches from below the one to above the other.

    Args:
        left_out: values ``()`` and ``(C,)``.
        bounds: least and largest value that the metric can have.
        level: promised coverage.

    Returns:
        Without an interval where the documents of some label are worth too few, or where nothing
        changes whichever document is left out; ``reason`` says so.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 10 and 11;
    Arvesen 1969 for strata.
    """
    plugin = float(left_out.value)
    known = Estimate(value=plugin, plugin=plugin, level=level)
    labels, sizes = left_out.stratum.unique(return_counts=True)
    worth = left_out.worth[labels]
    if int(sizes.min()) < 2:  # noqa: PLR2004 - one document has no spread
        return replace(known, reason=TOO_FEW)
    biases, spreads = [], []
    inflation = _inflation(left_out, worth)
    for label, size in zip(labels, sizes.tolist(), strict=True):
        own = left_out.left[left_out.stratum == label]
        biases.append((size - 1) * (own.mean() - left_out.value))
        spreads.append((size - 1) / size * (own - own.mean()).square().sum())
    bias = -float((torch.stack(biases) * (1 + left_out.correction.slow / worth)).sum())
    parts = torch.stack(spreads) * inflation
    doubt = abs(bias) * left_out.correction.doubt
    near, far = plugin + bias, plugin + bias
    if left_out.floor is not None:
        near, far = sorted(
            (float(left_out.floor), plugin if left_out.ceiling is None else float(left_out.ceiling))
        )
        doubt = (far - near) / 2 * MIDDLE
    least, most = bounds
    middle = plugin if left_out.ceiling is not None else (near + far) / 2
    corrected = min(max(middle, least), most)
    known = replace(known, value=corrected, corrected=corrected)
    if float(worth.min()) < LEAST_DOCUMENTS:
        return replace(known, reason=TOO_FEW)
    variance = float(parts.sum())
    if left_out.ceiling is not None:
        return replace(
            known, low=near, high=far, error=(far - near) / 2, freedom=float(worth.min() - 1)
        )
    if not variance > 0:
        return replace(known, reason=UNMOVED)
    freedom = float(parts.sum().square() / (parts.square() / (worth - 1)).sum())
    reach = student.quantile(freedom, (1 + level) / 2)
    error = math.hypot(math.sqrt(variance), doubt)
    bracketed = left_out.floor is not None and left_out.correction.brackets
    beyond = reach * math.sqrt(variance) if bracketed else reach * error + (far - near)
    if left_out.correction.from_top and near < most < near + beyond:
        return replace(known, error=error, freedom=freedom, reason=TOO_RARE)
    return replace(
        known,
        low=min(corrected, max(_below(near, beyond, most, left_out.correction), least)),
        high=max(corrected, min(far + beyond, most)),
        error=error,
        freedom=freedom,
    )


def _inflation(
    left_out: LeaveOneOut, worth: Float64[Tensor, "strata"]
) -> Float64[Tensor, "strata"]:
    """Return by how much the squared error of each stratum grows, see :class:`Correction`."""
    correction = left_out.correction
    if left_out.floor is not None and not correction.from_top:
        return torch.ones_like(worth)
    return (worth / (worth - 1).clamp(min=1)) ** correction.uneven


def _below(near: float, beyond: float, most: float, correction: Correction) -> float:
    """Return the lower end."""
    if not correction.from_top or near >= most:
        return near - beyond
    return most - (most - near) * math.exp(min(beyond / (most - near), 50.0))


DEAD = "dead_fraction"
MIDDLE = 3**-0.5
"""Standard deviation of a number that lies anywhere between -1 and 1."""
TOO_RARE = "too few documents use the idlest module at all, so nothing tells how much others would"
UNMOVED = (
    "it is the same without any one of the documents, so nothing tells how others would differ"
)
TOO_FEW = (
    "too few documents of some label tell how others would differ: record more documents of each"
)


def effective_documents(units: Units) -> Float64[Tensor, "strata"]:
    """Return how many equal documents the documents of each label are worth, all layers the least.

    ``(sum w)^2 / sum w^2``, w the samples of each document: one giant document counts as one.
    Where labels change within documents there is one stratum, worth what its rarest label is.

    Source: Kish 1965, Survey Sampling, section 11.7.

    >>> from modeval.counting.units import document_units
    >>> effective_documents(document_units(torch.tensor([[5.0], [5], [1000], [1]]),
    ...     torch.tensor([0, 0, 1, 1]))).round(decimals=2).tolist()
    [2.0, 1.0]
    """
    size = units.samples.reshape(-1, len(units))
    clusters = int(units.cluster.max()) + 1
    cell = units.cluster * units.rules + units.label
    table = size.new_zeros(len(size), clusters * units.rules).index_add_(1, cell, size)
    table = table.unflatten(1, (clusters, units.rules))
    worth = table.sum(1).square() / table.square().sum(1).clamp(min=1)
    least: Tensor = worth.amin(0)
    return least.amin().reshape(1) if units.mixed else least
