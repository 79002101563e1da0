"""What scoring needs to know of a trained cohort: whatever has these attributes can be scored.

:mod:`modeval.evaluate.subject` has the types that have them. They are named here by what is read
of them alone, so that scoring never loads a network.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from modeval.metrics.course import History
from modeval.spec import DataSpec, ModelSpec, Selection
from modeval.types import RoutingCounts


@runtime_checkable
class Subject(Protocol):
    """A cohort that was evaluated: see :class:`modeval.evaluate.subject.Subject`."""

    @property
    def title(self) -> str:
        """What people call the model."""

    @property
    def origin(self) -> str:
        """``run``, or ``modarch`` for the reference."""

    @property
    def data(self) -> DataSpec:
        """The task."""

    @property
    def model(self) -> ModelSpec:
        """The model."""

    @property
    def objective_known(self) -> bool:
        """Whether anything said what the objective is."""

    @property
    def seeds(self) -> tuple[tuple[int, int], ...]:
        """Task seed and model seed of each member."""

    @property
    def sources(self) -> tuple[str, ...]:
        """File that each member was read from."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with each member."""

    @property
    def selection(self) -> Selection:
        """Which checkpoint."""

    @property
    def history(self) -> History | None:
        """What the log of a run tells of its training."""

    @property
    def network(self) -> object | None:
        """Something where there is a network, nothing where matrices alone are left."""

    @property
    def scored(self) -> Mapping[str, Tensor]:
        """What is scored, by name: weights, or matrices."""

    @property
    def joint(self) -> Tensor | None:
        """``(S, R, M)`` recorded joint distribution, where there is no network."""


@runtime_checkable
class Loss(Protocol):
    """A loss under one condition: see :class:`modeval.evaluate.subject.Loss`."""

    @property
    def length(self) -> int | None:
        """Positions of a sequence."""

    @property
    def factor(self) -> float:
        """What inputs were multiplied by."""

    @property
    def samples(self) -> int:
        """How many were seen for each member."""

    def mean(self) -> Tensor:
        """Return the loss ``(S,)``."""

    def error_rate(self) -> Tensor:
        """Return the share of wrong labels ``(S,)``."""

    def half_width(self) -> Tensor:
        """Return half of the 95 % interval of the mean ``(S,)``."""


@runtime_checkable
class Shifted(Protocol):
    """Module shares under shifted rules: see :class:`modeval.evaluate.subject.Shifted`."""

    @property
    def rules(self) -> Tensor:
        """``(S, P, R)`` shares of the rules."""

    @property
    def modules(self) -> Tensor:
        """``(S, L, P, M)`` shares of the modules of each layer."""


@runtime_checkable
class Curves(Protocol):
    """Loss while modules go: see :class:`modeval.evaluate.interventions.Curves`."""

    @property
    def removed(self) -> tuple[int, ...]:
        """``(J,)`` numbers of modules that are removed."""

    @property
    def random(self) -> Tensor:
        """``(P, S, L, J)`` in random orders."""

    @property
    def by_use(self) -> Tensor:
        """``(S, L, J)`` the least used first."""

    @property
    def share(self) -> Tensor:
        """``(J,)`` share of the modules that are removed."""


@runtime_checkable
class Interventions(Protocol):
    """What modules do: see :class:`modeval.evaluate.interventions.Interventions`."""

    @property
    def intact(self) -> Tensor:
        """``(S, R)`` loss of each rule."""

    @property
    def activation(self) -> Tensor:
        """``(S, L, R, M)`` A on the same samples."""

    @property
    def necessity(self) -> Tensor:
        """``(S, L, R, M)`` growth of the loss without each module."""

    @property
    def silenced(self) -> Tensor:
        """``(S, L, R, M)`` the same when the others keep their weights."""

    @property
    def sufficiency(self) -> Tensor:
        """``(S, L, R, M)`` loss with one module alone."""

    @property
    def floor(self) -> Tensor:
        """``(S, L, R, M)`` growth up to which there is none."""

    @property
    def nulls(self) -> Mapping[str, Tensor]:
        """``(P, S, L)`` scores by name when labels or modules are permuted."""

    @property
    def curves(self) -> Curves:
        """Loss while modules go."""

    @property
    def shapley(self) -> Tensor | None:
        """``(S, L, R, M)`` mean growth over random orders."""

    @property
    def shapley_error(self) -> Tensor | None:
        """``(S, L, R, M)`` its standard error."""

    @property
    def samples(self) -> int:
        """Positions of each member."""


@runtime_checkable
class Evaluation(Protocol):
    """What was measured of a cohort: see :class:`modeval.evaluate.subject.Evaluation`."""

    @property
    def losses(self) -> Sequence[Loss]:
        """One for each condition."""

    @property
    def counts(self) -> RoutingCounts | None:
        """``(S, L, B, R, M)``; nothing for a model without routing."""

    @property
    def positions(self) -> Tensor | None:
        """``(S, L, B, T, M)`` mass of each position of a sequence; nothing without any."""

    @property
    def half_width(self) -> Tensor | None:
        """``(S,)`` half of the 95 % interval of the least certain entry of A."""

    @property
    def hardened(self) -> Mapping[str, Loss]:
        """How much the loss grows with hard routing, by the name of the score."""

    @property
    def held_out(self) -> Loss | None:
        """Loss on rules that were never trained on."""

    @property
    def shifted(self) -> Shifted | None:
        """Module shares under shifted rules; nothing where they follow from A."""

    @property
    def interventions(self) -> Interventions | None:
        """What switching modules off tells."""

    @property
    def parameters(self) -> int | None:
        """Parameters of one member."""

    @property
    def active(self) -> float | None:
        """Those of them that a sample uses, on average."""

    @property
    def untouched(self) -> str:
        """Why it was not done although nobody refused it."""
