"""Are two models connected by a line of low loss?"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


def mode_barrier(
    loss: Callable[[dict[str, Tensor]], Tensor],
    one: Parameters,
    two: Parameters,
    *,
    points: int = 11,
) -> Tensor:
    """Return how far the loss between two models rises above the line between their losses.

    ``max_a L((1-a) t1 + a t2) - ((1-a) L(t1) + a L(t2))`` over ``points`` values of a from 0 to 1.
    0 or more, as both ends count; models are called connected where it is at most 2 % of their
    loss. In the unit of the loss, of the shape that ``loss`` gives, as one value for each seed.

    Args:
        loss: of parameters by name.
        one: parameters of the first.
        two: those of the second, under the same names.
        points: how many values of a.

    Source: Frankle et al. 2020 (linear mode connectivity, arXiv 1912.05671), section 2.

    >>> def well(at):
    ...     return ((at["x"] ** 2 - 1) ** 2).sum()
    >>> left, right = {"x": torch.tensor([-1.0])}, {"x": torch.tensor([1.0])}
    >>> float(mode_barrier(well, left, right)), float(mode_barrier(well, left, left))
    (1.0, 0.0)
    """
    shares = [index / (points - 1) for index in range(points)]
    losses = torch.stack([loss(_between(one, two, share)) for share in shares])
    along = torch.tensor(shares, dtype=losses.dtype).view(-1, *[1] * (losses.dim() - 1))
    line = (1 - along) * losses[0] + along * losses[-1]
    return (losses - line).amax(0).clamp(min=0)


def _between(one: Parameters, two: Parameters, share: float) -> dict[str, Tensor]:
    return {name: torch.lerp(one[name], two[name], share) for name in one}
