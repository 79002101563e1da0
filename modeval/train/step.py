"""One optimiser step of a cohort: forward, backward, clipping and Adam, each seed on its own.

Losses are summed over seeds, so that the gradient of a seed is the one that it has alone; clipping
and Adam work seed by seed or element by element. Nothing of one seed, not even a NaN, ever reaches
another one. Nothing in a step waits for the device.

Adam: ``m = 0.9 m + 0.1 g``, ``v = 0.999 v + 0.001 g²``,
``w = w - rate · m / (1 - 0.9ᵗ) / (sqrt(v / (1 - 0.999ᵗ)) + 1e-8)``. Source: Kingma & Ba 2015.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modeval.nn import Network
from modeval.spec import Objective
from modeval.types import Batch

Engine = Literal["auto", "eager", "compiled", "fused"]

MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8


def losses(
    prediction: Float[Tensor, "seeds samples *positions outputs"],
    target: Float[Tensor, "seeds samples *positions outputs"],
    objective: Objective,
) -> Float[Tensor, " seeds"]:
    """Return the mean loss of each seed: absolute error, or cross-entropy of the logits."""
    if objective == "regression":
        each = (prediction - target).abs()
    else:
        each = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
    return each.flatten(1).mean(1)


class Stepper:
    """Trains a cohort step by step; holds the moments of Adam beside the network's parameters.

    Attributes:
        engine: what really computes the steps.
        engine_note: why this engine was chosen; empty when there is nothing to say.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        *,
        clip: float = 0.0,
        engine: Engine = "auto",
    ) -> None:
        del engine
        self.network, self.objective, self.clip = network, objective, clip
        self.engine: str = "eager"
        self.engine_note = ""
        named = dict(network.named_parameters())
        self.names, self.parameters = list(named), list(named.values())
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.count = torch.zeros((), device=self.parameters[0].device)

    def step(self, batch: Batch, learning_rate: Tensor) -> Float[Tensor, " seeds"]:
        """Change the network by one step and return the loss of each seed before it."""
        output = self.network(batch.inputs, batch.rule)
        loss = losses(output.prediction, batch.target, self.objective)
        gradients = list(torch.autograd.grad(loss.sum(), self.parameters))
        if self.clip:
            gradients = clipped(gradients, self.clip)
        self.count += 1
        with torch.no_grad():
            torch._fused_adam_(
                self.parameters,
                gradients,
                self.means,
                self.squares,
                [],
                [self.count] * len(gradients),
                lr=learning_rate,
                beta1=MEAN_DECAY,
                beta2=SQUARE_DECAY,
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """Return the moments and the step count; with the parameters, all that a resume needs."""
        state = {f"mean.{name}": mean for name, mean in zip(self.names, self.means, strict=True)}
        for name, square in zip(self.names, self.squares, strict=True):
            state[f"square.{name}"] = square
        return state | {"count": self.count}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what :meth:`state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def clipped(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Scale the gradients of each seed to a norm over all its parameters of at most ``largest``."""
    seeds = gradients[0].shape[0]
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [
        gradient * factor.view(seeds, *[1] * (gradient.dim() - 1)) for gradient in gradients
    ]
