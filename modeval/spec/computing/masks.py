"""Computations that keep a part of a trunk's weights, or of what each module adds to them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from modeval.spec.checks import check_positive
from modeval.spec.computing.compute import (
    Layer,
    Own,
    Owned,
    best_of,
    check_share,
    rectifier,
    scores,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Masked:
    """A trunk of which each module keeps a part: ``W * mask_m``, the best scores of each matrix.

    Gradients pass straight through the mask, so that of a score is ``W dL/dW``: what moves away
    from 0 is kept. Weights and masks are learned together.

    Attributes:
        keep: share of the weights that a module keeps.

    Source: Sanh et al. 2020 (movement pruning, arXiv 2005.07683).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["masked"] = "masked"
    keep: float = 0.5
    rectified = rectifier

    def __post_init__(self) -> None:
        check_share(self.keep)

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a score for each weight."""
        return scores(layer)

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk, masked."""
        del layer
        return weight * best_of(own["scores"], self.keep), bias


@dataclass(frozen=True, slots=True)
class Supermask:
    """A random trunk that is never trained; each module learns which part of it to keep.

    Attributes:
        keep: share of the weights that a module keeps: the largest scores, signs aside.

    Source: Ramanujan et al. 2020 (edge-popup, arXiv 1911.13299).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = False
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["supermask"] = "supermask"
    keep: float = 0.5
    rectified = rectifier

    def __post_init__(self) -> None:
        check_share(self.keep)

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a score for each weight."""
        return scores(layer)

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk, masked."""
        del layer
        return weight * best_of(own["scores"].abs(), self.keep), bias


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Each module keeps the largest weights of its own version of a trunk: ``(W + D_m) * mask_m``.

    What is not kept gets no gradient, so it stays as it was and may come back only when others
    shrink. Differences start at 0.

    Attributes:
        keep: share of the weights of each matrix that a module keeps.

    Source: Han et al. 2015 (arXiv 1506.02626); Zhu & Gupta 2017 (arXiv 1710.01878).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["magnitude"] = "magnitude"
    keep: float = 0.5
    rectified = rectifier

    def __post_init__(self) -> None:
        check_share(self.keep)

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a difference of the trunk's shape."""
        return {"weight": Own((layer.inputs, layer.outputs))}

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return each module's version, without its small weights."""
        del layer
        whole = weight + own["weight"]
        return whole * best_of(whole.detach().abs(), self.keep), bias


@dataclass(frozen=True, slots=True)
class SparseDiff:
    """A trunk and a sparse difference of each module: ``W + mask_m * D_m``.

    In the first phase of training all of a difference is learned. At the beginning of the next one
    its largest entries are kept, it goes back to 0, and only what was kept learns on: the mask does
    not. It takes two phases, therefore.

    Attributes:
        keep: share of the entries that are kept.

    Source: Ansell et al. 2022 (LT-SFT, arXiv 2110.07560), section 3.
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["sparse-diff"] = "sparse-diff"
    keep: float = 0.1
    rectified = rectifier

    def __post_init__(self) -> None:
        check_share(self.keep)

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a difference, and a mask that is not learned."""
        shape = (layer.inputs, layer.outputs)
        return {"weight": Own(shape), "mask": Own(shape, value=1.0, learns=False)}

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk plus what is kept of the difference."""
        del layer
        return weight + own["mask"] * own["weight"], bias

    def turned(self, layer: Layer, own: "Owned") -> "dict[str, Tensor]":
        """Keep the largest of what was learned, and go back to the start."""
        del layer
        learned = (own["mask"] * own["weight"]).abs()
        return {"mask": best_of(learned, self.keep), "weight": learned.new_zeros(learned.shape)}


LOW, HIGH, SLOPE = -0.1, 1.1, 2 / 3
"""Ends of the stretched concrete distribution, and its temperature, as Louizos et al. 2018."""


@dataclass(frozen=True, slots=True)
class DiffPruning:
    """A trunk and a difference of which the loss keeps little: ``W + z_m * D_m``.

    z is a hard concrete variable, exactly 0 or 1 often: ``clamp(s (high - low) + low, 0, 1)`` with
    ``s = sigmoid((l + log u/(1-u)) / t)``; at evaluation ``s = sigmoid(l)``. The loss has a term
    ``penalty * P(z > 0)``, the mean over the entries of each matrix of
    ``sigmoid(l - t log(-low / high))``.

    Attributes:
        penalty_weight: what an expected share of 1 costs.

    Source: Guo et al. 2021 (diff pruning, arXiv 2012.07463), section 3; Louizos et al. 2018 (arXiv
    1712.01312), equations 10 to 13.
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    drawn: ClassVar[tuple[str, ...]] = ("logit",)
    kind: Literal["diff-pruning"] = "diff-pruning"
    penalty_weight: float = 0.1
    rectified = rectifier

    def __post_init__(self) -> None:
        check_positive(self, "penalty_weight")

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a difference, and a logit for each of its entries."""
        shape = (layer.inputs, layer.outputs)
        return {"weight": Own(shape), "logit": Own(shape, bound=0.1, value=1.0)}

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk plus what is left of the difference."""
        del layer
        return weight + hard_concrete(own["logit"], own.get("logit.uniform")) * own["weight"], bias

    def penalty(self, layer: Layer, own: "Owned") -> "Tensor":
        """Return what the entries cost that are expected to be there."""
        del layer
        return self.penalty_weight * expected_share(own["logit"])


def hard_concrete(logit: "Tensor", uniform: "Tensor | None" = None) -> "Tensor":
    """Return draws from 0 to 1, both ends included; without chance, what stands for them.

    >>> import torch
    >>> hard_concrete(torch.tensor([-5.0, 0.0, 5.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    if uniform is not None:
        logit = (logit + uniform.log() - (1 - uniform).log()) / SLOPE
    return (logit.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def expected_share(logit: "Tensor") -> "Tensor":
    """Return the mean probability ``(S,)`` that a draw is not 0."""
    return (logit - SLOPE * math.log(-LOW / HIGH)).sigmoid().flatten(1).mean(1)
