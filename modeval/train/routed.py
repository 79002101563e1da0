"""Steps in which a kernel computes the modules and PyTorch the router: whatever routes them.

    weights = gating(scorer(inputs, rule))          PyTorch
    loss, gradients, d_weights = kernel(weights)    everything else of the network
    d router = d weights * d_weights                PyTorch, with remedies and teachers

A router is small beside the modules that it chooses from, so that nearly all of a step goes through
the kernel, and any scorer that looks at no module, any gating and any remedy goes with it. Modules
that are made of other parameters are made before (:mod:`modeval.train.bodies`).
"""

from collections.abc import Callable
from dataclasses import dataclass

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
from modeval.train.bodies import maker_of, rows_of
from modeval.train.fused import Fused, KernelError
from modeval.types import Batch, Noise


@dataclass(frozen=True, slots=True)
class Slope:
    """What a step through the kernel gives.

    Attributes:
        loss: of each seed.
        cost: loss of each sample or position.
        output: how samples were routed; there is no prediction.
        made: what the kernel read, by name: parameters, or what is made of them.
        gradients: of that.
        weights: the gradient of the loss by the routing weights, where they were given to it.
    """

    loss: Float[Tensor, " seeds"]
    cost: Float[Tensor, "seeds samples *positions"]
    output: Output
    made: dict[str, Tensor]
    gradients: dict[str, Tensor]
    weights: Float[Tensor, "seeds samples *positions modules"] | None

    def of(self, names: list[str], parameters: list[Tensor], more: Tensor | None) -> list[Tensor]:
        """Return the gradients of some parameters, with those by way of router and modules.

        Args:
            names: of the parameters.
            parameters: in that order.
            more: what else is minimised, summed over seeds.
        """
        held = {name for name, value in self.made.items() if not value.is_leaf}
        ends = [(self.made[name], self.gradients[name]) for name in held]
        weight = self.output.routed[0].weight
        if self.weights is not None:
            ends.append((weight, self.weights))
        if more is not None:
            ends.append((more, torch.ones_like(more)))
        ends = [(end, slope) for end, slope in ends if end.requires_grad]
        found = [None if name in held else self.gradients.get(name) for name in names]
        if not ends:
            behind: tuple[Tensor | None, ...] = (None,) * len(names)
        else:
            values, slopes = zip(*ends, strict=True)
            behind = torch.autograd.grad(values, parameters, slopes, allow_unused=True)
        return [
            _sum(one, other, like)
            for one, other, like in zip(found, behind, parameters, strict=True)
        ]


class RoutedKernel:
    """A network whose modules a kernel computes.

    Args:
        network: trained by it.
        objective: what the losses are.
        routed: whether something else than the router decides.

    Raises:
        KernelError: when the kernels do not know it, or there are none.
    """

    def __init__(self, network: Network, objective: Objective, *, routed: bool = False) -> None:
        if not isinstance(network, LayeredNetwork):
            raise KernelError(f"the fused kernels do not know {type(network).__name__}")
        self._network = network
        self._maker = maker_of(network, routed=routed)
        if network.scorer.looks_at == "module" or isinstance(network.scorer, OwnScorer):
            raise KernelError(
                "the fused kernels take no weights that depend on what modules compute"
            )
        with torch.no_grad():
            shape = (network.seeds, network.rules, network.module_count)
            rows = torch.zeros(shape) if self._maker.mixes else None
            body = self._maker.body(rows, routed=routed)
            self._chosen = bool(body.chosen)
            self._fused = Fused(network, objective, body=body)

    def slope(self, batch: Batch, noise: Noise | None, route: Route | None) -> Slope:
        """Return what a batch says of all parameters."""
        network, flat_rule = self._network, batch.rule.flatten(1)
        inputs = batch.inputs.flatten(1, -2)
        encoding: Callable[[], Tensor] = not_seen
        if isinstance(network, MLPNetwork):
            encoding = network.encoder_rule.table
        positions = flat_rule.shape[1] // batch.rule.shape[1]
        seen = Seen(inputs, flat_rule, encoding, not_seen, not_seen, not_seen, positions)
        chance = network.chance_of(0, noise, route).flat()
        rows = rows_of(network, seen) if self._maker.mixes else None
        made = self._maker.made(chance.noise, rows)
        weighed = weigh(network.scorer, network.gating, seen, chance)
        weight = weighed.weight.view(*batch.rule.shape, -1)
        given = None if self._chosen else weight.detach()
        loss, cost, gradients, back = self._fused.gradients_of(batch, made, given)
        routed = Routed(weight, weighed.score, weight, weighed.load)
        output = Output(batch.target, (routed,), network.penalty())
        return Slope(loss, cost, output, made, gradients, back)


def _sum(one: Tensor | None, other: Tensor | None, like: Tensor) -> Tensor:
    if one is None:
        return torch.zeros_like(like) if other is None else other.contiguous()
    return one if other is None else one + other
