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

from modeval.errors import RunError
from modeval.nn import Network
from modeval.spec import Objective
from modeval.train.fused import MEAN_DECAY, SQUARE_DECAY, Fused, KernelError
from modeval.types import Batch

Engine = Literal["auto", "eager", "compiled", "fused"]

EPSILON = 1e-8


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

    Args:
        network: trained in place.
        objective: what the losses are.
        clip: largest norm of the gradient of a seed; 0 for none.
        engine: ``fused`` (a C++ kernel, on processors), ``compiled``
            (``torch.compile`` of the whole step), ``eager``, or ``auto``: the fastest that can be
            had here.

    Attributes:
        engine: what really computes the steps.
        engine_note: why it is not a faster one; empty when there is nothing to say.

    Raises:
        RunError: when an engine that was asked for by name cannot be had.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        *,
        clip: float = 0.0,
        engine: Engine = "auto",
    ) -> None:
        self.network, self.objective, self.clip = network, objective, clip
        named = dict(network.named_parameters())
        self.names, self.parameters = list(named), list(named.values())
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.count = torch.zeros((), device=self.parameters[0].device)
        self.engine: str
        self.engine, self.engine_note = "eager", ""
        self._fused: Fused | None = None
        if engine in ("auto", "fused"):
            self._try_fused(required=engine == "fused")

    def step(self, batch: Batch, learning_rate: Tensor) -> Float[Tensor, " seeds"]:
        """Change the network by one step and return the loss of each seed before it."""
        self.count += 1
        if self._fused is not None:
            return self._fused.step(
                batch,
                rate=float(learning_rate),  # on a processor: no wait
                count=int(self.count),
                means=self.means,
                squares=self.squares,
            )
        return self._eager(batch, learning_rate)

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

    def _try_fused(self, *, required: bool) -> None:
        try:
            self._fused = Fused(self.network, self.objective, clip=self.clip)
        except KernelError as error:
            if required:
                raise RunError(f"engine = fused: {error}. Use --engine auto.") from None
            self.engine_note = str(error)
        else:
            self.engine = "fused"

    def _eager(self, batch: Batch, learning_rate: Tensor) -> Tensor:
        output = self.network(batch.inputs, batch.rule)
        loss = losses(output.prediction, batch.target, self.objective)
        # the fused optimiser reads memory in order, whatever the strides say
        gradients = [
            gradient.contiguous() for gradient in torch.autograd.grad(loss.sum(), self.parameters)
        ]
        if self.clip:
            gradients = clipped(gradients, self.clip)
        with torch.no_grad():
            torch._fused_adam_(  # noqa: SLF001 - what torch.optim.Adam calls
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


def clipped(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Scale the gradients of each seed to a norm over all its parameters of at most ``largest``."""
    seeds = gradients[0].shape[0]
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [
        gradient * factor.view(seeds, *[1] * (gradient.dim() - 1)) for gradient in gradients
    ]
