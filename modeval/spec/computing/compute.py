"""The contract of a computation, what a module is made of, and pieces that several share.

A bank of modules is two linear layers with a rectifier between or, in recurrent networks, single
linear layers. Most modules share a trunk and differ in little: a computation says which parameters
each module has for itself, and how its weight comes from those and from the trunk's.

    own(layer) -> parameters                           what each module has for itself
    made(layer, weight, bias, own) -> weight, bias     (S, M, in, out) and (S, M, out)
    rectified(before, own) -> units                    what stands between the two layers

Some do more, and a bank looks for that: :class:`Penalised`, :class:`Drawing`, :class:`Turning` and
:class:`Apart`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from modeval.spec.checks import check

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
        learns: whether it is trained; what is not is kept beside the parameters.
    """

    shape: tuple[int, ...]
    bound: float = 0.0
    value: float = 0.0
    common: bool = False
    learns: bool = True


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

    @property
    def attends(self) -> bool:
        """Whether modules share the heads of attention."""

    def own(self, layer: Layer) -> dict[str, Own]:
        """Say what each module has for itself."""

    def made(
        self, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
    ) -> "tuple[Tensor, Tensor | None]":
        """Return each module's weight and bias.

        Args:
            layer: which one.
            weight: ``(S, 1, in, out)`` the trunk's, or their own where a layer is apart.
            bias: ``(S, 1, out)`` the trunk's, if it has one; likewise.
            own: the parameters that :meth:`own` asked for, ``(S, M, ...)``.
        """

    def rectified(self, before: "Tensor", own: "Owned") -> "Tensor":
        """Return the hidden units ``(S, N, M, H)`` that the readout reads."""


# --- what only some do ---------------------------------------------------------------------------


@runtime_checkable
class Penalised(Protocol):
    """A computation that adds a term to the loss."""

    def penalty(self, layer: Layer, own: "Owned") -> "Tensor":
        """Return the term of each seed, ``(S,)``."""


@runtime_checkable
class Drawing(Protocol):
    """A computation that takes chance in training."""

    @property
    def drawn(self) -> tuple[str, ...]:
        """Parameters for each number of which a uniform one is drawn.

        In training they stand beside the parameters, as ``"logit.uniform"``.
        """


@runtime_checkable
class Turning(Protocol):
    """A computation that does something between two phases of training."""

    def turned(self, layer: Layer, own: "Owned") -> "dict[str, Tensor]":
        """Return what changes at the beginning of a phase after the first."""


@runtime_checkable
class Apart(Protocol):
    """A computation that leaves some layers without a trunk."""

    def apart(self, layer: Layer) -> bool:
        """Tell whether each module has the ``weight`` and ``bias`` of this layer for itself."""


# --- pieces --------------------------------------------------------------------------------------


def whole(layer: Layer) -> dict[str, Own]:
    """Say that each module has a layer for itself, which starts as PyTorch's do."""
    bound = layer.inputs**-0.5
    own = {"weight": Own((layer.inputs, layer.outputs), bound)}
    return own | ({"bias": Own((layer.outputs,), bound)} if layer.bias else {})


def nothing(_: object, layer: Layer) -> dict[str, Own]:
    """Say that modules have nothing of a layer for themselves."""
    del layer
    return {}


def as_given(
    _: object, layer: Layer, weight: "Tensor", bias: "Tensor | None", own: "Owned"
) -> "tuple[Tensor, Tensor | None]":
    """Return weight and bias as they are."""
    del layer, own
    return weight, bias


def rectifier(_: object, before: "Tensor", own: "Owned") -> "Tensor":
    """Return the units of a plain rectifier."""
    del own
    return before.relu()


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


def scores(layer: Layer) -> dict[str, Own]:
    """Say that each module has a score for each weight."""
    return {"scores": Own((layer.inputs, layer.outputs), layer.inputs**-0.5)}


def beside(trunk: "Tensor", own: "Tensor", axis: int) -> "Tensor":
    """Put what all modules share beside what each has for itself."""
    import torch  # noqa: PLC0415 - see the top

    shape = [*own.shape]
    shape[axis] = trunk.shape[axis]
    return torch.cat((trunk.expand(shape), own), axis)


def check_share(keep: float) -> None:
    """Refuse what is no share, or none at all."""
    check(0 < keep <= 1, f"keep = {keep}: expected a share above 0, up to 1.")
