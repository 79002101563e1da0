"""What a step minimises, what routes instead of a router, and what of a gradient is left."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from modeval.nn import Network
from modeval.nn.network import Output, Route
from modeval.spec import Objective, Phase
from modeval.train.remedies import terms
from modeval.types import Batch


def losses(
    prediction: Float[Tensor, "seeds samples *positions outputs"],
    target: Float[Tensor, "seeds samples *positions outputs"],
    objective: Objective,
) -> Float[Tensor, " seeds"]:
    """Return the mean loss of each seed: absolute error, or cross-entropy of the logits."""
    return each_loss(prediction, target, objective).flatten(1).mean(1)


def each_loss(prediction: Tensor, target: Tensor, objective: Objective) -> Tensor:
    """Return the loss of each output of each sample."""
    if objective == "regression":
        return (prediction - target).abs()
    return F.binary_cross_entropy_with_logits(prediction, target, reduction="none")


def sought(
    network: Network, objective: Objective, phase: Phase, output: Output, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Return what is minimised, summed over seeds, and the loss of each seed."""
    each = losses(output.prediction, batch.target, objective)
    total = each.sum()
    if output.penalty is not None:
        total = total + output.penalty.sum()
    told = output.routed[: 1 if network.one_routing else None]
    for term in terms(network, told, batch.rule, phase.remedies):
        total = total + term
    return total, each


def route_of(network: Network, phase: Phase, batch: Batch) -> Route | None:
    """Return what decides instead of the router, where the phase says so."""
    if phase.routing == "learned":
        return None
    given = F.one_hot(batch.rule, network.module_count)

    def oracle(weight: Tensor, layer: int) -> Tensor:
        del layer  # the same for all
        return given.to(weight.dtype).view_as(weight)

    return oracle


def allowed(
    gradients: list[Tensor], masks: Sequence[Tensor | None], largest: float
) -> list[Tensor]:
    """Return gradients that are 0 where nothing may move, of a norm that is small enough."""
    free = [
        gradient if mask is None else gradient * mask
        for gradient, mask in zip(gradients, masks, strict=True)
    ]
    return clipped(free, largest) if largest else free


def clipped(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Scale the gradients of each seed to a norm over all its parameters of at most ``largest``."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [gradient * factor.view(-1, *[1] * (gradient.dim() - 1)) for gradient in gradients]
