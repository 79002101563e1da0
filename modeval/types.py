"""Core types, and the letters of their axes.

    S  seeds of a cohort         N  samples
    L  routed layers             T  positions of a sequence
    B  replicate blocks          R  ground-truth rules
    K  chosen modules            M  modules

Leading axes ``...`` are batch axes: every metric maps over them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

Prior = Literal["uniform", "empirical"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of a rule task for a cohort, the same number for each seed.

    Attributes:
        inputs: ``(S, N, F)``, or ``(S, N, T, F)`` for sequences: what a model sees beside the rule.
        rule: ``(S, N)``, or ``(S, N, T)``: the ground-truth rule of each sample or position.
        target: ``(S, N, D)``, or ``(S, N, T, D)``: real values, or 0 and 1 for classification.
    """

    inputs: Float[Tensor, "seeds samples *positions features"]
    rule: Int64[Tensor, "seeds samples *positions"]
    target: Float[Tensor, "seeds samples *positions outputs"]

    def seed(self, index: int) -> "Batch":
        """Return the part of one seed as a cohort of one."""
        part = slice(index, index + 1)
        return Batch(self.inputs[part], self.rule[part], self.target[part])

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on ``device``."""
        return Batch(self.inputs.to(device), self.rule.to(device), self.target.to(device))


@dataclass(frozen=True, slots=True)
class RoutingBatch:
    """Routing decisions of one batch: which rule each sample had, how its weight was shared out.

    Attributes:
        rule: ``(..., N)`` ground-truth rule, or label, of each sample or token.
        weight: ``(..., N, M)`` routing weights; each row lies in the simplex.
    """

    rule: Int64[Tensor, "*batch samples"]
    weight: Float[Tensor, "*batch samples modules"]


@dataclass(frozen=True, slots=True)
class RoutingCounts:
    """What was routed where: the sufficient statistic of every static metric.

    A commutative monoid: :meth:`zeros` is neutral and ``+`` pools two streams, so batches, shards
    and processes may be added in any order. Its size does not depend on the number of samples.

    Attributes:
        mass: ``(..., B, R, M)`` summed routing weight.
        selections: ``(..., B, R, M)`` how often a module was chosen (had a weight above zero for
            sparse routing; was the largest for dense routing).
        samples: ``(..., B, R)`` samples seen of each rule.
        entropy: ``(..., B, R)`` summed entropy of the routing weights, in nats.
        coactivation: ``(..., M, M)`` how often two modules were chosen for one sample; the diagonal
            counts each module's own choices.
    """

    mass: Float64[Tensor, "*batch blocks rules modules"]
    selections: Float64[Tensor, "*batch blocks rules modules"]
    samples: Float64[Tensor, "*batch blocks rules"]
    entropy: Float64[Tensor, "*batch blocks rules"]
    coactivation: Float64[Tensor, "*batch modules modules"]
