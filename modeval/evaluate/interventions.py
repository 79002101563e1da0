"""Interventions: what becomes of the loss of each rule when modules are switched off.

All of it costs forward passes and nothing else. Samples are the same in all of them, so that what
is compared are pairs, and few suffice; rules are drawn evenly.

    necessity     loss of a rule without a module, less the intact one; what the module's samples
                  had of it goes to their other modules
    silenced      the same when the others keep their weights, so that its part is lost
    sufficiency   loss of a rule when one module does all the work
    removal       loss while more and more modules go: at random, or the least used first
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64
from torch import Tensor

from modeval.metrics.causal import (
    causal_alignment_score,
    causal_information,
    routing_faithfulness,
)
from modeval.nn.network import Network, Output, Route
from modeval.nn.routes import keep_only, knock_out, only
from modeval.types import Batch, shares

KNOCKED, KNOCKED_EACH = 2_048, 64
"""Positions on which modules are knocked out, and the least for each rule."""
REMOVED, REMOVED_EACH = 512, 16
"""Likewise for the curves of removal, which have many more passes."""
ORDERS = 20
"""Random orders in which modules are removed, half of them the others reversed."""
LEVELS = 8
"""Steps of a curve at most: numbers of modules that are removed."""
PERMUTED = 99
"""Permutations of labels, and of modules."""
CERTAIN = 2.0
"""Standard errors above which a growth of the loss is no accident of the samples, and"""
ROUNDING = 1e-5
"""share of the intact loss above which it is none of the arithmetic."""
CHEAP = 1e11
"""Multiplications up to which interventions are made unasked: some ten seconds of one core."""

Losses = Callable[[Tensor, Batch], Tensor]
"""Gives the loss of each sample or position, ``(S, N)`` or ``(S, N, T)``."""
Watch = Callable[[int, int], None]
"""What is told how many of how many passes are done."""


def nobody(_done: int, _all: int) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is wanted of interventions.

    Attributes:
        wanted: yes, no, or nothing: where they are cheap.
        shapley: random orders for Shapley values; 0 for none.
        seed: of random orders and permutations.
        watch: told how far it is.
    """

    wanted: bool | None = None
    shapley: int = 0
    seed: int = 0
    watch: Watch = nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Loss of a cohort while modules of one layer are removed.

    Attributes:
        removed: ``(J,)`` numbers of modules that are removed, from 0 to M.
        random: ``(P, S, L, J)`` in P random orders, the same for all seeds and layers.
        by_use: ``(S, L, J)`` the least used first.
    """

    removed: tuple[int, ...]
    random: Float64[Tensor, "orders seeds layers levels"]
    by_use: Float64[Tensor, "seeds layers levels"]

    @property
    def share(self) -> Float64[Tensor, "levels"]:
        """``(J,)`` share of the modules that are removed."""
        counts = torch.tensor(self.removed, dtype=torch.float64)
        return counts / counts[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interventions:
    """What interventions tell of a cohort.

    Attributes:
        intact: ``(S, R)`` loss of each rule.
        activation: ``(S, L, R, M)`` A on the same samples.
        necessity: ``(S, L, R, M)`` growth of the loss without each module, the rest of a sample's
            modules taking over.
        silenced: ``(S, L, R, M)`` growth when they keep their weights.
        sufficiency: ``(S, L, R, M)`` loss with one module alone.
        floor: ``(S, L, R, M)`` necessity up to which there is none: sampling and arithmetic.
        nulls: ``(P, S, L)`` scores by name when labels, or modules, are permuted.
        curves: loss while modules go.
        shapley: ``(S, L, R, M)`` mean growth of the loss when a module goes, over random orders.
        shapley_error: ``(S, L, R, M)`` its standard error from the number of orders.
        passes: forward passes that it took.
        samples: positions of each member behind the matrices.
    """

    intact: Float64[Tensor, "seeds rules"]
    activation: Float64[Tensor, "seeds layers rules modules"]
    necessity: Float64[Tensor, "seeds layers rules modules"]
    silenced: Float64[Tensor, "seeds layers rules modules"]
    sufficiency: Float64[Tensor, "seeds layers rules modules"]
    floor: Float64[Tensor, "seeds layers rules modules"]
    curves: Curves
    nulls: Mapping[str, Float64[Tensor, "permutations seeds layers"]] = field(default_factory=dict)
    shapley: Float64[Tensor, "seeds layers rules modules"] | None = None
    shapley_error: Float64[Tensor, "seeds layers rules modules"] | None = None
    passes: int = 0
    samples: int = 0


# --- what it costs -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What interventions on a network take.

    Attributes:
        positions: positions that are run with modules knocked out.
        fewer: positions that are run for the curves.
        orders: random orders of them.
        steps: numbers of modules that are removed.
        shapley: orders for Shapley values.
        passes: forward passes, at most.
        work: multiplications, about.
    """

    positions: int
    fewer: int
    orders: int
    steps: tuple[int, ...]
    shapley: int
    passes: int
    work: float


