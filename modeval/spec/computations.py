"""Computations: what a module is made of.

A bank of modules is two linear layers with a rectifier between or, in recurrent networks, single
linear layers. Most modules share a trunk and differ in little: a computation says which parameters
each module has for itself, and how its weight comes from those and from the trunk's.

    own(layer) -> parameters                           what each module has for itself
    made(layer, weight, bias, own) -> weight, bias     (S, M, in, out) and (S, M, out)
    rectified(before, own) -> units                    what stands between the two layers

A computation is a frozen dataclass: its settings are the keys of ``[model.computation]``, its
methods are the formulas, its place in :data:`Computation` makes it a choice. Facts go with it:
whether modules have a trunk (``shares``; they are then as wide as a single model), whether the
trunk learns (``trained``), and whether single layers will do (``cells``), as in recurrent networks.
Modules with a trunk start equal, at the trunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from modeval.spec.checks import check, check_positive

if TYPE_CHECKING:  # settings are read where torch is not yet loaded; tensors bring their methods
    from torch import Tensor

Place = Literal["hidden", "readout", "gates"]
"""Where a layer stands: before the rectifier, after it, or in a recurrent cell."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer of a bank of modules, before there are any parameters."""

    place: Place
    inputs: int
    outputs: int
    bias: bool = True


@dataclass(frozen=True, slots=True)
class Own:
    """A parameter of each module.

    Attributes:
        shape: of one module's.
        bound: it starts uniformly between minus and plus this,
        value: around this.
        common: whether there is one for all modules.
    """

    shape: tuple[int, ...]
    bound: float = 0.0
    value: float = 0.0
    common: bool = False


Owned = Mapping[str, "Tensor"]


@runtime_checkable
class Compute(Protocol):
    """What modules are made of; see the module."""

    @property
    def shares(self) -> bool:
        """Whether modules have a trunk in common."""

    @property
    def trained(self) -> bool:
        """Whether the trunk learns."""

    @property
    def cells(self) -> bool:
        """Whether it works with single layers, as in recurrent cells."""

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say what each module has for itself."""

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return each module's weight and bias.

        Args:
            layer: which one.
            weight: ``(S, 1, in, out)`` the trunk's.
            bias: ``(S, 1, out)`` the trunk's, if it has one.
            own: the parameters that :meth:`own` asked for, ``(S, M, ...)``.
        """

    def rectified(self, before: "Tensor", own: "Owned") -> "Tensor":
        """Return the hidden units ``(S, N, M, H)`` that the readout reads."""


def _rectifier(_: object, before: "Tensor", own: "Owned") -> "Tensor":
    """Return the units of a plain rectifier."""
    del own
    return before.relu()


@dataclass(frozen=True, slots=True)
class Full:
    """Each module has all of its parameters for itself: an expert. There is no trunk."""

    shares: ClassVar[bool] = False
    cells: ClassVar[bool] = True
    kind: Literal["full"] = "full"


@dataclass(frozen=True, slots=True)
class LowRank:
    """A trunk and a product of two narrow matrices: ``W + (alpha / rank) down_m up_m``.

    ``up`` starts at 0.

    Attributes:
        rank: width between the two.
        alpha: the product is scaled by ``alpha / rank``.

    Source: Hu et al. 2022 (LoRA, arXiv 2106.09685), section 4.1.
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    kind: Literal["low-rank"] = "low-rank"
    rank: int = 4
    alpha: float = 8.0
    rectified = _rectifier

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
        """Return the trunk plus the product."""
        del layer
        return weight + (self.alpha / self.rank) * (own["down"] @ own["up"]), bias


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
    kind: Literal["diff"] = "diff"
    rectified = _rectifier

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
    kind: Literal["rescaled"] = "rescaled"
    rectified = _rectifier

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
    kind: Literal["masked"] = "masked"
    keep: float = 0.5
    rectified = _rectifier

    def __post_init__(self) -> None:
        _check_share(self.keep)

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a score for each weight."""
        return _scores(layer)

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
    kind: Literal["supermask"] = "supermask"
    keep: float = 0.5
    rectified = _rectifier

    def __post_init__(self) -> None:
        _check_share(self.keep)

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a score for each weight."""
        return _scores(layer)

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return the trunk, masked."""
        del layer
        return weight * best_of(own["scores"].abs(), self.keep), bias


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
    kind: Literal["prompt"] = "prompt"
    width: int = 8
    rectified = _rectifier

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
            weight = _beside(weight, own["up"] @ weight, -2)
        return weight, bias

    def rectified(self, before: "Tensor", own: "Owned") -> "Tensor":
        """Return the hidden units beside those of the bottleneck."""
        hidden = before.relu()
        low = (hidden.transpose(1, 2) @ own["down"] + own["down_bias"].unsqueeze(-2)).relu()
        return _beside(hidden, low.transpose(1, 2), -1)


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
    kind: Literal["parallel-adapter"] = "parallel-adapter"
    width: int = 8
    rectified = _rectifier

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
            return _beside(weight, own["up"], -2), bias
        if bias is not None:
            bias = _beside(bias, own["down_bias"], -1)
        return _beside(weight, own["down"], -1), bias


Computation = (
    Full | LowRank | Diff | Rescaled | Masked | Supermask | Prompt | Adapter | ParallelAdapter
)
"""The choices of the axis."""


# --- pieces --------------------------------------------------------------------------------------


def best_of(scores: "Tensor", keep: float) -> "Tensor":
    """Return 1 at the largest scores of each matrix and 0 elsewhere, gradients straight through.

    Args:
        scores: ``(..., in, out)``.
        keep: share that is kept, at least one.

    >>> import torch
    >>> best_of(torch.tensor([[1.0, 4.0], [3.0, 2.0]]), 0.5).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    flat = scores.flatten(-2)
    best = flat.topk(max(1, round(keep * flat.shape[-1])), -1).indices
    hard = flat.new_zeros(flat.shape).scatter_(-1, best, 1.0).view_as(scores)
    return hard + (scores - scores.detach())


def _scores(layer: Layer) -> dict[str, Own]:
    return {"scores": Own((layer.inputs, layer.outputs), layer.inputs**-0.5)}


def _beside(trunk: "Tensor", own: "Tensor", axis: int) -> "Tensor":
    """Put what all modules share beside what each has for itself."""
    import torch  # noqa: PLC0415 - see the top

    shape = [*own.shape]
    shape[axis] = trunk.shape[axis]
    return torch.cat((trunk.expand(shape), own), axis)


def _check_share(keep: float) -> None:
    check(0 < keep <= 1, f"keep = {keep}: expected a share above 0, up to 1.")
