"""What is scored, and what scoring it needs to know: the types between networks and scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxtyping import Float64
from torch import Tensor

from modeval.evaluate.interventions import Interventions
from modeval.metrics.course import History
from modeval.nn.network import Network
from modeval.spec import DataSpec, ModelSpec, Selection
from modeval.types import RoutingCounts

LOSS_FACTOR = 4.0
"""A loss may be off by so many times the precision of A, as a share of it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A cohort that is to be scored: trained networks, or only how they routed.

    Attributes:
        title: what people call the model.
        origin: ``run`` (written by ``modeval train``) or ``modarch`` (the reference).
        data: the task it was trained on.
        model: the model; of a matrix without weights what its folder's name tells.
        objective_known: whether anything said what the objective is; always true with a network.
        seeds: the pair (task seed, model seed) of each of the S members.
        sources: file that each member was read from.
        faults: what is wrong with each member; empty where nothing is.
        selection: ``last`` or ``best`` checkpoint, or ``phase-2``.
        history: what its log tells, of a run that has one.
        network: the cohort, or nothing where only matrices are left.
        joint: ``(S, R, M)`` recorded joint distribution of rule and module, where there is no
            network.
    """

    title: str
    origin: str
    data: DataSpec
    model: ModelSpec
    objective_known: bool
    seeds: tuple[tuple[int, int], ...]
    sources: tuple[str, ...]
    faults: tuple[str, ...]
    selection: Selection
    history: History | None = None
    network: Network | None = None
    joint: Float64[Tensor, "seeds rules modules"] | None = None

    @property
    def scored(self) -> Mapping[str, Tensor]:
        """What is scored, by name: weights, or matrices; nothing where none could be read."""
        if self.network is not None:
            return self.network.state_dict()
        return {} if self.joint is None else {"joint": self.joint}


Wanted = Callable[[tuple[int, int]], bool]
"""Whether a member is to be scored, by its task seed and model seed."""


def every_seed(seeds: tuple[int, int]) -> bool:
    """Want each member."""
    del seeds
    return True


@dataclass(frozen=True, slots=True)
class Loss:
    """Loss of a cohort under one condition, as sums over samples (or whole sequences).

    Attributes:
        length: positions of a sequence; nothing for single samples.
        factor: what inputs were multiplied by, beside the scale that the model was trained with.
        total: ``(S,)`` sum of the losses.
        square: ``(S,)`` sum of their squares.
        wrong: ``(S,)`` sum of the shares of wrong labels (classification).
        samples: how many were seen for each member.
    """

    length: int | None
    factor: float
    total: Float64[Tensor, "seeds"]
    square: Float64[Tensor, "seeds"]
    wrong: Float64[Tensor, "seeds"]
    samples: int

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(
            self.length,
            self.factor,
            self.total + other.total,
            self.square + other.square,
            self.wrong + other.wrong,
            self.samples + other.samples,
        )

    def mean(self) -> Float64[Tensor, "seeds"]:
        """Return the loss of each member."""
        return self.total / self.samples

    def error_rate(self) -> Float64[Tensor, "seeds"]:
        """Return the share of wrong labels of each member."""
        return self.wrong / self.samples

    def half_width(self) -> Float64[Tensor, "seeds"]:
        """Return half of the 95 % interval of each member's mean, from sampling alone."""
        variance = (self.square / self.samples - self.mean() ** 2).clamp(min=0)
        return 1.96 * (variance / self.samples).sqrt()


@dataclass(frozen=True, slots=True)
class Shifted:
    """Module shares measured under shifted shares of the rules (P probes).

    Attributes:
        rules: ``(S, P, R)`` realised shares of the rules.
        modules: ``(S, L, P, M)`` shares of the modules of each modular layer.
    """

    rules: Float64[Tensor, "seeds probes rules"]
    modules: Float64[Tensor, "seeds layers probes modules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that one pass over fresh samples tells of a cohort.

    Attributes:
        losses: one for each condition.
        counts: routing with axes ``(S, L, B, R, M)``: seeds, modular layers from input to output,
            blocks (runs of consecutive samples, the same samples in each layer), rules, modules.
            Mass is what multiplied module outputs, as shares of a sample: it sums to the number of
            samples, less where no module took a sample (Switch, expert choice). Selections are the
            modules above 0 where the gating is sparse, else the largest. Nothing for a model
            without routing.
        positions: mass of each position of a sequence, in the same blocks; nothing for tasks that
            have none.
        half_width: ``(S,)`` half of the 95 % interval of the least certain entry of A.
        hardened: how much the loss grows when soft weights are made hard, measured on pairs, by
            the name of the score: ``hard_gap`` where each sample goes to its largest module alone.
        held_out: loss on rules that were never trained on; nothing where there are none.
        shifted: module shares under shifted rules; nothing where they follow exactly from A.
        interventions: what switching modules off tells; nothing where that was not done.
        untouched: why it was not done although it was not refused; else empty.
        parameters: of one member; nothing without a network.
        active: of them, those that a sample uses, averaged over samples and members; a module with
            any weight is used, and so are all where weights are never 0.
    """

    losses: tuple[Loss, ...]
    counts: RoutingCounts | None = None
    positions: Float64[Tensor, "seeds layers blocks positions modules"] | None = None
    half_width: Float64[Tensor, "seeds"] | None = None
    hardened: Mapping[str, Loss] = field(default_factory=dict)
    held_out: Loss | None = None
    shifted: Shifted | None = None
    interventions: Interventions | None = None
    untouched: str = ""
    parameters: int | None = None
    active: float | None = None