def plan(network: Network, rules: int, *, shapley: int = 0) -> Plan:
    """Say what interventions on a network would take."""
    modules, layers = network.module_count, network.layer_count
    positions = max(KNOCKED, KNOCKED_EACH * rules)
    fewer = min(positions, max(REMOVED, REMOVED_EACH * rules))
    steps = _steps(modules)
    subsets = 2.0 ** min(modules, 30)
    curve = (
        min(ORDERS * (len(steps) - 2), subsets) + len(steps) + 2 + min(shapley * modules, subsets)
    )
    knocked = 1 + 3 * modules * layers
    work = (knocked * positions + curve * layers * fewer) * float(
        sum(parameter.numel() for parameter in network.parameters())
    )
    passes = knocked + int(curve) * layers
    return Plan(positions, fewer, ORDERS, steps, shapley, passes, work)


def _steps(modules: int) -> tuple[int, ...]:
    if modules <= LEVELS:
        return tuple(range(modules + 1))
    return tuple(round(modules * step / LEVELS) for step in range(LEVELS + 1))


# --- running -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Runner:
    """A network on one batch; counts its passes and tells of them."""

    network: Network
    batch: Batch
    losses: Losses
    chunk: int
    every: int
    watch: Watch
    done: int = 0

    def run(self, route: Route | None = None) -> Tensor:
        """Return the loss of each position, ``(S, N, T)``."""
        self.done += 1
        self.watch(min(self.done, self.every - 1), self.every)
        parts = [
            self.losses(self._output(part, route).prediction, part)
            for part in _parts(self.batch, self.chunk)
        ]
        return torch.cat(parts, 1).double().reshape(*self.batch.rule.shape[:2], -1)

    def weights(self) -> Tensor:
        """Return the shares of each position, ``(S, L, N·T, M)``."""
        parts = [
            torch.stack([shares(each.weight) for each in self._output(part, None).routed], 1)
            for part in _parts(self.batch, self.chunk)
        ]
        return torch.cat(parts, 2).double().flatten(2, -2)

    def _output(self, part: Batch, route: Route | None) -> Output:
        output: Output = self.network(part.inputs, part.told, route=route)
        return output


def _parts(batch: Batch, chunk: int) -> Iterator[Batch]:
    for start in range(0, batch.rule.shape[1], chunk):
        yield first_samples(batch, start + chunk, start)


def first_samples(batch: Batch, stop: int, start: int = 0) -> Batch:
    """Return some of the samples of a batch, the same of each member."""
    part = slice(start, stop)
    shown = None if batch.shown is None else batch.shown[:, part]
    return Batch(batch.inputs[:, part], batch.rule[:, part], batch.target[:, part], shown)


