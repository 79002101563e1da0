"""Evaluating a cohort on its own task: one pass gives routing, losses and their precision.

Samples are drawn until the numbers are certain enough, not by the million. The 95 % interval of
each entry of A may reach ``precision`` to either side, that of a loss ``LOSS_FACTOR · precision``
of the loss. A network whose routing looks at the rule alone needs few samples. The positions of a
sequence depend on each other, so the sequence is what is counted as a sample.

Evaluation has its own stream of random numbers, the same for each member and each model: models
are compared on the same inputs.
"""

import functools
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Generator, Tensor

from modeval.counting.count import count
from modeval.data import Dataset, in_order, require
from modeval.data.stream import task_index
from modeval.data.tasks import Coefficients, TaskStack, draw, stack_tasks, task_parameters
from modeval.evaluate.interventions import CHEAP, Asked, intervene, plan
from modeval.evaluate.near_boundary import push
from modeval.evaluate.positions import by_position
from modeval.evaluate.subject import (
    LOSS_FACTOR,
    Evaluation,
    Loss,
    Shifted,
    Subject,
)
from modeval.memory import keep_memory
from modeval.metrics.adaptation import rule_probes
from modeval.nn.bank import Bank
from modeval.nn.linear import StackedLinear
from modeval.nn.network import Network, Output, Route, count_parameters
from modeval.nn.routes import hardenings, on_largest
from modeval.nn.scorers import BY_RULE
from modeval.nn.size import size_of
from modeval.pace import tell
from modeval.spec import DataSpec, Objective
from modeval.types import Batch, RoutingCounts, shares

STREAM = 0x6D6F6465
"""Where the evaluation stream starts: a number that no training stream is seeded with."""
SHIFT = 2.0
BLOCKS = 32
STUDENT = 2.04
"""97.5 % point of Student's t with ``BLOCKS - 1`` degrees of freedom."""
LEAST, MOST = 2_048, 2**19
"""Samples (for sequences: positions) of a member that are drawn at least and at most."""
REFERENCE_BATCHES, REFERENCE_BATCH = 100, 1_000
"""What the reference's script for its MLPs evaluates on."""
WORKING_SPACE = 2**22
"""Numbers that the widest layer may hold for one chunk of samples; of 32 layers half, and so on."""
HARDENED = 2**12
"""Samples (positions) on which hardened routing is compared with soft routing."""
SHIFTED = 5.0
"""Positions that are run under each shifted rule distribution, times the precision."""


