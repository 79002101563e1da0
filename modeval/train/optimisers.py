"""How parameters move along their gradients: in place, each seed and each element on its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from modeval.train.fused import MEAN_DECAY, SQUARE_DECAY

EPSILON = 1e-8


@contextmanager
def uphill(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], radius: float
) -> Iterator[None]:
    """Have parameters at a distance uphill of where they are; then as they were, to the bit.

    The distance is that of each seed over all its parameters. Source: Foret et al. 2021,
    Sharpness-aware minimization, eq. 2.
    """
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
    scale = radius / torch.stack(squares).sum(0).sqrt().clamp(min=1e-12)
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.add_(gradient * scale.view(-1, *[1] * (gradient.dim() - 1)))
    yield
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)


def sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    velocities: Sequence[Tensor],
    *,
    rate: Tensor,
    momentum: float,
) -> None:
    """Move parameters by their velocity: ``v = momentum v + g``, ``w = w - rate v``."""
    for parameter, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
        velocity.mul_(momentum).add_(gradient)
        parameter.sub_(rate * velocity)


def adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    *,
    count: Tensor,
    rate: Tensor,
) -> None:
    """Move parameters as :class:`torch.optim.Adam` does, with one count for all of them."""
    options: dict[str, Any] = {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
    torch._fused_adam_(
        parameters,
        gradients,
        means,
        squares,
        [],
        [count] * len(parameters),
        lr=rate,
        beta1=MEAN_DECAY,
        beta2=SQUARE_DECAY,
        eps=EPSILON,
        **options,
    )


def adam_of_parts(  # noqa: PLR0917 - a compiler sees through positions
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    count: Tensor,
    learning_rate: Tensor,
    factors: Sequence[float],
) -> None:
    """Do the same in operations that a compiler fuses into one graph."""
    rate = learning_rate / (1 - MEAN_DECAY ** count.double()).float()
    root = (1 - SQUARE_DECAY ** count.double()).float().sqrt()
    for index, gradient in enumerate(gradients):
        mean, square = means[index], squares[index]
        mean.lerp_(gradient, 1 - MEAN_DECAY)
        square.mul_(SQUARE_DECAY).addcmul_(gradient, gradient, value=1 - SQUARE_DECAY)
        step = rate * mean / (square.sqrt() / root + EPSILON)
        factor = factors[index]
        parameters[index].sub_(step if factor == 1 else factor * step)
