"""Computations for rules that come one after another: columns, and parts of a trunk that are kept.

What makes them work is a regime (:mod:`modeval.spec.regimes`), which says when which part learns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from modeval.spec.computing.compute import Layer, Own, Owned, rectifier

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Columns:
    """A column for each module, whose readout also reads the hidden units of earlier columns.

    ``f_m(z) = W_m h_m + sum_(j < m) U_(m, j) h_j + b_m`` with ``h_j = s(V_j z + c_j)``.

    Source: Rusu et al. 2016 (progressive networks, arXiv 1606.04671), equation 1.
    """

    shares: ClassVar[bool] = False
    cells: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    kind: Literal["columns"] = "columns"


@dataclass(frozen=True, slots=True)
class Packed:
    """A trunk of which each module uses what was kept for it and for those before: ``W * kept_m``.

    All of it at first; a phase of training that ends with ``claim`` says which part of it stays a
    module's (:class:`modeval.spec.phases.Claim`). Biases are common.

    Source: Mallya & Lazebnik 2018 (PackNet, arXiv 1711.05769).
    """

    shares: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    cells: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    kind: Literal["packed"] = "packed"
    rectified = rectifier

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say that each module has a mask, which no gradient changes."""
        return {"kept": Own((layer.inputs, layer.outputs), value=1.0, learns=False)}

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return what each module uses of the trunk."""
        del layer
        return weight * own["kept"], bias
