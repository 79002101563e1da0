"""Gatings: how logits become routing weights.

    gating(logits, noise) -> weight            (S, N, M) and chance in, (S, N, M) out

A gating is a frozen dataclass: its settings are the keys of ``[model.gating]``, its call is the
formula, its place in :data:`Gating` makes it a choice. Four facts go with it:

* ``logits``: how many numbers a scorer gives for each module (2 where one of them scales noise);
* ``chance``: uniform numbers that training takes for each sample and module, -1 where training and
  evaluation are the same; ``noise`` is given in training alone;
* ``batchwise``: whether a sample's weights depend on the others of its batch (of one seed: seeds
  never see each other);
* ``sparse``: whether a weight of 0 means that a module was not chosen, so that those above 0 were.

Those that change in the course of training (``noise.progress``) say by ``anneals`` whether they do.

Weights are what multiplies module outputs. Those of most gatings sum to 1; :func:`shares
<modeval.types.shares>` makes the others comparable. A choice is hard where training routes
each sample to few modules; gradients then pass straight through: the backward pass is that of the
soft weights.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from modeval.spec.checks import check, check_positive
from modeval.spec.computing.weights import (
    assignment,
    explored,
    keep_best,
    largest,
    open_interval,
    straight_through,
)
from modeval.spec.own import OwnGating
from modeval.spec.taught import BalancedTopK, Evolved, QLearning, Reinforce
from modeval.spec.unsettled import Unsettled

if TYPE_CHECKING:  # settings are read where torch is not yet loaded; tensors bring their methods
    from torch import Tensor

    from modeval.types import Noise


@runtime_checkable
class Gate(Protocol):
    """What turns logits into routing weights; see the module."""

    @property
    def logits(self) -> int:
        """Numbers that a scorer gives for each module."""

    @property
    def chance(self) -> int:
        """Uniform numbers for each sample and module in training; -1 for no noise at all."""

    @property
    def batchwise(self) -> bool:
        """Whether a sample's weights depend on its batch."""

    @property
    def sparse(self) -> bool:
        """Whether modules with weight 0 were not chosen."""

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return the weights of each sample, ``(S, N, logits M) -> (S, N, M)``."""


@runtime_checkable
class Loads(Protocol):
    """A gating that can say how likely each module is to be chosen, as the remedy ``load`` asks."""

    def load(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return likelihoods, ``(S, N, logits M) -> (S, N, M)``, with a gradient."""


