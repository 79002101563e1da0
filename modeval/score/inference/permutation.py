"""Could routing that is blind to labels have given this value? Labels of whole documents permuted.

Tokens of a document go the same way for reasons of their own, so what is exchangeable under
blindness are documents with their labels: every permutation leaves each label as many documents as
it has, and as much weight. That keeps the size of the test for any statistic, however unequal
labels are. Where documents of one label are longer than those of others, what is permuted is
brought to the noise of documents as long as theirs, see :mod:`.lengths`.
Where labels change within documents, stretches of like length exchange labels within their own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from modeval.counting.units import Units, coarser
from modeval.pace import tell
from modeval.score.inference.documents import LEAST_DOCUMENTS, effective_documents
from modeval.score.inference.draws import in_threads, p_value
from modeval.score.inference.lengths import Lengths
from modeval.score.inference.pooling import Labelling
from modeval.types import Prior, View

PERMUTATIONS = 999
PERMUTATIONS_PER_LAYER = 25
"""So that p, corrected over L layers, can still fall to 1/25."""
ELEMENTS = 1 << 36
"""Multiplications that permuting may cost; beyond, documents are pooled in groups first."""
LEAST_UNITS = 256
"""To which they are pooled at most: fewer would cost power."""
CACHED = 1 << 16
"""Numbers of what was routed that are permuted at a time: half a MiB."""
HELD = 1 << 18
"""Numbers of one table of draws held at a time."""
MEMBERS = 1 << 25
"""Numbers that say which unit is of which label in a table of draws, held at a time (256 MiB)."""
DRAWN = 1 << 22
"""Labels drawn at a time."""
LEAST_RELABELLINGS = 20
"""Different relabellings below which no p value can fall to 5 %."""

TINY = torch.finfo(torch.float64).tiny

Statistic = Callable[[Float64[Tensor, "*batch rules modules"]], Tensor]


def untestable(units: Units | None, prior: Prior = "uniform") -> str:
    """Return why labels cannot be permuted, and what to record; empty where they can.

    Where labels weigh by their share of the samples, one document that is most of its label may
    weigh nearly all. No other labelling is like that: blind routers were rejected in 9 to 10 % of
    1,200 simulated recordings with one such document, and in 1 % of those with 4 documents of each
    of 16 labels, of lognormal lengths. So each label must be worth some documents of one length.

    >>> from modeval.counting.units import document_units
    >>> untestable(document_units(torch.ones(3, 2), torch.tensor([0, 0, 1])))
    '3 documents of 2 labels can be relabelled in only 3 ways: record more documents of each label'
    """
    if units is None:
        return (
            "nothing is known of single documents: score the trace itself, or record again with "
            "a document for each text"
        )
    if units.rules < 2:  # noqa: PLR2004 - one label: nothing to exchange
        return "there is one label only: record texts of two or more labels"
    ways = _relabellings(units)
    if ways >= math.log(LEAST_RELABELLINGS):
        return "" if prior == "uniform" or units.mixed else _too_heavy(units)
    what = "stretches" if units.mixed else "documents"
    return (
        f"{int(units.documents.sum())} {what} of {units.rules} labels can be relabelled in only "
        f"{round(math.exp(ways))} ways: record more documents of each label"
    )


def _too_heavy(units: Units) -> str:
    if float(effective_documents(units).min()) >= LEAST_DOCUMENTS:
        return ""
    return (
        "one document is most of its label, and labels weigh by their share of the samples: score "
        "with --prior uniform, or record more documents of each label"
    )


def _relabellings(units: Units) -> float:
    """Return the log of the number of different relabellings."""
    ways = 0.0
    for stratum in units.stratum.unique():
        labels = torch.bincount(units.label[units.stratum == stratum]).tolist()
        ways += math.lgamma(sum(labels) + 1) - sum(math.lgamma(count + 1) for count in labels)
    return ways


def permutations_for(layers: int) -> int:
    """Return how many permutations suffice for a test of each of so many layers."""
    return max(PERMUTATIONS, PERMUTATIONS_PER_LAYER * layers - 1)


def permute_labels(
    units: Units,
    statistic: Statistic,
    *,
    generator: torch.Generator,
    permutations: int = PERMUTATIONS,
    prior: Prior = "uniform",
    view: View = "weight",
    most: int | None = None,
    powers: Float64[Tensor, "values"] | None = None,
) -> Float64[Tensor, "draws *values"]:
    """Return a statistic under permuted labels: what :func:`p_value` holds the observed against.

    Args:
        units: documents, batch ``(...)``; :func:`untestable` must be empty for them.
        statistic: of the joint distribution, ``(D, ..., R, M) -> (D, ..., anything)``.
        generator: draws the permutations, the same for the whole batch and for every call with
            units of the same labels and a generator in the same state.
        permutations: number D of permutations.
        prior: weight of the rules in the joint, as in the value that is tested.
        view: routing weights, or each of K chosen modules as 1/K.
        most: units at most, see :func:`units_permuted`; the same for layers that are permuted
            apart but alike.
        powers: power of the squared noise of documents with which each value of the statistic
            grows, for documents of one label each: 1 for squares, as information; .5 for
            differences, as a matching. Then what is permuted is brought to the noise that labels
            have with documents as long as theirs, in layers where labels and lengths go together
            (:meth:`modeval.score.inference.lengths.Lengths.unlike`):
            ``t_0 + (t - t_0) (s_own / s_permuted)^power``, t_0 that of routing that is the same
            for all labels and s of :meth:`modeval.score.inference.lengths.Lengths.seen`: the test
            of ``(t - t_0) / s^power``.

    Returns:
        ``(D, ...)``. Their mean is the chance level ``chance_permuted`` of the metric.

    Source: Janssen 1997, Studentized permutation tests for non-i.i.d. hypotheses, for the
    principle; Phipson & Smyth 2010, Permutation p-values should never be zero; Good 2005,
    Permutation, Parametric and Bootstrap Tests of Hypotheses, section 3.
    """
    numbers = units.mass[..., 0, :].numel()
    coarse = coarser(units, most or units_permuted(numbers, units.rules, permutations))
    label = drawn_labels(coarse, permutations, generator)
    cells = coarse.table(view).movedim(-2, 0)  # (U, ..., M)
    batch = cells.shape[1:-1]
    share = _share_of_labels(coarse, prior)
    cells = cells.reshape(len(cells), -1, cells.shape[-1])  # (U, B, M)
    share = share.reshape(-1, coarse.rules)
    together = max(1, CACHED // max(cells[:, 0].numel(), 1))
    somes = [slice(at, at + together) for at in range(0, len(share), together)]
    blocks = [_Block(cells[:, some].contiguous(), share[some]) for some in somes]
    if powers is not None and not coarse.mixed:
        lengths = Lengths.of(coarse, view).flat()
        own = Labelling.of(coarse.label[None], coarse.rules)
        unlike = _unlike(lengths, own, label, share)
        blocks = [
            block.with_noise(lengths.members(some), powers, own, unlike[some], statistic)
            if unlike[some].any()
            else block
            for block, some in zip(blocks, somes, strict=True)
        ]
    step = max(1, min(HELD // blocks[0].numbers, MEMBERS // (coarse.rules * len(coarse))))
    parts = [slice(at, at + step) for at in range(0, permutations, step)]

    def relabelled(part: slice) -> Tensor:
        labelling = Labelling.of(label[part], coarse.rules)
        return torch.cat([block.relabelled(labelling, statistic) for block in blocks], dim=1)

    alone = label.device.type != "cpu"
    drawn = _in_one(
        in_threads(relabelled, parts, alone=alone, what="permuting labels in parts"), permutations
    )
    return drawn.reshape(permutations, *batch, *drawn.shape[2:])


def _in_one(parts: list[Tensor], draws: int) -> Tensor:
    """Put parts one after another and let go of each: of a thousand layers they are gigabytes."""
    whole = parts[0].new_empty(draws, *parts[0].shape[1:])
    at = draws
    while parts:
        part = parts.pop()
        at -= len(part)
        whole[at : at + len(part)] = part
    return whole


def _unlike(
    lengths: Lengths,
    own: Labelling,
    label: Int64[Tensor, "draws units"],
    share: Float64[Tensor, "members rules"],
) -> Bool[Tensor, "members"]:
    """Tell in which layers (and seeds) labels and lengths go together."""
    step = max(1, min(HELD // share.numel(), MEMBERS // (share.shape[-1] * label.shape[-1])))
    drawn = (Labelling.of(part, share.shape[-1]) for part in label.split(step))
    return lengths.unlike(own, drawn, share)


@dataclass(frozen=True, slots=True)
class _Noise:
    """What the statistic of B layers (and seeds) is brought to the noise of their documents with.

    Attributes:
        lengths: what noise is made of.
        powers: with which powers of it values grow.
        unlike: ``(B,)`` where lengths and labels go together; elsewhere values stay as they are.
        own: ``(1, B)`` squared noise with the documents' own labels.
        level: ``(1, B, values)`` the statistic of routing that is the same for all labels.
    """

    lengths: Lengths
    powers: Float64[Tensor, "values"]
    unlike: Bool[Tensor, "members"]
    own: Float64[Tensor, "one members"]
    level: Float64[Tensor, "one members values"]

    def brought(
        self,
        drawn: Float64[Tensor, "draws members values"],
        noise: Float64[Tensor, "draws members"],
    ) -> Float64[Tensor, "draws members values"]:
        """Return permuted values as they were if rows were as noisy as they are."""
        ratio = torch.where(self.unlike & (noise > 0), self.own / noise.clamp(min=TINY), 1.0)
        return self.level + (drawn - self.level) * ratio.unsqueeze(-1) ** self.powers


@dataclass(frozen=True, slots=True)
class _Block:
    """A few layers (and seeds), so that what was routed of them stays in the cache.

    Attributes:
        cells: ``(U, B, M)`` what was routed of each unit.
        share: ``(B, R)`` what each label weighs.
        noise: what is done about lengths; nothing where they are like those of other labels.
    """

    cells: Float64[Tensor, "units members modules"]
    share: Float64[Tensor, "members rules"]
    noise: _Noise | None = None

    @property
    def numbers(self) -> int:
        """Return how many numbers one labelling gives."""
        return self.share.numel() * self.cells.shape[-1]

    def with_noise(
        self,
        lengths: Lengths,
        powers: Float64[Tensor, "values"],
        labelling: Labelling,
        unlike: Bool[Tensor, "members"],
        statistic: Statistic,
    ) -> "_Block":
        """Return it with what brings the statistic to the noise under the units' own labels."""
        own = lengths.seen(self._table(labelling), labelling, self.share)
        alike = lengths.mean.unsqueeze(-2) * self.share.unsqueeze(-1)
        level = statistic(_joint(alike[None], self.share))
        return replace(self, noise=_Noise(lengths, powers, unlike, own, level))

    def relabelled(
        self, labelling: Labelling, statistic: Statistic
    ) -> Float64[Tensor, "draws members *values"]:
        """Return the statistic of each member under each labelling."""
        table = self._table(labelling)
        drawn = statistic(_joint(table, self.share))
        if self.noise is None:
            return drawn
        seen = self.noise.lengths.seen(table, labelling, self.share)
        return self.noise.brought(drawn, seen)

    def _table(self, labelling: Labelling) -> Float64[Tensor, "draws members rules modules"]:
        return labelling.sums(self.cells).movedim(1, -2)