# --- evaluation ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bench:
    """A cohort on its task, ready to be run.

    Attributes:
        data: the task as it was trained on.
        tasks: rules of each member.
        network: on its device.
        generators: one for each member, all started at the same state.
        usable: ``(S,)`` members without a fault: these alone decide how long to go on.
        precision: what is asked for.
    """

    data: DataSpec
    tasks: TaskStack
    network: Network
    generators: list[Generator]
    usable: Tensor
    precision: float

    def batch(self, condition: "_Condition", samples: int) -> Batch:
        """Draw fresh samples under a condition."""
        data = self.data
        spec = replace(data, scale=data.scale * condition.factor, length=condition.drawn)
        shares = self._shares(condition.rules)
        return draw(spec, self.tasks, self.generators, samples=samples, rule_probabilities=shares)

    def _shares(self, rules: str) -> Tensor | None:
        """Return the shares of the rules, where they are not those of training."""
        data = self.data
        if rules == "trained" or not data.held_out:
            return None
        usual = torch.tensor(data.rule_probabilities or (1.0,) * data.rules)
        if rules == "held out":
            usual[: data.rules - data.held_out] = 0
        return usual / usual.sum()

    def chunk(self, positions: int) -> int:
        """Return how many samples of that many positions are run at once."""
        space = WORKING_SPACE << 4 * (self.generators[0].device.type == "cuda")
        kept = max(1, self.network.layer_count // 16)  # what each layer gave is held together
        size = space // (len(self.generators) * positions * _widest(self.network) * kept)
        return max(size // BLOCKS, 1) * BLOCKS


@dataclass(frozen=True, slots=True)
class _Condition:
    """Samples to draw, and what to measure on them.

    Attributes:
        drawn: positions of a sequence (1 and without a meaning for single samples).
        factor: what inputs are multiplied by.
        lengths: whose loss is measured: the losses of so many first positions.
        routed: whether routing is counted.
        pushed: whether samples are drawn mostly near the decision boundary.
        rules: which are drawn: those of training, those held out, or all.
    """

    drawn: int
    factor: float
    lengths: tuple[int, ...]
    routed: bool = False
    pushed: bool = False
    rules: Literal["trained", "held out", "all"] = "trained"


@dataclass(frozen=True, slots=True)
class _Sums:
    """What was measured so far."""

    samples: int
    losses: tuple[Loss, ...]
    counts: RoutingCounts | None
    positions: Tensor | None = None

    def __add__(self, other: "_Sums") -> "_Sums":
        pooled = tuple(mine + more for mine, more in zip(self.losses, other.losses, strict=True))
        counts = self.counts
        if counts is not None and other.counts is not None:
            counts = counts + other.counts
        positions = self.positions
        if positions is not None and other.positions is not None:
            positions = positions + other.positions
        return _Sums(self.samples + other.samples, pooled, counts, positions)


def evaluate(
    subject: Subject,
    *,
    precision: float = 0.005,
    device: torch.device | str = "cpu",
    seed: int = 0,
    dataset: Dataset | None = None,
    interventions: Asked | None = None,
) -> Evaluation:
    """Run a cohort on fresh samples of its task, or once over a data set.

    Args:
        subject: what to run; without a network there is nothing to run and all is empty.
        precision: largest half width of the 95 % interval of an entry of A.
        device: where to run.
        seed: of the evaluation stream.
        dataset: folder of ``modeval generate`` to run on in place of the stream.
        interventions: whether modules are switched off as well, and how; not at all when absent.
    """
    if subject.network is None:
        return Evaluation(losses=())
    keep_memory()
    device = torch.device(device)
    bench = _Bench(
        data=subject.data.clean,
        tasks=stack_tasks(subject.data, [task for task, _ in subject.seeds], device),
        network=subject.network.to(device),
        generators=[Generator(device).manual_seed(STREAM + seed) for _ in subject.seeds],
        usable=torch.tensor([not fault for fault in subject.faults], device=device),
        precision=precision,
    )
    asked = interventions or Asked(wanted=False)
    with torch.inference_mode():
        if dataset is not None:
            found = _evaluate_on(subject, bench, dataset, asked)
        else:
            found = _evaluate(bench, reference_losses(subject, bench.network, device), asked)
    size = size_of(bench.network)
    if size is None:
        return replace(found, parameters=count_parameters(bench.network))
    active = float(size.active(_chosen(bench.network, found.counts)))
    return replace(found, parameters=size.total, active=active)


def _chosen(network: Network, counts: RoutingCounts | None) -> Tensor:
    """Return how many modules a sample has in each layer, averaged over samples and members."""
    if counts is None or not network.sparse:
        return torch.full((network.layer_count,), float(network.module_count))
    # (S, L, B, R, M), every member having seen as many samples
    return (counts.selections.sum((2, 3, 4)) / counts.samples.sum((2, 3))).mean(0).cpu()


def _evaluate_on(subject: Subject, bench: _Bench, dataset: Dataset, asked: Asked) -> Evaluation:
    """Run the cohort once over a data set, whose shift decides what its losses are called."""
    check_dataset(subject, dataset)
    held = dataset.spec
    factor = held.scale / subject.data.scale
    condition = _Condition(
        held.length, factor, (held.length,), routed=bench.network.module_count > 1
    )
    rows = [task_index(dataset, task) for task, _ in subject.seeds]
    where = bench.generators[0].device

    def parts(size: int) -> Iterator[Batch]:
        for part in in_order(dataset, batch=size, device=where):
            yield Batch(part.inputs[rows], part.rule[rows], part.target[rows])

    sums = [_tally(bench, condition, part, None) for part in parts(bench.chunk(held.length))]
    total = functools.reduce(operator.add, sums)
    if total.counts is None:
        return Evaluation(losses=total.losses)
    shifted = not exact_from_activation(bench.network, bench.data)
    found = Evaluation(
        losses=total.losses,
        counts=total.counts,
        positions=total.positions,
        half_width=half_width(total.counts),
        shifted=_shifted(bench) if shifted else None,
    )
    if asked.wanted is False:
        return found
    wanted = plan(bench.network, held.rules).positions / (held.length if held.sequence else 1)
    samples = next(parts(_blocks_of(wanted)))
    return replace(found, **_intervened(bench, asked, samples))


def check_dataset(subject: Subject, dataset: Dataset) -> None:
    """Refuse a data set of another task than the model's; its inputs may be shifted.

    Raises:
        DataError: names what differs.
    """
    shift = {
        name: getattr(dataset.spec, name) for name in ("scale", "length", "rule_probabilities")
    }
    require(dataset, replace(subject.data, **shift), [task for task, _ in subject.seeds])


def reference_losses(
    subject: Subject, network: Network, device: torch.device
) -> tuple[Loss, ...] | None:
    """Return the losses of the reference's MLPs on the samples that its own script evaluates on.

    100 batches of 1,000 samples from ``RandomState(model seed)``, numbers before rules, first in
    distribution, then with inputs x2: the numbers can be compared with recorded ones digit by
    digit, where 100,000 other samples give cross-entropies that differ by a tenth.
    """
    if subject.origin != "modarch" or subject.data.task != "binary":
        return None
    members = [
        reference_batches(subject.data, task, np.random.RandomState(model))
        for task, model in subject.seeds
    ]
    condition = (_Condition(1, factor, (1,)) for factor in (1.0, SHIFT))
    losses = []
    for each, parts in zip(condition, zip(*members, strict=True), strict=True):
        batch = Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))).to(device)
        prediction = network(batch.inputs, batch.rule).prediction
        measured = sample_losses(prediction, batch.target, subject.data.objective)
        losses.append(_loss(subject.data, each, 1, *measured))
    return tuple(losses)


