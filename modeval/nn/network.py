"""What every network of the package has in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from modeval.types import Noise

LooksAt = Literal["nothing", "rule", "input", "module"]
"""What routing looks at, from least to most: each may look at what stands before it, too."""

Route = Callable[[Tensor, int], Tensor]
"""A map of routing weights ``(S, ..., M)`` after gating, given the number of the layer.

Hardening, knock-outs, shuffles and given routings are routes: the network stays as it is.

>>> import torch
>>> def without_first_module(weight, layer):
...     return weight * torch.tensor([0.0, 1.0])
>>> without_first_module(torch.tensor([0.3, 0.7]), 0).tolist()
[0.0, 0.699...]
"""


@dataclass(frozen=True, slots=True)
class Routed:
    """How one modular layer routed a batch.

    Attributes:
        weight: ``(S, N, M)`` or ``(S, N, T, M)``: routing weights, after gating and route.
        score: gives the logits before gating, of the shape of the weights.
        output: what the layer passes on: ``(S, N, D)`` or ``(S, N, T, D)``.
        load: gives how likely each module was to be chosen, ``(S, N·T, M)``, where the gating says.
    """

    weight: Float[Tensor, "seeds samples *positions modules"]
    score: Callable[[], Tensor]
    output: Tensor
    load: Callable[[], Tensor] | None = None

    @property
    def logits(self) -> Float[Tensor, "seeds samples *positions modules"]:
        """Return the logits before gating; formed on demand, for few readers need them."""
        return self.score().view_as(self.weight)


@dataclass(frozen=True, slots=True)
class Output:
    """What a network says of a batch; routing is returned, never kept on the module.

    Attributes:
        prediction: ``(S, N, D)`` or ``(S, N, T, D)``: values, or logits for classification.
        routed: one for each modular layer, from input to output.
        penalty: ``(S,)`` what its parts add to the loss in training, where any does.
    """

    prediction: Float[Tensor, "seeds samples *positions outputs"]
    routed: tuple[Routed, ...]
    penalty: Float[Tensor, " seeds"] | None = None


class Network(nn.Module):
    """A cohort of networks: every parameter has the seeds as its first axis.

    Attributes:
        seeds: size S of the cohort.
        rules: number of rules R of the task.
        module_count: number of modules M of each modular layer.
        layer_count: number of modular layers L.
        looks_at: the most that the routing of any layer looks at.
        chance: uniform numbers that training takes for each sample or position; -1 where routing is
            the same in training and at evaluation, so that no :class:`Noise` is needed.
        batchwise: whether a sample's routing depends on the others of its batch.
        one_routing: whether the first layer routes for all.
        sparse: whether modules with weight 0 were not chosen, and the others were.
        widest: numbers that its widest part holds for one sample, where that is not read from its
            layers.
        routable: whether a route can be given.
        note: why it is slower than it could be; empty where there is nothing to say.
        has_lean: whether it can be lean.
        lean: whether it leaves out what no prediction depends on, in operations that are fast on
            processors; the same to rounding.
    """

    seeds: int
    rules: int
    module_count: int
    layer_count: int = 1
    looks_at: LooksAt = "module"
    chance: int = -1
    batchwise: bool = False
    sparse: bool = False
    one_routing: bool = False
    widest: int = 1
    routable: bool = True
    note: str = ""
    has_lean: bool = False
    lean: bool = False

    def forward(
        self,
        inputs: Tensor,
        rule: Tensor,
        *,
        noise: Noise | None = None,
        route: Route | None = None,
    ) -> Output:
        """Predict, and say how each sample was routed."""
        raise NotImplementedError

    def turn(self) -> None:
        """Begin a phase of training after the first; most networks do nothing about it."""


def count_parameters(network: nn.Module) -> int:
    """Return the parameters of one member of the cohort."""
    return sum(parameter[0].numel() for parameter in network.parameters())
