"""Steps in which a kernel computes the modules and PyTorch the router: whatever routes them.

    weights = gating(scorer(inputs, rule))          PyTorch
    loss, gradients, d_weights = kernel(weights)    everything else of the network
    d router = d weights * d_weights                PyTorch, with remedies and teachers

A router is small beside the modules that it chooses from, so that nearly all of a step goes through
the kernel, and any scorer that looks at no module, any gating and any remedy goes with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from modeval.nn import Network
from modeval.nn.layer import LayeredNetwork
from modeval.nn.mlp import MLPNetwork
from modeval.nn.network import Output, Route, Routed
from modeval.nn.own.scorer import OwnScorer
from modeval.nn.scorers import Seen, not_seen, weigh
from modeval.spec import Objective
from modeval.train.fused import Fused, KernelError
from modeval.types import Batch, Noise


@dataclass(frozen=True, slots=True)
class Slope:
    """What a step through the kernel gives.

    Attributes:
        loss: of each seed.
        cost: loss of each sample or position.
        output: how samples were routed; there is no prediction.
        gradients: of what the kernel computes, by name.
        weights: the gradient of the loss by the routing weights, where a router learns by it.
    """

    loss: Float[Tensor, " seeds"]
    cost: Float[Tensor, "seeds samples *positions"]
    output: Output
    gradients: dict[str, Tensor]
    weights: Float[Tensor, "seeds samples *positions modules"]

    def of(self, names: list[str], parameters: list[Tensor], more: Tensor | None) -> list[Tensor]:
        """Return the gradients of some parameters, with those by way of the router.

        Args:
            names: of the parameters.
            parameters: in that order.
            more: what else is minimised, summed over seeds.
        """
        weight = self.output.routed[0].weight
        total = (weight * self.weights).sum() if weight.requires_grad else None
        if more is not None:
            total = more if total is None else total + more
        found: list[Tensor | None] = [self.gradients.get(name) for name in names]
        if total is None or not total.requires_grad:
            routers: tuple[Tensor | None, ...] = (None,) * len(names)
        else:
            routers = torch.autograd.grad(total, parameters, allow_unused=True)
        return [
            _sum(one, other, like)
            for one, other, like in zip(found, routers, parameters, strict=True)
        ]


class RoutedKernel:
    """A network whose modules a kernel computes.

    Raises:
        KernelError: when the kernels do not know it, or there are none.
    """

    def __init__(self, network: Network, objective: Objective) -> None:
        self._fused = Fused(network, objective, given=True)
        self._network = cast("LayeredNetwork", network)
        if self._network.scorer.looks_at == "module" or isinstance(self._network.scorer, OwnScorer):
            raise KernelError(
                "the fused kernels take no weights that depend on what modules compute"
            )

    def slope(self, batch: Batch, noise: Noise | None, route: Route | None) -> Slope:
        """Return what a batch says of all parameters."""
        network, flat_rule = self._network, batch.rule.flatten(1)
        inputs = batch.inputs.flatten(1, -2)
        encoding: Callable[[], Tensor] = not_seen
        if isinstance(network, MLPNetwork):
            encoding = network.encoder_rule.table
        seen = Seen(inputs, flat_rule, encoding, not_seen, not_seen, not_seen)
        chance = network.chance_of(0, noise, route).flat()
        weighed = weigh(network.scorer, network.gating, seen, chance)
        weight = weighed.weight.view(*batch.rule.shape, -1)
        loss, cost, gradients, back = self._fused.gradients_given(batch, weight.detach())
        routed = Routed(weight, weighed.score, weight, weighed.load)
        return Slope(loss, cost, Output(batch.target, (routed,)), gradients, back)


def _sum(one: Tensor | None, other: Tensor | None, like: Tensor) -> Tensor:
    if one is None:
        return torch.zeros_like(like) if other is None else other.contiguous()
    return one if other is None else one + other