def reference_batches(
    data: DataSpec, task: int, numbers: np.random.RandomState
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return inputs, rules and targets ``(1, N, ...)`` in distribution and with inputs x2."""
    alpha, beta = (part.numpy() for part in task_parameters(data, task).values())
    conditions = []
    for factor in (1.0, SHIFT):
        drawn = [
            (numbers.randn(size), numbers.randn(size), numbers.choice(data.rules, size=size))
            for size in (REFERENCE_BATCH,) * REFERENCE_BATCHES
        ]
        one, two, rule = (np.concatenate(part) for part in zip(*drawn, strict=True))
        one, two = factor * one, factor * two
        target = alpha[rule] * one + beta[rule] * two
        if data.objective == "classification":
            target = target >= 0
        conditions.append(
            (
                torch.tensor(np.stack((one, two), -1), dtype=torch.float32)[None],
                torch.tensor(rule)[None],
                torch.tensor(target, dtype=torch.float32)[None, :, None],
            )
        )
    return conditions


def _evaluate(bench: _Bench, recorded: tuple[Loss, ...] | None, asked: Asked) -> Evaluation:
    routed = bench.network.module_count > 1
    conditions = _conditions(bench.data, routed=routed)
    if recorded is not None:  # the losses are known: what is left to see is the routing
        conditions = [replace(each, lengths=()) for each in conditions if each.routed]
    runs = [_measure(bench, condition) for condition in conditions]
    losses = recorded or tuple(loss for run in runs for loss in run.losses)
    held_out = _held_out(bench)
    if not routed:
        return Evaluation(losses=losses, held_out=held_out)
    [sums] = [run for run in runs if run.counts is not None]
    drawn = Generator(bench.generators[0].device).manual_seed(STREAM)
    more = {} if asked.wanted is False else hardenings(drawn)
    routable = bench.network.routable
    hardened = _hardened(bench, {"hard_gap": on_largest} | more) if routable else {}
    found = Evaluation(
        losses=losses,
        counts=sums.counts,
        positions=sums.positions,
        half_width=None if sums.counts is None else half_width(sums.counts),
        hardened=hardened,
        held_out=held_out,
        shifted=None if exact_from_activation(bench.network, bench.data) else _shifted(bench),
    )
    return found if asked.wanted is False else replace(found, **_intervened(bench, asked))


def _conditions(data: DataSpec, *, routed: bool) -> list[_Condition]:
    """Return what to run, each with the lengths whose loss it gives."""
    length = data.length
    main = _Condition(length, 1.0, (length,), routed=routed)
    if pushable(data) or data.held_out:
        routing = [_Condition(length, 1.0, (), routed=True, rules="all")] if routed else []
        return [
            *routing,
            *(
                _Condition(length, factor, (length,), pushed=pushable(data))
                for factor in (1.0, SHIFT)
            ),
        ]
    if data.task == "binary":
        return [main, _Condition(length, SHIFT, (length,))]
    every = data.tested_lengths
    others = tuple(each for each in every if each != length)
    if data.task == "series":
        # What comes later does not change what was: one run of the longest gives all lengths.
        return [
            main,
            _Condition(others[-1], 1.0, others),
            _Condition(every[-1], SHIFT, every),
        ]
    return [
        main,
        *(_Condition(other, 1.0, (other,)) for other in others),
        *(_Condition(each, SHIFT, (each,)) for each in every),
    ]


def _held_out(bench: _Bench) -> Loss | None:
    """Return the loss on rules that were held out; drawn after all other losses."""
    data = bench.data
    if not data.held_out:
        return None
    length, pushed = data.length, pushable(data)
    condition = _Condition(length, 1.0, (length,), pushed=pushed, rules="held out")
    return _measure(bench, condition).losses[0]


def _measure(bench: _Bench, condition: _Condition) -> _Sums:
    """Draw until everything is precise enough, or the most that is drawn is reached."""
    positions = condition.drawn if bench.data.sequence else 1
    chunk, most = bench.chunk(positions), _blocks_of(MOST / positions)
    sums = _run(bench, condition, _blocks_of(LEAST / positions))
    while (seen := sums.samples) < most and (wanted := _needed(bench, sums)) > seen:
        tell("running the models, samples", seen, min(wanted, most))
        sums += _run(bench, condition, min(chunk, _blocks_of(min(wanted, most) - seen)))
    return sums


def _blocks_of(samples: float | int) -> int:  # noqa: PYI041 - checked as written at run time
    return max(math.ceil(samples / BLOCKS), 1) * BLOCKS


def _needed(bench: _Bench, sums: _Sums) -> float:
    """Return how many samples of each member will do, judging from those seen so far."""
    goal = LOSS_FACTOR * bench.precision
    ratios = [loss.half_width() / (goal * loss.mean()) for loss in sums.losses]
    if sums.counts is not None:
        ratios.append(half_width(sums.counts) / bench.precision)
    # A member whose loss is not finite, or zero, has nothing to wait for.
    ratio = torch.stack(ratios).nan_to_num(0.0, 0.0, 0.0)[:, bench.usable]
    return sums.samples * float(ratio.amax() if ratio.numel() else 0.0) ** 2


def _run(bench: _Bench, condition: _Condition, samples: int) -> _Sums:
    """Run the cohort on fresh samples."""
    data, weight = bench.data, None
    batch = bench.batch(condition, samples)
    if condition.pushed and isinstance(bench.tasks, Coefficients):
        batch, weight = push(batch, bench.tasks, data.scale * condition.factor)
    return _tally(bench, condition, batch, weight)


def _tally(bench: _Bench, condition: _Condition, batch: Batch, weight: Tensor | None) -> _Sums:
    """Run the cohort on given samples, weighted if they were drawn unevenly."""
    data = bench.data
    output = bench.network(batch.inputs, batch.told)
    each, wrong = sample_losses(output.prediction, batch.target, data.objective)
    if weight is not None:
        each, wrong = each * weight, wrong * weight
    return _Sums(
        batch.rule.shape[1],
        tuple(_loss(data, condition, length, each, wrong) for length in condition.lengths),
        _count(batch.rule, output, bench.network, data.rules) if condition.routed else None,
        by_position(output.routed, BLOCKS) if condition.routed and data.sequence else None,
    )


def pushable(data: DataSpec) -> bool:
    """Tell whether losses are best sampled near the boundary: see :mod:`.near_boundary`."""
    linear = data.task == "binary" and data.operation == "linear"
    return linear and data.objective == "classification"


def sample_losses(
    prediction: Float[Tensor, "seeds samples *positions outputs"],
    target: Float[Tensor, "seeds samples *positions outputs"],
    objective: Objective,
) -> tuple[Float[Tensor, "seeds samples *positions"], Float[Tensor, "seeds samples *positions"]]:
    """Return loss and share of wrong labels of each sample or position.

    Absolute error, averaged over the outputs, or cross-entropy of the logits.
    """
    if objective == "regression":
        each = (prediction - target).abs().mean(-1)
        return each, torch.zeros_like(each)
    each = F.binary_cross_entropy_with_logits(prediction, target, reduction="none").mean(-1)
    wrong = ((prediction >= 0) != (target >= 0.5)).to(each.dtype).mean(-1)  # noqa: PLR2004
    return each, wrong


def _loss(data: DataSpec, condition: _Condition, length: int, each: Tensor, wrong: Tensor) -> Loss:
    """Sum up the losses of the first ``length`` positions; a sequence is one sample."""
    if data.sequence:
        each, wrong = each[:, :, :length].mean(-1), wrong[:, :, :length].mean(-1)
    each, wrong = each.double(), wrong.double()
    return Loss(
        length=length if data.sequence else None,
        factor=condition.factor,
        total=each.sum(1),
        square=each.square().sum(1),
        wrong=wrong.sum(1),
        samples=each.shape[1],
    )


def _count(rule: Tensor, output: Output, network: Network, rules: int) -> RoutingCounts:
    """Count routing of each layer; consecutive samples, whole sequences, form a block.

    What multiplied module outputs is counted as shares of a sample. A sample that no module took
    adds to the samples and to no mass.
    """
    positions = rule[0, 0].numel()
    block = torch.arange(rule.shape[1], device=rule.device) * BLOCKS // rule.shape[1]
    weight = torch.stack([shares(each.weight.flatten(1, -2)) for each in output.routed], 1)
    number = torch.arange(weight.shape[-1], device=weight.device)
    return count(
        rule.flatten(1).unsqueeze(1),
        weight,
        rules=rules,
        block=block.repeat_interleave(positions),
        blocks=BLOCKS,
        chosen=torch.where(weight > 0, number, -1) if network.sparse else None,
    )


def half_width(counts: RoutingCounts) -> Float64[Tensor, "seeds"]:
    """Return half the 95 % interval of the least certain entry of A of each member.

    Blocks are independent; with W_b and n_b the mass and the samples of a rule in block b,
    ``Var(A) = B/(B-1) sum_b (W_b - A n_b)^2 / (sum_b n_b)^2``.
    """
    samples = counts.samples.sum(-2, keepdim=True)
    activation = counts.mass.sum(-3, keepdim=True) / samples.unsqueeze(-1)
    residual = counts.mass - activation * counts.samples.unsqueeze(-1)
    blocks = counts.mass.shape[-3]
    variance = residual.square().sum(-3) * (blocks / (blocks - 1)) / samples.mT.square()
    return STUDENT * variance.sqrt().flatten(1).amax(1)


# --- hardened routing and shifted rules ----------------------------------------------------------


def _hardened(bench: _Bench, routes: Mapping[str, Route]) -> dict[str, Loss]:
    """Return how much the loss grows when soft weights are made hard, on pairs."""
    data = bench.data
    condition = _Condition(data.length, 1.0, (data.length,))
    batch = bench.batch(condition, _blocks_of(HARDENED / (data.length if data.sequence else 1)))

    def measured(route: Route | None) -> tuple[Tensor, Tensor]:
        output = bench.network(batch.inputs, batch.told, route=route)
        return sample_losses(output.prediction, batch.target, data.objective)

    soft_loss, soft_wrong = measured(None)
    found = {}
    for name, route in routes.items():
        loss, wrong = measured(route)
        found[name] = _loss(data, condition, data.length, loss - soft_loss, wrong - soft_wrong)
    return found


# --- modules switched off ------------------------------------------------------------------------


def _intervened(bench: _Bench, asked: Asked, batch: Batch | None = None) -> dict[str, Any]:
    """Return what switching modules off tells, as fields of an :class:`Evaluation`.

    Args:
        bench: the cohort; its streams are drawn from last, so that all else is as without.
        asked: whether it is wanted.
        batch: samples of a data set in place of fresh ones.
    """
    network, rules = bench.network, bench.data.rules
    if not network.routable:
        return {"untouched": "modules were not switched off: its forward takes no route"}
    planned = plan(network, rules, shapley=asked.shapley)
    if asked.wanted is None and planned.work > CHEAP:
        return {
            "untouched": f"modules were not switched off: it takes {planned.passes:,} forward "
            "passes. Ask for it with --interventions"
        }
    length = bench.data.length if bench.data.sequence else 1
    if batch is None:
        where = bench.generators[0].device
        even = torch.full((rules,), 1 / rules, dtype=torch.float64, device=where)
        samples = _blocks_of(planned.positions / length)
        batch = draw(
            bench.data, bench.tasks, bench.generators, samples=samples, rule_probabilities=even
        )
    found = intervene(
        network,
        batch,
        lambda output, part: sample_losses(output, part.target, bench.data.objective)[0],
        planned=planned,
        chunk=bench.chunk(length),
        seed=asked.seed,
        watch=asked.watch,
    )
    if found is None:
        return {"untouched": "modules were not switched off: a rule has no samples"}
    return {"interventions": found}


def exact_from_activation(network: Network, data: DataSpec) -> bool:
    """Tell whether module shares under any rule shares p are exactly ``p A``.

    They are when weights depend on a sample's own rule and on inputs that do not depend on the
    rule; a position of a sequence may also look at the rules of the others, and gatings with room
    for so many samples look at the whole batch.
    """
    return not network.batchwise and (not data.sequence or network.looks_at in BY_RULE)


def _shifted(bench: _Bench) -> Shifted:
    """Run the cohort under each probe's rule shares."""
    data = bench.data
    probes = rule_probes(data.rules).to(bench.generators[0].device)
    each = max(round(SHIFTED / bench.precision / data.length), 8)
    together = max(min(bench.chunk(data.length) // each, len(probes)), 1)
    rules, modules = [], []
    for part in probes.split(together):
        batch = draw(
            data, bench.tasks, bench.generators, samples=each * len(part), rule_probabilities=part
        )
        routed = bench.network(batch.inputs, batch.told).routed
        shape = (len(batch.rule), len(part), -1)
        shown = F.one_hot(batch.rule.view(shape), data.rules).double().mean(2)
        rules.append(shown)
        weight = torch.stack([shares(layer.weight.flatten(1, -2)) for layer in routed], 1)
        modules.append(weight.unflatten(2, shape[1:]).double().mean(3))
    return Shifted(torch.cat(rules, 1), torch.cat(modules, 2))


def _widest(network: Network) -> int:
    """Return the numbers that the widest layer holds for one sample or position."""
    widths = [
        weight[0].numel() // weight.shape[-2]
        for layer in network.modules()
        if isinstance(layer, StackedLinear | Bank)
        for weight, _ in (layer.parts(),)
    ]
    return max(widths, default=network.widest)
