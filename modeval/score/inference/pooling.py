"""Sums of what was routed over the units of each label, under many labellings at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

FEW_RULES = 8
"""Rules below which a matrix product is as fast as adding up the rows of each label."""
NARROW = 16
"""Numbers of a unit below which it is, too."""


@dataclass(frozen=True, slots=True)
class Labelling:
    """Which units are of which rule, in each of D draws.

    Attributes:
        member: ``(D, R, U)`` 1 where a unit is of a rule.
        order: ``(D U,)`` units of each draw, those of a rule together.
        start: ``(D R,)`` where each rule begins in it.
    """

    member: Float64[Tensor, "draws rules units"]
    order: Int64[Tensor, "places"]
    start: Int64[Tensor, "bags"]

    @classmethod
    def of(cls, label: Int64[Tensor, "draws units"], rules: int) -> "Labelling":
        """Return it of drawn labels.

        >>> found = Labelling.of(torch.tensor([[1, 0, 1], [1, 1, 0]]), 2)
        >>> found.sums(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)).tolist()
        [[10.0, 101.0], [100.0, 11.0]]
        """
        member = (label[:, None] == torch.arange(rules, device=label.device)[:, None]).double()
        size = member.sum(-1).long().flatten()
        order = label.argsort(dim=-1, stable=True).flatten()
        return cls(member, order, size.cumsum(0) - size)

    def sums(self, part: Float64[Tensor, "units *rest"]) -> Float64[Tensor, "draws rules *rest"]:
        """Return the sums over the units of each rule.

        A matrix product multiplies each unit by R numbers of which one is 1; with many rules,
        adding up rows does in a third of the time.
        """
        draws, rules = self.member.shape[:2]
        flat = part.reshape(len(part), -1)
        few = rules < FEW_RULES or flat.shape[1] < NARROW
        if few or part.device.type != "cpu":
            pooled = self.member.flatten(0, 1) @ flat
        else:
            pooled = torch.nn.functional.embedding_bag(self.order, flat, self.start, mode="sum")
        found: Tensor = pooled.reshape(draws, rules, *part.shape[1:])
        return found
