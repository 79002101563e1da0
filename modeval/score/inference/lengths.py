"""What permuted labels give, for documents as long as those of each label are.

Documents of one label may be longer than those of another. Permuted labels mix both, so a label
that had many documents of one length gets few long ones and many short ones, and rows of A are
noisier under permutation than they are. Or less noisy: where the documents of a rare label are
short, a blind router was called significant in half of all cases. How noisy a row is follows from
how long its documents are; a permuted value is brought to the noise that rows have with their own.
Where documents of the labels are no longer and no shorter than chance makes them, nothing is done:
the noise that documents show is known badly, and bringing to it would cost up to 7 points of power.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from modeval.counting.units import Units
from modeval.score.inference.pooling import Labelling
from modeval.types import View

ROUNDS = 20
"""Rounds of weighing documents anew by how much they are expected to scatter."""
ALIKE = 1e-3
"""Spread of 1/length, as a share of its mean, below which lengths tell nothing of scatter."""
ROUNDING = 1e-9
"""Difference of noise, as a share of it, that is none: weights add up to 1 but for rounding."""
USUAL = 0.1
"""Share of labellings, at either end: labels and lengths that are there go together."""
SINGLE = 1e-9
"""Above one document, what documents must be worth to have scatter of their own."""
TINY = torch.finfo(torch.float64).tiny


def mean_shares(units: Units, view: View = "weight") -> Float64[Tensor, "*batch modules"]:
    """Return the mean share of each module over documents, each document weighing alike.

    No giant document moves it, and no relabelling.
    """
    share = _shares(units, view)
    there = (units.table(view).sum(-1, keepdim=True) > 0).double()
    mean: Tensor = share.sum(-2) / there.sum(-2).clamp(min=1)
    return mean


def scatter(
    units: Units, view: View = "weight"
) -> tuple[Float64[Tensor, "*batch"], Float64[Tensor, "*batch"]]:
    """How much do documents scatter: ``b + c / n`` for one of n tokens.

    ``b`` is how documents differ for reasons of their own, ``c`` what tokens add by chance.
    Fitted to the squared distances ``sum_m (s_m - mean_m)^2 / mean_m`` of their shares s, with
    weights ``1 / (b + c / n)^2``; both are at least 0. Labels do not enter, so that relabelling
    changes nothing.

    Returns:
        ``b`` and ``c``, each ``(...)``; ``c`` is 0 where all documents are equally long.

    >>> from modeval.counting.units import document_units
    >>> table = torch.tensor([[10.0, 0], [0, 10], [50, 50], [50, 50]])
    >>> [round(part.item(), 6) for part in scatter(document_units(table, torch.arange(4) % 2))]
    [0.0, 5.0]
    """
    size = units.table(view).sum(-1)
    there = size > 0
    mean = mean_shares(units, view).unsqueeze(-2)
    distance = (_shares(units, view) - mean).square() / mean.clamp(min=TINY)
    squared = torch.where(mean > 0, distance, 0.0).sum(-1)
    inverse = torch.where(there, 1 / size.clamp(min=TINY), 0.0)
    count = there.sum(-1).clamp(min=1)
    level, length = (squared * there).sum(-1) / count, inverse.sum(-1) / count
    spread = ((inverse - length.unsqueeze(-1)) * there).square().sum(-1) / count
    own, chance = level / 2, level / 2 / length.clamp(min=TINY)
    for _ in range(ROUNDS):
        expected = own.unsqueeze(-1) + chance.unsqueeze(-1) * inverse
        weight = there / expected.clamp(min=TINY).square()
        own, chance = _fitted(weight, inverse, squared)
    told = spread.sqrt() > ALIKE * length
    return torch.where(told, own, level), torch.where(told, chance, 0.0)


def _fitted(weight: Tensor, inverse: Tensor, squared: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted least squares of ``squared = b + c inverse`` with b, c >= 0."""
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=TINY)
    one, two = (weight * inverse).sum(-1), (weight * inverse.square()).sum(-1)
    flat, slanted = (weight * squared).sum(-1), (weight * inverse * squared).sum(-1)
    room = (two - one.square()).clamp(min=TINY)
    own, chance = (two * flat - one * slanted) / room, (slanted - one * flat) / room
    chance = torch.where(own < 0, slanted / two.clamp(min=TINY), chance)
    own = torch.where(chance < 0, flat, own.clamp(min=0))
    return own, chance.clamp(min=0)


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the noise of rows of A is made of, units first.

    Attributes:
        own: ``(...)`` and
        chance: ``(...)`` how documents scatter, see :func:`scatter`.
        mean: ``(..., M)`` mean share of each module, see :func:`mean_shares`.
        size: ``(U, ...)`` length w of each document.
        squares: ``(U, ...)`` of what was routed of it, ``sum_m x_m^2 / mean_m``.
        weighted: ``(U, ..., M)`` what was routed times the length, ``w x_m / mean_m``.
    """

    own: Float64[Tensor, "*batch"]
    chance: Float64[Tensor, "*batch"]
    mean: Float64[Tensor, "*batch modules"]
    size: Float64[Tensor, "units *batch"]
    squares: Float64[Tensor, "units *batch"]
    weighted: Float64[Tensor, "units *batch modules"]

    @classmethod
    def of(cls, units: Units, view: View = "weight") -> "Lengths":
        """Return it of documents, batch ``(...)``."""
        cells = units.table(view).movedim(-2, 0)
        size, mean = cells.sum(-1), mean_shares(units, view)
        relative = torch.where(mean > 0, cells / mean.clamp(min=TINY), 0.0)
        own, chance = scatter(units, view)
        return cls(
            own=own,
            chance=chance,
            mean=mean,
            size=size,
            squares=(relative * cells).sum(-1),
            weighted=relative * size.unsqueeze(-1),
        )

    def flat(self) -> "Lengths":
        """Return it with all axes of the batch as one, ``(B,)``."""
        units, modules = len(self.size), self.mean.shape[-1]
        return Lengths(
            own=self.own.reshape(-1),
            chance=self.chance.reshape(-1),
            mean=self.mean.reshape(-1, modules),
            size=self.size.reshape(units, -1),
            squares=self.squares.reshape(units, -1),
            weighted=self.weighted.reshape(units, -1, modules),
        )

    def members(self, which: slice) -> "Lengths":
        """Return it of some members of a batch ``(B,)``."""
        return Lengths(
            own=self.own[which],
            chance=self.chance[which],
            mean=self.mean[which],
            size=self.size[:, which],
            squares=self.squares[:, which],
            weighted=self.weighted[:, which].contiguous(),
        )

    def expected(
        self, labelling: Labelling, weight: Float64[Tensor, "*batch rules"]
    ) -> Float64[Tensor, "draws *batch"]:
        """Return how far apart rows of A are expected to be by noise, squared: of lengths alone.

        ``sum_r pi_r (1 - pi_r) v_r`` with ``v_r = (b sum w^2 + c sum w) / (sum w)^2`` over the
        documents of rule r, see :func:`scatter`.

        Args:
            labelling: which units are of which rule.
            weight: what each rule weighs.
        """
        total = self._of_rules(labelling, self.size).clamp(min=TINY)
        squared = self._of_rules(labelling, self.size.square())
        rows = self.own.unsqueeze(-1) * squared + self.chance.unsqueeze(-1) * total
        return _of_pairs(rows / total.square(), weight)

    def unlike(
        self,
        own: Labelling,
        drawn: Iterable[Labelling],
        weight: Float64[Tensor, "*batch rules"],
    ) -> Bool[Tensor, "*batch"]:
        """Tell whether documents of some label are longer or shorter than chance makes them.

        Then the noise that is expected of their rows is among the least or the largest that
        labellings give. Lengths and labels decide, and not where anything was routed.

        Args:
            own: the labels that documents have.
            drawn: permuted ones, some at a time.
            weight: what each rule weighs.
        """
        here = self.expected(own, weight)
        less, more, draws = torch.zeros_like(here[0]), torch.zeros_like(here[0]), 0
        for labelling in drawn:
            there = self.expected(labelling, weight)
            less += (there < here * (1 - ROUNDING)).sum(0)
            more += (there > here * (1 + ROUNDING)).sum(0)
            draws += len(there)
        return torch.maximum(less, more) >= (1 - USUAL) * draws

    def seen(
        self,
        table: Float64[Tensor, "draws *batch rules modules"],
        labelling: Labelling,
        weight: Float64[Tensor, "*batch rules"],
    ) -> Float64[Tensor, "draws *batch"]:
        """Return how far apart rows of A are by the noise that their documents show, squared.

        ``sum_r pi_r (1 - pi_r) v_r`` with ``v_r = (n / (n - 1))^2 sum w^2 d^2 / (sum w)^2`` over
        the documents of rule r, d their distances from their own row and n the equal documents
        that they are worth. It knows when the few that weigh most happen to be alike. What is
        :meth:`expected` does not: it rejects 9 to 14 % of blind routers where one label has
        documents 10 times longer, the mean of both 9 %, this 5 to 7 %.

        Args:
            table: what was routed of each rule under each labelling.
            labelling: which units are of which rule.
            weight: what each rule weighs.
        """
        total = table.sum(-1).clamp(min=TINY)  # (D, ..., R)
        squared = self._of_rules(labelling, self.size.square())
        inverse = torch.where(self.mean > 0, 1 / self.mean.clamp(min=TINY), 0.0).unsqueeze(-2)
        length = (table.square() * inverse).sum(-1) / total.square()
        along = (table * self._of_rules(labelling, self.weighted)).sum(-1) / total
        of_squares = self._of_rules(labelling, self.squares)
        apart = (of_squares - 2 * along + length * squared).clamp(min=0)
        worth = total.square() / squared.clamp(min=TINY)
        few = worth / (worth - 1).clamp(min=SINGLE)
        rows = torch.where(worth > 1 + SINGLE, apart / total.square() * few.square(), 0.0)
        return _of_pairs(rows, weight)

    def _of_rules(self, labelling: Labelling, part: Float64[Tensor, "units *rest"]) -> Tensor:
        """Return sums over the documents of each rule, ``(D, ..., R)`` and what a unit has more."""
        found: Tensor = labelling.sums(part).movedim(1, self.size.dim())
        return found


def _of_pairs(rows: Tensor, weight: Tensor) -> Tensor:
    """Return ``sum_r pi_r (1 - pi_r) v_r``: how far apart rows are, which differ by v_r each."""
    share = weight / weight.sum(-1, keepdim=True)
    found: Tensor = (share * (1 - share) * rows).sum(-1)
    return found


def _shares(units: Units, view: View) -> Tensor:
    table = units.table(view)
    return table / table.sum(-1, keepdim=True).clamp(min=TINY)
