"""Gatings whose router learns otherwise than by the gradient of the loss through its weights.

What a gating draws in training is chosen here; how its router learns from what came of it is in
:mod:`modeval.train.teachers`, which training finds by the class.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from modeval.spec.checks import check, check_positive
from modeval.spec.computing.weights import explored, keep_best, largest, open_interval

if TYPE_CHECKING:  # settings are read where torch is not yet loaded; tensors bring their methods
    from torch import Tensor

    from modeval.types import Noise


@dataclass(frozen=True, slots=True)
class Reinforce:
    """Draw a module by the policy ``softmax(l)`` and reward the router by minus the loss.

    No gradient passes through the choice: that of the router is ``(R - b) d log p_a``, R being the
    reward of the sample and b what such a sample earned of late. At evaluation: the likeliest
    module.

    Attributes:
        baseline: how much of b each step keeps; 0 for no baseline (b = 0).
        collaboration: reward, beside minus the loss, for a module that all samples chose; one that
            a share of them chose of late gives that share of it.
        weighted: the weighted policy learner instead: the gradient of the router is
            ``(R - b) w d p_a``, w being ``1 - p_a`` where the reward is above b and ``p_a`` where
            it is below: slow near a choice that is sure, fast away from one.

    Source: Rosenbaum et al. 2018 (Routing Networks, arXiv 1711.01239), section 3; Williams 1992;
    Abdallah & Lesser 2008 (weighted policy learner, JAIR 33), equation 4, through a softmax in the
    place of a projection.

    >>> import torch
    >>> Reinforce()(torch.tensor([[[1.0, 2.0]]])).tolist()
    [[[0.0, 1.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["reinforce"] = "reinforce"
    baseline: float = 0.95
    collaboration: float = 0.0
    weighted: bool = False

    def __post_init__(self) -> None:
        check(
            0 <= self.baseline < 1,
            f"baseline = {self.baseline}: expected a share from 0 up to, but not, 1.",
        )
        check(
            0 <= self.collaboration < float("inf"),
            f"collaboration = {self.collaboration}: expected a reward of 0 or more.",
        )

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return a drawn module in training, the likeliest at evaluation."""
        if noise is None:
            return largest(logits)
        return largest(logits - (-open_interval(noise.uniform).log()).log())


@dataclass(frozen=True, slots=True)
class QLearning:
    """Take the module with the largest value ``Q = l``, which the router learns to foretell.

    In training a share epsilon of the samples take a random module. Rewards are minus the loss, and
    come after the last decision: the Q of what was chosen there is drawn to the reward, that of an
    earlier decision to the largest Q of the next one. No gradient passes through the choice.

    Attributes:
        epsilon: share of random choices at the beginning of training.
        end: share at its end; it falls evenly.

    Source: Rosenbaum et al. 2018 (Routing Networks, arXiv 1711.01239), section 4, with one value
    for each module and no discount; Watkins & Dayan 1992.

    >>> import torch
    >>> QLearning()(torch.tensor([[[-0.3, -0.1, -0.2]]])).tolist()
    [[[0.0, 1.0, 0.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 2
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["q-learning"] = "q-learning"
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
        """Return the best module, in training now and then a random one."""
        return explored(largest(logits), noise, epsilon=self.epsilon, end=self.end)


@dataclass(frozen=True, slots=True)
class Evolved:
    """Route each rule along a path that evolves: a module for each rule and layer.

    A population of paths is kept. For ``trial`` steps two of them share each batch, half and half,
    and what lies on them is trained; then the one with the higher loss becomes a copy of the other
    with mutations, and the next two are drawn. The logits are no parameters that a gradient moves:
    they are the path that won last, which is what evaluation follows.

    Attributes:
        population: paths.
        trial: steps until two paths are compared.
        mutations: genes that a copy has changed, on average; each by up to 2 modules to either
            side.

    Source: Fernando et al. 2017 (PathNet, arXiv 1701.08734), section 2, with one module of a layer
    on a path for each rule, and both paths trained side by side.

    >>> import torch
    >>> Evolved()(torch.tensor([[[1.0, 0.0]]])).tolist()
    [[[1.0, 0.0]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["evolved"] = "evolved"
    population: int = 16
    trial: int = 50
    mutations: float = 1.0

    def __post_init__(self) -> None:
        check(
            self.population > 1,
            f"population = {self.population}: a tournament takes two paths. Give 2 or more.",
        )
        check_positive(self, "trial", "mutations")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return the module with the largest logit: that on the path."""
        del noise
        return largest(logits)


@dataclass(frozen=True, slots=True)
class BalancedTopK:
    """Take the k modules with the largest ``sigmoid(l) + b``; their weights are ``sigmoid(l)``.

    After each step of training the bias b of a module that more samples chose than the mean falls
    by ``rate``, and that of others rises: load becomes even without a term in the loss, and b never
    reaches an output. It is kept, and counts at evaluation too.

    Attributes:
        k: modules of a sample.
        rate: what a bias moves by in a step.

    Source: Wang et al. 2024 (loss-free balancing, arXiv 2408.15664), algorithm 1.

    >>> import torch
    >>> BalancedTopK(k=1)(torch.tensor([[[1.0, 0.0, 0.0, 0.5]]])).round(decimals=2).tolist()
    [[[0.0, 0.5]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = -1
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = True
    kind: Literal["balanced-top-k"] = "balanced-top-k"
    k: int = 2
    rate: float = 1e-3

    def __post_init__(self) -> None:
        check(self.k > 0, f"k = {self.k}: a sample takes 1 module or more.")
        check_positive(self, "rate")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return weights of which all but k are 0: of logits, and of the biases beside them."""
        del noise
        own, bias = logits.chunk(2, -1)
        share = own.sigmoid()
        chosen = keep_best(share.detach() + bias, self.k) > -float("inf")
        return share * chosen
