"""What lies between modules that a phase of training merges: are they connected by low loss?

Modules that are merged were trained apart, each on samples of its own. Each is joined with the next
one by a line, and the loss along it is that of the samples of both: mean of the two means. All
lines of a cohort are walked at once, because a network whose modules are between theirs and the
next answers for all of them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from modeval.evaluate.cohort import sample_losses
from modeval.evaluate.connected import Parameters, matchable, matched
from modeval.merge import Units, match_units, mode_barrier, permute_units
from modeval.metrics.course import Course, Merging
from modeval.nn import Network, build
from modeval.nn.bank import Bank
from modeval.spec import Objective, RunSpec
from modeval.spec.computing.computations import Diff
from modeval.spec.phases import Merge
from modeval.train.files import read_network
from modeval.train.learners import own_names
from modeval.train.stream import VALIDATION_SAMPLES, Stream, validation_batch
from modeval.train.validation import by_rule
from modeval.types import Batch


def merging_of(
    folder: Path, spec: RunSpec, kept: Sequence[int], course: Course | None
) -> Merging | None:
    """Return what merging cost, and what lies between the modules that were merged.

    They are taken as they were after the phase before, which is the last one whose weights have
    them apart. Nothing where no phase merges, or the first, or those weights are gone.

    Args:
        folder: of the run.
        spec: of the run.
        kept: numbers of the seeds that are wanted.
        course: losses of those by phase and rule.
    """
    merges = [
        number
        for number, (_, _, phase) in enumerate(spec.stretches)
        if any(isinstance(action, Merge) for action in (*phase.before, *phase.after))
    ]
    if not merges or not merges[0] or course is None:
        return None
    if not (folder / f"phase-{merges[0]}.safetensors").is_file():
        return None
    whole = read_network(folder, f"phase-{merges[0]}").state_dict()
    network = build(spec.data, spec.model, seeds=len(kept))
    network.load_state_dict({name: tensor[[*kept]] for name, tensor in whole.items()})
    seeds = tuple(spec.train.seeds[number] for number in kept)
    stream = Stream(spec.data, seeds, spec.train.batch, torch.device("cpu"))
    batch = validation_batch(stream, VALIDATION_SAMPLES)
    barrier, after = between_modules(network, batch.as_told(), spec.data.objective)
    loss = course.loss.nanmean(-1)
    return Merging(gap=loss[:, merges[0] + 1] - loss[:, merges[0]], barrier=barrier, matched=after)


def between_modules(
    network: Network, batch: Batch, objective: Objective
) -> tuple[Tensor, Tensor | None]:
    """Return the mean barrier of each seed between a module and the next, and once units match.

    Args:
        network: with modules that were trained apart.
        batch: samples, which go to the module with the largest weight.
        objective: what losses are.

    Returns:
        ``(S,)`` as they are; and with the next module's hidden units in the order of the module's,
        nothing where units are no one's own.
    """
    one = {name: value.detach() for name, value in network.named_parameters()}
    own = own_names(network)
    two = {name: v.roll(-1, 1) if name in own else v for name, v in one.items()}
    with torch.no_grad():
        routed = network(batch.inputs, batch.rule).routed
    chosen = [layer.weight.abs().argmax(-1) for layer in routed]
    modules = network.module_count

    def losses(parameters: Parameters, back: int) -> Tensor:
        """Return the mean loss ``(S, M)`` of samples of modules, ``back`` modules before theirs."""

        def route(weight: Tensor, layer: int) -> Tensor:
            given = F.one_hot((chosen[layer] - back) % modules, modules)
            return given.to(weight.dtype).view_as(weight)

        with torch.no_grad():
            output = torch.func.functional_call(
                network, parameters, (batch.inputs, batch.rule), {"route": route}
            )
        each, _ = sample_losses(output.prediction, batch.target, objective)
        return by_rule(each.double(), chosen[0], modules).roll(-back, 1)

    def loss(parameters: Parameters) -> Tensor:
        return (losses(parameters, 0) + losses(parameters, 1)) / 2

    ordered = _ordered(network, one, two)
    found = [mode_barrier(loss, one, each) for each in (two, ordered) if each is not None]
    means = [each.nanmean(1) for each in found]
    return means[0], means[1] if len(means) > 1 else None


def _ordered(network: Network, one: Parameters, two: Parameters) -> Parameters | None:
    """Return the second parameters with hidden units in the order of the first; the same models."""
    if matchable(network):
        return matched(network, one, two)
    banks = {name for name, part in network.named_modules() if _differs(part)}
    found = dict(two)
    names = sorted(name.removesuffix(".hidden") for name in banks if name.endswith(".hidden"))
    if not names or banks != {f"{name}.{part}" for name in names for part in ("hidden", "readout")}:
        return None
    for name in names:
        ends = [_units(parameters, name) for parameters in (one, found)]
        units = permute_units(ends[1], match_units(*ends))
        trunk = _units(one, name, own=False)
        found[f"{name}.hidden.own_weight"] = units.into - trunk.into
        found[f"{name}.hidden.own_bias"] = units.bias - trunk.bias
        found[f"{name}.readout.own_weight"] = units.out - trunk.out
    return found


def _differs(part: torch.nn.Module) -> bool:
    return isinstance(part, Bank) and isinstance(part.computation, Diff)


def _units(parameters: Parameters, name: str, *, own: bool = True) -> Units:
    """Return the hidden units of modules around a trunk; without what is their own, the trunk's."""
    into, bias, out = (
        parameters[f"{name}.{part}.shared.{kind}"].unsqueeze(1)
        + (parameters[f"{name}.{part}.own_{kind}"] if own else 0)
        for part, kind in (("hidden", "weight"), ("hidden", "bias"), ("readout", "weight"))
    )
    return Units(into=into, out=out, bias=bias)
