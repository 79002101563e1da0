"""Are two members of a cohort connected by a line of low loss, before and after matching units?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from modeval.errors import RunError
from modeval.merge import Units, match_units, mode_barrier, permute_units
from modeval.nn.linear import StackedMLP
from modeval.nn.network import Network
from modeval.nn.scorers import ModuleScorer
from modeval.spec import Objective
from modeval.train.goal import losses
from modeval.types import Batch

Parameters = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Connection:
    """What lies between pairs of models.

    Attributes:
        barrier: ``(S,)`` as they are.
        matched: ``(S,)`` once the second's hidden units are in the order of the first's.
        loss: ``(S,)`` mean loss of both ends.
    """

    barrier: Float[Tensor, " pairs"]
    matched: Float[Tensor, " pairs"]
    loss: Float[Tensor, " pairs"]


def connection(
    network: Network,
    one: Parameters,
    two: Parameters,
    batch: Batch,
    objective: Objective,
    *,
    points: int = 11,
) -> Connection:
    """Return the barriers between pairs of models of one shape, on samples.

    Args:
        network: of the shape of both, a member for each pair.
        one: parameters of the first of each pair, by name.
        two: of the second.
        batch: samples, for each pair of its own task.
        objective: what losses are.
        points: how many points of the line are tried.
    """

    def loss(parameters: Parameters) -> Tensor:
        with torch.no_grad():
            output = torch.func.functional_call(network, parameters, (batch.inputs, batch.rule))
            return losses(output.prediction, batch.target, objective)

    return Connection(
        barrier=mode_barrier(loss, one, two, points=points),
        matched=mode_barrier(loss, one, matched(network, one, two), points=points),
        loss=(loss(one) + loss(two)) / 2,
    )


def matchable(network: Network) -> bool:
    """Tell whether modules have all of their parameters for themselves, so that units match."""
    return isinstance(dict(network.named_modules()).get("experts"), StackedMLP)


def matched(network: Network, one: Parameters, two: Parameters) -> Parameters:
    """Return the parameters of ``two`` with the hidden units of each MLP in the order of ``one``.

    What they compute stays the same. Widths between linear layers are left alone, and modules keep
    their numbers: two networks whose modules do each other's work are not made alike.

    Raises:
        RunError: the network has modules around a trunk, whose units are no one's own.
    """
    found = dict(two)
    scorer = next((n for n, part in network.named_modules() if isinstance(part, ModuleScorer)), "")
    names = [name for name, part in network.named_modules() if isinstance(part, StackedMLP)]
    if not matchable(network):
        raise RunError(
            "Units are matched between networks whose modules have all of their parameters for "
            "themselves (computation full, tasks binary and sets)."
        )
    for name in names:
        readers = [f"{name}.readout.weight"]
        if name == "experts" and scorer:  # it reads the units as well
            readers.append(f"{scorer}.logit.weight")
        ends = [_units(parameters, name, readers) for parameters in (one, found)]
        ordered = permute_units(ends[1], match_units(*ends))
        found[f"{name}.hidden.weight"] = ordered.into
        found[f"{name}.hidden.bias"] = ordered.bias
        widths = [found[reader].shape[-1] for reader in readers]
        found |= dict(zip(readers, ordered.out.split(widths, -1), strict=True))
    return found


def _units(parameters: Parameters, name: str, readers: list[str]) -> Units:
    return Units(
        into=parameters[f"{name}.hidden.weight"],
        out=torch.cat([parameters[reader] for reader in readers], -1),
        bias=parameters[f"{name}.hidden.bias"],
    )