def drawn_labels(
    units: Units, permutations: int, generator: torch.Generator
) -> Int64[Tensor, "draws units"]:
    """Draw a label for each unit: those of its stratum, in another order."""
    draws = units.label.repeat(permutations, 1)
    done = 0
    for stratum in units.stratum.unique():
        members = (units.stratum == stratum).nonzero()[:, 0]
        label = units.label[members]
        step = max(1, DRAWN // len(members))
        for at in range(0, permutations if len(members) > 1 else 0, step):
            tell("drawing labels of documents", done + at * len(members), draws.numel())
            some = slice(at, min(at + step, permutations))
            keys = torch.rand(some.stop - at, len(members), generator=generator)
            draws[some, members] = label[keys.argsort(-1)]
        done += permutations * len(members)
    tell("drawing labels of documents", done, draws.numel())
    return draws


def units_permuted(numbers: int, rules: int, permutations: int) -> int:
    """Return how many units may be permuted at a cost that is bearable.

    Args:
        numbers: of one unit: modules of all layers (and seeds).
        rules: number of rules.
        permutations: number of permutations.
    """
    return max(ELEMENTS // (permutations * rules * max(numbers, 1)), LEAST_UNITS)


def _share_of_labels(units: Units, prior: Prior) -> Float64[Tensor, "*batch rules"]:
    """Return what each label weighs in the joint: as much as in the value that is tested.

    With permuted labels it would weigh what its documents happen to hold. A label of long documents
    is then lighter in every permutation, and what depends on the weights differs for that alone.
    """
    member = torch.nn.functional.one_hot(units.label, units.rules).double()
    return torch.ones_like(units.samples @ member) if prior == "uniform" else units.samples @ member


def _joint(
    table: Float64[Tensor, "draws *batch rules modules"], share: Float64[Tensor, "*batch rules"]
) -> Float64[Tensor, "draws *batch rules modules"]:
    """Return the joint of what was routed. A label that has nothing in a layer weighs nothing."""
    total = table.sum(-1)
    weight = share * (total > 0)
    weight = weight / weight.sum(-1, keepdim=True)
    return (table * (weight / total.clamp(min=TINY)).unsqueeze(-1)).contiguous()


__all__ = [
    "PERMUTATIONS",
    "drawn_labels",
    "p_value",
    "permutations_for",
    "permute_labels",
    "units_permuted",
    "untestable",
]