def intervene(
    network: Network,
    batch: Batch,
    losses: Losses,
    *,
    planned: Plan,
    chunk: int = 2**30,
    seed: int = 0,
    watch: Watch = nobody,
) -> Interventions | None:
    """Switch modules off, one by one and many at a time, and see what becomes of the losses.

    Args:
        network: a cohort; it stays as it is.
        batch: samples, as many of each rule if possible.
        losses: gives the loss of each sample.
        planned: from :func:`plan`.
        chunk: samples that are run at once.
        seed: of random orders and permutations.
        watch: told how far it is.

    Returns:
        Nothing where a rule has no samples in the batch.
    """
    rules = network.rules
    positions = batch.rule[0, 0].numel()
    fewer = first_samples(batch, -(-planned.fewer // positions))
    if any(bool((_members(part, rules).sum((1, 2)) == 0).any()) for part in (batch, fewer)):
        return None
    runner = _Runner(network, batch, losses, chunk, planned.passes, watch)
    member = _members(batch, rules)
    weights = runner.weights()
    activation = _by_rule(weights, member)
    intact = runner.run()
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack(
        [torch.randperm(batch.rule.shape[1], generator=generator) for _ in range(PERMUTED)]
    ).to(batch.rule.device)
    silenced, sufficiency, layers = [], [], []
    modules = range(network.module_count)
    for layer in range(network.layer_count):
        off = [runner.run(knock_out([each], layer=layer)) - intact for each in modules]
        layers.append(torch.stack(off, 1))
        lost = (
            runner.run(knock_out([each], layer=layer, renormalise=False)) - intact
            for each in modules
        )
        silenced.append(torch.stack([_mean(each, member) for each in lost], -1))
        alone = (runner.run(only(each, layer=layer)) for each in modules)
        sufficiency.append(torch.stack([_mean(each, member) for each in alone], -1))
    loss = _mean(intact, member)
    found = [_need(growth, member, loss) for growth in layers]
    necessity, floor = (torch.stack(each, 1) for each in zip(*found, strict=True))
    small = _Runner(network, fewer, losses, chunk, planned.passes, watch, runner.done)
    curves, shapley, error = _removal(small, planned, activation.mean(2), generator)
    nulls = _nulls(layers, member, loss, order) | _exchanged(
        activation, necessity, floor, generator
    )
    watch(planned.passes, planned.passes)
    return Interventions(
        intact=loss,
        activation=activation,
        necessity=necessity,
        silenced=torch.stack(silenced, 1),
        sufficiency=torch.stack(sufficiency, 1),
        floor=floor,
        nulls=nulls,
        curves=curves,
        shapley=shapley,
        shapley_error=error,
        passes=small.done,
        samples=batch.rule[0].numel(),
    )


# --- means by rule -------------------------------------------------------------------------------


def _members(batch: Batch, rules: int) -> Float64[Tensor, "seeds samples positions rules"]:
    """Return which rule each position is of."""
    rule = batch.rule.reshape(*batch.rule.shape[:2], -1)
    return F.one_hot(rule, rules).double()


def _mean(loss: Tensor, member: Tensor) -> Float64[Tensor, "seeds rules"]:
    """Return the mean loss of each rule of ``(S, N, T)``."""
    return torch.einsum("snt,sntr->sr", loss, member) / member.sum((1, 2))


def _by_rule(weights: Tensor, member: Tensor) -> Float64[Tensor, "seeds layers rules modules"]:
    """Return A."""
    flat = member.flatten(1, 2)
    return torch.einsum("slnm,snr->slrm", weights, flat) / flat.sum(1)[:, None, :, None]


def _need(
    growth: Float64[Tensor, "seeds modules samples positions"], member: Tensor, intact: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the growth of the loss of each rule, ``(S, R, M)``, and up to where it is none.

    Samples are independent, the positions of one are not: with d_n and c_n the growth and the
    positions of rule r in sample n, ``Var = sum_n (d_n - N c_n)^2 / (sum_n c_n)^2``.
    """
    if member.shape[2] == 1:  # a sample is of one rule: products instead of sums for each of them
        flat, one = growth.squeeze(-1), member.squeeze(2)
        total, square = flat @ one, flat.square() @ one
        count = one.sum(1)[:, None]
        mean = total / count
        variance = (square - mean * total) / count.square()
    else:
        each = torch.einsum("smnt,sntr->smnr", growth, member)
        count = member.sum(2)[:, None]
        mean = each.sum(2) / count.sum(2)
        variance = (each - mean.unsqueeze(2) * count).square().sum(2) / count.sum(2).square()
    error = variance.clamp(min=0).sqrt()
    floor = torch.maximum(CERTAIN * error, ROUNDING * intact.abs()[:, None])
    return mean.mT, floor.mT


# --- what chance gives ---------------------------------------------------------------------------


def _nulls(
    layers: Sequence[Tensor], member: Tensor, intact: Tensor, order: Tensor
) -> dict[str, Float64[Tensor, "permutations seeds layers"]]:
    """Return the scores when the labels of samples are exchanged: needs are the same for all."""
    drawn = [[_need(growth, member[:, each], intact) for growth in layers] for each in order]
    need, floor = (
        torch.stack([torch.stack([layer[part] for layer in each], 1) for each in drawn])
        for part in (0, 1)
    )
    return {
        "causal_alignment_score": causal_alignment_score(need, floor),
        "causal_information": causal_information(need, floor),
    }


def _exchanged(
    activation: Tensor, necessity: Tensor, floor: Tensor, generator: torch.Generator
) -> dict[str, Float64[Tensor, "permutations seeds layers"]]:
    """Return faithfulness when need is that of modules drawn at random."""
    modules = activation.shape[-1]
    orders = [torch.randperm(modules, generator=generator) for _ in range(PERMUTED)]
    used = torch.stack([activation[..., order.to(activation.device)] for order in orders])
    shape = used.shape
    found = routing_faithfulness(used, necessity.expand(shape), floor.expand(shape))
    return {"routing_faithfulness": found}


# --- removing many -------------------------------------------------------------------------------


def _removal(
    runner: _Runner, planned: Plan, use: Tensor, generator: torch.Generator
) -> tuple[Curves, Tensor | None, Tensor | None]:
    """Return the loss while modules go, and Shapley values where they are asked for.

    Args:
        runner: the network on fewer samples.
        planned: how many orders.
        use: ``(S, L, M)`` share of the work of each module.
        generator: draws orders.
    """
    modules, steps = use.shape[-1], planned.steps
    half = _orders(planned.orders // 2, modules, generator)
    # each order and its reverse: where modules take their parts with them, their mean is exact
    orders = [*half, *(order.flip(0) for order in half)]
    further = _orders(planned.shapley, modules, generator)
    member = _members(runner.batch, runner.network.rules)
    random, by_use, values = [], [], []
    for layer in range(use.shape[1]):
        known: dict[bytes, Tensor] = {}

        def loss(keep: Tensor, layer: int = layer, known: dict[bytes, Tensor] = known) -> Tensor:
            key = keep.numpy().tobytes()
            if key not in known:
                known[key] = _mean(runner.run(keep_only(keep, layer=layer)), member)
            return known[key]

        curves = [[loss(_kept(order, step)).mean(-1) for step in steps] for order in orders]
        random.append(torch.stack([torch.stack(curve, -1) for curve in curves]))
        ranked = use[:, layer].cpu().argsort(dim=-1, stable=True)
        own = [loss(_kept(ranked, step)).mean(-1) for step in steps]
        by_use.append(torch.stack(own, -1))
        if planned.shapley:
            values.append(torch.stack([_growth(order, loss) for order in further]))
    found = Curves(
        removed=steps, random=torch.stack(random, 2).cpu(), by_use=torch.stack(by_use, 1).cpu()
    )
    if not values:
        return found, None, None
    every = torch.stack(values, 2)  # (P, S, L, R, M)
    return found, every.mean(0), every.std(0) / len(every) ** 0.5


def _orders(count: int, modules: int, generator: torch.Generator) -> list[Tensor]:
    return [torch.randperm(modules, generator=generator) for _ in range(count)]


def _kept(order: Tensor, step: int) -> Bool[Tensor, "*seeds modules"]:
    """Return which modules stay when the first of an order, ``(M,)`` or ``(S, M)``, are removed."""
    keep = torch.ones(order.shape, dtype=torch.bool)
    return keep.scatter(-1, order[..., :step], value=False)


def _growth(
    order: Tensor, loss: Callable[[Tensor], Tensor]
) -> Float64[Tensor, "seeds rules modules"]:
    """Return by how much the loss of each rule grows when each module goes, in one order."""
    path = torch.stack([loss(_kept(order, step)) for step in range(len(order) + 1)], -1)
    growth = torch.empty_like(path[..., 1:])
    growth[..., order] = path.diff(dim=-1)
    return growth
