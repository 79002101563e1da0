"""Computations: what a module is made of.

The contract is :mod:`modeval.spec.computing.compute`. A computation is a frozen dataclass: its
settings are the keys of ``[model.computation]``, its methods are the formulas, its place in
:data:`Computation` makes it a choice. Facts go with it: whether modules have a trunk (``shares``;
they are then as wide as a single model), whether the trunk learns (``trained``), whether single
layers will do (``cells``), as in recurrent networks, and whether modules share heads of attention
(``attends``), which they otherwise each have for themselves. Modules with a trunk start equal, at
the trunk.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from modeval.spec.checks import check_positive
from modeval.spec.computing.compute import Layer, Own, Owned, beside, rectifier
from modeval.spec.computing.masks import DiffPruning, Magnitude, Masked, SparseDiff, Supermask
from modeval.spec.computing.sharing import Head, Prefix, PromptTokens, Tied
from modeval.spec.continual import Columns, Packed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Full:
    """Each module has all of its parameters for itself: an expert. There is no trunk."""

    shares: ClassVar[bool] = False
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["full"] = "full"


@dataclass(frozen=True, slots=True)
class LowRank:
    """A trunk and a product of two narrow matrices: ``W + (alpha / rank) down_m up_m``.

    ``up`` starts at 0.

    Attributes:
        rank: width between the two.
        alpha: the product is scaled by ``alpha / rank``.
        averaged: what is averaged where parameters are mixed: ``products``, ``sum_m p_m down_m
            up_m``, or ``factors``, each apart, ``(sum_m p_m down_m) (sum_m p_m up_m)``, in which
            modules meet in cross terms; so does peft. Either is the module where there is one.

    Source: Hu et al. 2022 (LoRA, arXiv 2106.09685), section 4.1; factors: Ponti et al. 2023
    (arXiv 2202.13914), as in peft 0.21.
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["low-rank"] = "low-rank"
    rank: int = 4
    alpha: float = 8.0
    averaged: Literal["products", "factors"] = "products"
    rectified = rectifier

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha")

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has two narrow matrices."""
        return {
            "down": Own((layer.inputs, self.rank), layer.inputs**-0.5),
            "up": Own((self.rank, layer.outputs)),
        }

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk plus the product; those of all pairs where factors are averaged."""
        del layer
        down, up = own["down"], own["up"]
        product = down @ up
        if self.averaged == "factors":
            product = (down.unsqueeze(2) @ up.unsqueeze(1)).flatten(1, 2)
        return weight + (self.alpha / self.rank) * product, bias


@dataclass(frozen=True, slots=True)
class Diff:
    """A trunk and a dense difference of each module: ``W + D_m``, ``b + d_m``; both start at 0.

    With the aggregation ``parameters`` and the gating ``linear`` this is a linear hypernetwork: the
    columns of its generator are the differences.
    Source: Ilharco et al. 2023 (task vectors, arXiv 2212.04089).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["diff"] = "diff"
    rectified = rectifier

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a difference of the trunk's shape."""
        own = {"weight": Own((layer.inputs, layer.outputs))}
        return own | ({"bias": Own((layer.outputs,))} if layer.bias else {})

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk plus the difference."""
        del layer
        return weight + own["weight"], None if bias is None else bias + own["bias"]


@dataclass(frozen=True, slots=True)
class Rescaled:
    """A trunk whose outputs each module rescales: ``l_m * (W x + b)``; factors start at 1.

    Source: Liu et al. 2022 ((IA)3, arXiv 2205.05638).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["rescaled"] = "rescaled"
    rectified = rectifier

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a factor for each output."""
        return {"factor": Own((layer.outputs,), value=1.0)}

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk, rescaled."""
        del layer
        factor = own["factor"]
        return weight * factor.unsqueeze(-2), None if bias is None else bias * factor


@dataclass(frozen=True, slots=True)
class Prompt:
    """A trunk with a learned vector of each module before its input: ``[prompt_m, x] W + b``.

    Attributes:
        width: length of the vector.

    Source: Lester et al. 2021 (prompt tuning, arXiv 2104.08691).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    kind: Literal["prompt"] = "prompt"
    width: int = 8
    rectified = rectifier

    def __post_init__(self) -> None:
        check_positive(self, "width")

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a vector, which all read with the same weights."""
        if layer.place != "hidden":
            return {}
        bound = (layer.inputs + self.width) ** -0.5
        return {
            "prompt": Own((1, self.width), 1.0),
            "read": Own((self.width, layer.outputs), bound, common=True),
        }

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk, and its bias with what the prompt adds."""
        if layer.place == "hidden" and bias is not None:
            bias = bias + (own["prompt"] @ own["read"]).squeeze(-2)
        return weight, bias


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trunk with a bottleneck of each module after its hidden units: ``h + s(h down_m) up_m``.

    ``up`` starts at 0. The readout of the sum is one product with ``[h, s(h down_m)]``.

    Attributes:
        width: of the bottleneck.

    Source: Houlsby et al. 2019 (arXiv 1902.00751).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    kind: Literal["adapter"] = "adapter"
    width: int = 8

    def __post_init__(self) -> None:
        check_positive(self, "width")

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that the way down goes with the first layer, the way up with the second."""
        if layer.place == "readout":
            return {"up": Own((self.width, layer.inputs))}
        bound = layer.outputs**-0.5
        return {
            "down": Own((layer.outputs, self.width), bound),
            "down_bias": Own((self.width,), bound),
        }

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk, whose readout also reads the bottleneck."""
        if layer.place == "readout":
            weight = beside(weight, own["up"] @ weight, -2)
        return weight, bias

    def rectified(self, before: "Tensor", own: "Owned") -> "Tensor":
        """Return the hidden units beside those of the bottleneck."""
        hidden = before.relu()
        low = (hidden.transpose(1, 2) @ own["down"] + own["down_bias"].unsqueeze(-2)).relu()
        return beside(hidden, low.transpose(1, 2), -1)


@dataclass(frozen=True, slots=True)
class ParallelAdapter:
    """A trunk with a bottleneck of each module beside it: ``f(x) + s(x down_m) up_m``.

    ``up`` starts at 0. The bottleneck is a few hidden units of the module's own.

    Attributes:
        width: of the bottleneck.

    Source: He et al. 2022 (arXiv 2110.04366).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    kind: Literal["parallel-adapter"] = "parallel-adapter"
    width: int = 8
    rectified = rectifier

    def __post_init__(self) -> None:
        check_positive(self, "width")

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has columns in the first layer and rows in the second."""
        if layer.place == "readout":
            return {"up": Own((self.width, layer.outputs))}
        bound = layer.inputs**-0.5
        return {
            "down": Own((layer.inputs, self.width), bound),
            "down_bias": Own((self.width,), bound),
        }

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk with the module's own units."""
        if layer.place == "readout":
            return beside(weight, own["up"], -2), bias
        if bias is not None:
            bias = beside(bias, own["down_bias"], -1)
        return beside(weight, own["down"], -1), bias


Computation = (
    Full
    | LowRank
    | Diff
    | Rescaled
    | Masked
    | Supermask
    | Prompt
    | Adapter
    | ParallelAdapter
    | Magnitude
    | SparseDiff
    | DiffPruning
    | Head
    | Tied
    | Prefix
    | PromptTokens
    | Columns
    | Packed
)
"""The choices of the axis."""