# --- the same in training and at evaluation ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Soft:
    """Share each sample out over all modules: ``softmax(l / temperature)``.

    Attributes:
        temperature: below 1 sharpens, above 1 softens.

    Source: Jacobs et al. 1991.

    >>> import torch
    >>> Soft()(torch.tensor([[[0.0, 0.0]]])).tolist()
    [[[0.5, 0.5]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    kind: Literal["soft"] = "soft"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "temperature")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return softmax weights."""
        del noise
        return (logits if self.temperature == 1 else logits / self.temperature).softmax(-1)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Take the scorer's rows as the weights: the scorer is the routing itself."""

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return what came in."""
        del noise
        return logits


@dataclass(frozen=True, slots=True)
class Linear:
    """Take the logits as weights, whatever their sign and sum: what a linear generator does.

    Routing is read as ``|w| / sum |w|``, which is a proxy: knock-outs tell more.
    Source: von Oswald et al. 2020; Schug et al. 2024.

    >>> import torch
    >>> Linear()(torch.tensor([[[2.0, -1.0]]])).tolist()
    [[[2.0, -1.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    kind: Literal["linear"] = "linear"

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return what came in."""
        del noise
        return logits


@dataclass(frozen=True, slots=True)
class TopK:
    """Share each sample out over its k best modules: softmax over the k largest logits.

    Attributes:
        k: modules of a sample, at least 2: with 1 the only weight is 1 and the router has no
            gradient (use ``switch``).

    Source: Shazeer et al. 2017, without its noise; Mixtral.

    >>> import torch
    >>> TopK(k=2)(torch.tensor([[[1.0, 1.0, -5.0]]])).tolist()
    [[[0.5, 0.5, 0.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["top-k"] = "top-k"
    k: int = 2

    def __post_init__(self) -> None:
        _check_two(self.k)

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return weights of which all but k are 0."""
        del noise
        return keep_best(logits, self.k).softmax(-1)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Let each module decide for itself: active where ``sigmoid(l) > 1/2``, active ones equal.

    A sample has from none to all modules. Gradients pass straight through the sigmoids.
    Source: the survey's variable-size routing (arXiv 2302.11529, section 4).

    >>> import torch
    >>> Threshold()(torch.tensor([[[3.0, 1.0, -1.0]]])).tolist()
    [[[0.5, 0.5, 0.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["threshold"] = "threshold"

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return equal weights of the active modules; a row of zeros where none is."""
        del noise
        active = straight_through((logits > 0).to(logits.dtype), logits.sigmoid())
        return active / active.sum(-1, keepdim=True).detach().clamp(min=1)


# --- with chance in training ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gumbel:
    """Draw a module: ``softmax((l + g) / t)`` with ``g = -log(-log u)``, t falling in training.

    Attributes:
        temperature: t at the end of training.
        start: t at its beginning; it falls by the same factor each step.
        hard: the largest gets weight 1 and gradients pass straight through; else weights stay soft.

    At evaluation there is no noise: the largest logit (hard), or ``softmax(l / temperature)``.
    Source: Jang et al. 2017; Maddison et al. 2017.

    >>> import torch
    >>> Gumbel()(torch.tensor([[[1.0, 2.0]]])).tolist()
    [[[0.0, 1.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["gumbel"] = "gumbel"
    temperature: float = 0.5
    start: float = 5.0
    hard: bool = True

    @property
    def anneals(self) -> bool:
        """Whether a step depends on how many there are in all."""
        return self.start != self.temperature

    def __post_init__(self) -> None:
        check_positive(self, "temperature", "start")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return a drawn module in training, the best one at evaluation."""
        if noise is None:
            soft = (logits / self.temperature).softmax(-1)
        else:
            drawn = -(-open_interval(noise.uniform).log()).log()
            soft = ((logits + drawn) / _annealed(self, noise)).softmax(-1)
        return straight_through(largest(soft), soft) if self.hard else soft


@dataclass(frozen=True, slots=True)
class Concrete:
    """Draw each module by itself: ``sigmoid((l + log u/(1-u)) / t)``, divided by their sum.

    The relaxed allocation of skills of Polytropon; at evaluation ``sigmoid(l)``, divided likewise.

    Attributes:
        temperature: t at the end of training.
        start: t at its beginning.
        hard: skills are on or off in training and at evaluation, gradients straight through.

    Source: Ponti et al. 2023 (Polytropon); Maddison et al. 2017.

    >>> import torch
    >>> Concrete()(torch.tensor([[[9.0, 9.0, -99.0]]])).tolist()
    [[[0.5, 0.5, 0.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    kind: Literal["concrete"] = "concrete"
    temperature: float = 1.0
    start: float = 1.0
    hard: bool = False

    @property
    def anneals(self) -> bool:
        """Whether a step depends on how many there are in all."""
        return self.start != self.temperature

    def __post_init__(self) -> None:
        check_positive(self, "temperature", "start")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return the skills of each sample as shares."""
        soft = logits.sigmoid()
        if noise is not None:
            uniform = open_interval(noise.uniform)
            drawn = uniform.log() - (1 - uniform).log()
            soft = ((logits + drawn) / _annealed(self, noise)).sigmoid()
        on = straight_through((soft > 0.5).to(soft.dtype), soft) if self.hard else soft  # noqa: PLR2004
        return on / on.sum(-1, keepdim=True).clamp(min=1e-12)


@dataclass(frozen=True, slots=True)
class NoisyTopK:
    """Top-k of noisy logits: ``H = l + e softplus(n)``, softmax over the k largest of H.

    The scorer gives l and the scale n; e is normal. At evaluation there is no noise.

    Attributes:
        k: modules of a sample, at least 2.

    Source: Shazeer et al. 2017 (arXiv 1701.06538), equations 3 to 5.

    >>> import torch
    >>> NoisyTopK(k=2)(torch.tensor([[[1.0, 1.0, -5.0, 0.0, 0.0, 0.0]]])).tolist()
    [[[0.5, 0.5, 0.0]]]
    """

    logits: ClassVar[int] = 2
    chance: ClassVar[int] = 1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["noisy-top-k"] = "noisy-top-k"
    k: int = 2

    def __post_init__(self) -> None:
        _check_two(self.k)

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return weights of which all but k are 0."""
        clean, _ = logits.chunk(2, -1)
        noisy = clean if noise is None else clean + self._drawn(logits, noise)
        return keep_best(noisy, self.k).softmax(-1)

    def load(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return how likely each module is to be among the k, were its own noise drawn anew.

        ``P_m = Phi((l_m - t_m) / softplus(n_m))``, t_m being the k-th largest of the others' H.
        Summed over samples it is the load as a smooth function of the logits. Without noise l
        stands for H. With no more than k modules all are always chosen.
        """
        clean, scale = logits.chunk(2, -1)
        noisy = clean if noise is None else clean + self._drawn(logits, noise)
        if self.k >= clean.shape[-1]:
            return clean.new_ones(clean.shape)
        best = noisy.topk(self.k + 1, -1).values
        least, next_best = best[..., self.k - 1 : self.k], best[..., self.k :]
        threshold = least.where(noisy < least, next_best)  # of those chosen: the best one left out
        return 0.5 * (1 + ((clean - threshold) / (math.sqrt(2) * _softplus(scale))).erf())

    def _drawn(self, logits: "Tensor", noise: "Noise") -> "Tensor":
        normal = math.sqrt(2) * (2 * open_interval(noise.uniform) - 1).erfinv()
        return normal * _softplus(logits.chunk(2, -1)[1])


@dataclass(frozen=True, slots=True)
class EpsilonGreedy:
    """Take the best module, but in training a random one in a share epsilon of the samples.

    The chosen module's output is scaled by its softmax share, so that the router learns.

    Attributes:
        epsilon: share of random choices at the beginning of training.
        end: share at its end; it falls evenly.

    Source: Sutton & Barto, for routing the survey (arXiv 2302.11529, section 4.2.1).

    >>> import torch
    >>> EpsilonGreedy()(torch.tensor([[[0.0, 0.0, 9.0]]])).round(decimals=2).tolist()
    [[[0.0, 0.0, 1.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 2
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["epsilon-greedy"] = "epsilon-greedy"
    epsilon: float = 0.3
    end: float = 0.0

    @property
    def anneals(self) -> bool:
        """Whether a step depends on how many there are in all."""
        return self.epsilon != self.end

    def __post_init__(self) -> None:
        for name in ("epsilon", "end"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} = {value}: expected a share from 0 to 1.")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return one module's softmax share and zeros."""
        soft = logits.softmax(-1)
        return explored(largest(soft), noise, epsilon=self.epsilon, end=self.end) * soft


# --- with an eye on the whole batch --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Switch:
    """Take the best module, scaled by its softmax share, as long as it has room.

    A module takes the first ``ceil(capacity N / M)`` samples of a batch that choose it; later ones
    are dropped: no module sees them, their weights are all 0, and the scorecard counts them.

    Attributes:
        capacity: room of all modules together, as a multiple of the batch; 0 for no limit.

    Source: Fedus et al. 2022 (arXiv 2101.03961), section 2.2.

    >>> import torch
    >>> Switch(capacity=1.0)(torch.tensor([[[50.0, 0.0], [50.0, 0.0]]])).tolist()
    [[[1.0, 0.0], [0.0, 0.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    kind: Literal["switch"] = "switch"
    capacity: float = 1.25

    def __post_init__(self) -> None:
        check(
            0 <= self.capacity < math.inf,
            f"capacity = {self.capacity}: expected a factor above 0, or 0 for no limit.",
        )

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return one module's softmax share and zeros."""
        del noise
        soft = logits.softmax(-1)
        chosen = largest(soft)
        if self.capacity:
            room = math.ceil(self.capacity * logits.shape[1] / logits.shape[2])
            chosen = chosen * (chosen.cumsum(1) <= room)
        return chosen * soft


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """Let each module take the ``capacity N / M`` samples that want it most.

    Load is even by construction, so collapse says nothing; a sample may have from none to all
    modules.

    Attributes:
        capacity: modules that a sample has on average.

    Source: Zhou et al. 2022 (arXiv 2202.09368).

    >>> import torch
    >>> weight = ExpertChoice(capacity=1.0)(torch.tensor([[[9.0, 0.0], [8.0, 0.0]]]))
    >>> (weight > 0).sum(1).tolist()
    [[1, 1]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    kind: Literal["expert-choice"] = "expert-choice"
    capacity: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "capacity")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return the softmax shares of the modules that took the sample."""
        del noise
        soft = logits.softmax(-1)
        _, samples, modules = soft.shape
        room = min(max(round(self.capacity * samples / modules), 1), samples)
        taken = soft.new_zeros(soft.shape).scatter_(1, soft.topk(room, 1).indices, 1.0)
        return taken * soft


@dataclass(frozen=True, slots=True)
class Sinkhorn:
    """Balance a batch softly: rows and columns of ``exp(l)`` are scaled in turn, then the best.

    In training a sample takes the module with the largest balanced share; at evaluation the one
    with the largest logit. Either way its output is scaled by the softmax share of that module.

    Attributes:
        iterations: turns of scaling.

    Source: Sinkhorn & Knopp 1967; Clark et al. 2022 (S-BASE, arXiv 2202.01169).

    >>> import torch
    >>> from modeval.types import Noise
    >>> noise = Noise(torch.zeros(1, 2, 0), torch.tensor(0.0))
    >>> weight = Sinkhorn()(torch.tensor([[[2.0, 1.0], [2.0, 0.0]]]), noise)
    >>> (weight > 0).long().tolist()
    [[[0, 1], [1, 0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 0
    batchwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    kind: Literal["sinkhorn"] = "sinkhorn"
    iterations: int = 10

    def __post_init__(self) -> None:
        check_positive(self, "iterations")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return one module's softmax share and zeros."""
        balanced = logits.detach()
        if noise is not None:
            for _ in range(self.iterations):  # in logarithms: no overflow
                balanced = balanced - balanced.logsumexp(1, keepdim=True)
                balanced = balanced - balanced.logsumexp(2, keepdim=True)
        return largest(balanced) * logits.softmax(-1)


@dataclass(frozen=True, slots=True)
class Base:
    """Give each module its equal part of a batch: the assignment with the largest sum of logits.

    In training each module gets ``N / M`` samples (some one more, where N does not divide); at
    evaluation each sample takes its best module. Its output is scaled by ``sigmoid(l)``. The
    assignment is solved on the processor, so on GPUs each step waits for it.

    Source: Lewis et al. 2021 (BASE layers, arXiv 2103.16716); the solver is scipy's.

    >>> import torch
    >>> from modeval.types import Noise
    >>> noise = Noise(torch.zeros(1, 2, 0), torch.tensor(0.0))
    >>> weight = Base()(torch.tensor([[[2.0, 1.0], [2.0, 0.0]]]), noise)
    >>> (weight > 0).long().tolist()
    [[[0, 1], [1, 0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 0
    batchwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    kind: Literal["base"] = "base"

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return one module's sigmoid and zeros."""
        chosen = largest(logits) if noise is None else assignment(logits.detach())
        return chosen * logits.sigmoid()


Gating = (
    Soft
    | Linear
    | TopK
    | NoisyTopK
    | Threshold
    | Gumbel
    | Concrete
    | EpsilonGreedy
    | Switch
    | ExpertChoice
    | Sinkhorn
    | Base
    | Reinforce
    | QLearning
    | Evolved
    | BalancedTopK
    | Unsettled
    | OwnGating
)
"""The choices of the axis. :class:`Fixed` belongs to scorers that give weights."""


def _annealed(gating: Gumbel | Concrete, noise: "Noise") -> "Tensor":
    """Return the temperature: geometric from ``start`` to ``temperature``."""
    ratio = math.log(gating.temperature / gating.start)
    return gating.start * (noise.progress * ratio).exp()


def _softplus(values: "Tensor") -> "Tensor":
    return -(-values).sigmoid().clamp(min=1e-30).log()


def _check_two(k: int) -> None:
    check(
        k > 1,
        f"k = {k}: expected 2 or more. With one module its weight is always 1 and the router "
        "learns nothing; for one module of each sample use --gating switch.",
    )


def anneals(gating: Gate) -> bool:
    """Tell whether a gating's steps depend on how many there are in all."""
    return bool(getattr(gating, "anneals", False))
