"""Computations that share all but a part, or nothing but what the loss draws together.

Heads on one trunk, prefixes and prompts of one attention, and nets of their own that are held near
each other.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from modeval.spec.checks import check_positive
from modeval.spec.computing.compute import Layer, Own, Owned, as_given, nothing, rectifier, whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Head:
    """Hard parameter sharing: one trunk, heads of attention included, and a readout of each module.

    Source: Caruana 1997 (Multitask Learning, Machine Learning 28), section 1.
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = False
    attends: ClassVar[bool] = True
    kind: Literal["head"] = "head"
    rectified = rectifier
    made = as_given

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has its last layer."""
        return whole(layer) if self.apart(layer) else {}

    def apart(self, layer: Layer) -> bool:
        """Tell whether it is the last layer of a module."""
        return layer.place == "readout"


@dataclass(frozen=True, slots=True)
class Tied:
    """Soft parameter sharing: nets of their own, drawn together by ``sum_(a<b) |w_a - w_b|²``.

    Attributes:
        penalty_weight: what the sum over all pairs of modules is multiplied by.

    Source: Duong et al. 2015 (ACL), section 3; Yang & Hospedales 2017 (arXiv 1606.04038).
    """

    shares: ClassVar[bool] = False
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["tied"] = "tied"
    penalty_weight: float = 1e-3
    rectified = rectifier
    made = as_given

    def __post_init__(self) -> None:
        check_positive(self, "penalty_weight")

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has all of it."""
        return whole(layer)

    def apart(self, layer: Layer) -> bool:
        """Tell that there is no trunk anywhere."""
        del layer
        return True

    def penalty(self, layer: Layer, own: "Owned") -> "Tensor":
        """Return what it costs to differ: over M modules, M times the distances from their mean."""
        del layer
        apart = [(each - each.mean(1, keepdim=True)).square().flatten(1) for each in own.values()]
        modules = own["weight"].shape[1]
        total = sum((each.sum(1) for each in apart[1:]), apart[0].sum(1))
        return self.penalty_weight * modules * total


@dataclass(frozen=True, slots=True)
class Prefix:
    """One network, and learned keys and values of each module before those of the positions.

    A head finds ``(1 - g) attn(x) + g attn(P_m)``, g being the share of the softmax that the prefix
    gets. Heads, like all else, are those of the trunk.

    Attributes:
        length: keys and values of each module and head.

    Source: Li & Liang 2021 (prefix tuning, arXiv 2101.00190); He et al. 2022 (arXiv 2110.04366),
    equation 7.
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = False
    attends: ClassVar[bool] = True
    kind: Literal["prefix"] = "prefix"
    length: int = 4
    rectified = rectifier
    made = as_given
    own = nothing

    def __post_init__(self) -> None:
        check_positive(self, "length")


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """One network, and learned positions of each module before those of the input: ``[P_m, x]``.

    They are encodings, of which the trunk makes keys and values as of those of ``x``. Each position
    of the input finds them beside the others; they themselves give no output. A token is one vector
    for all heads, where a prefix has a key and a value for each.

    Attributes:
        length: tokens of each module.

    Source: Lester et al. 2021 (prompt tuning, arXiv 2104.08691), section 2.
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = False
    attends: ClassVar[bool] = True
    kind: Literal["prompt-tokens"] = "prompt-tokens"
    length: int = 4
    rectified = rectifier
    made = as_given
    own = nothing

    def __post_init__(self) -> None:
        check_positive(self, "length")


BeforePositions = Prefix | PromptTokens
"""Computations that stand before the positions of attention."""
