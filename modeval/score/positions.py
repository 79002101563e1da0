"""What routing of a sequence tells of positions, against what permuted positions give."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics.positions import position_information
from modeval.score.card import better_of
from modeval.score.chance import ChanceLevel
from modeval.score.entries import Members, entries
from modeval.score.measure import PERMUTATIONS_OF_SAMPLES, Measured
from modeval.score.scorecard import Score


def position_scores(
    model: str,
    mass: Float64[Tensor, "seeds layers blocks positions modules"] | None,
    members: Members,
    samples: int,
) -> Iterator[Score]:
    """Yield the scores of positions; none where samples have none.

    Where routing does not depend on the position, the positions of a sequence may change places: in
    each block of sequences they are permuted, in the same way for all seeds and layers.

    Args:
        model: id of the model.
        mass: of each position, of all seeds.
        members: those seeds.
        samples: positions that were seen of each.
    """
    if mass is None or mass.shape[-2] < 2:  # noqa: PLR2004 - one position tells nothing
        return
    mass = mass[[*members.usable]].cpu()
    generator = torch.Generator().manual_seed(0)
    blocks, positions, modules = mass.shape[2:]
    number = torch.arange(blocks).unsqueeze(1)
    orders = [
        torch.rand(blocks, positions, generator=generator).argsort()
        for _ in range(PERMUTATIONS_OF_SAMPLES)
    ]
    null = _information(torch.stack([mass[:, :, number, order].sum(2) for order in orders]))
    level = ChanceLevel(
        uniform=0.0,
        hash_mean=0.0,
        hashed=torch.zeros(1, dtype=torch.float64),
        bounds=(0.0, math.log(min(positions, modules))),
    )
    measured = Measured(_information(mass.sum(2)), null=null, beyond=True)
    metric = "position_information"
    base = Score(model=model, metric=metric, better=better_of(metric))
    yield from entries(base, measured, members, levels=[level] * mass.shape[1], samples=samples)


def _information(table: Float64[Tensor, "*n positions modules"]) -> Float64[Tensor, "*n"]:
    """Return the information of sums; 0 in a layer in which no module took anything."""
    return position_information(table / table.sum((-2, -1), keepdim=True).clamp(min=1e-300))
