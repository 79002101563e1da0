"""Networks whose causal structure is known, because somebody wrote it down."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modeval.evaluate.interventions import Interventions, Plan, intervene, plan
from modeval.nn.network import Network, Output, Routed
from modeval.types import Batch

Function = Callable[[Tensor, Tensor], Tensor]
"""A map of inputs ``(S, N)`` and rules ``(S, N)``."""


@dataclass(frozen=True)
class World:
    """A task, and modules that solve it in a known way.

    Attributes:
        rules: number of rules.
        target: what is wanted.
        weight: gives routing weights ``(S, N, M)``.
        modules: what each module says.
        seeds: size of the cohort, whose members are all the same.
    """

    rules: int
    target: Function
    weight: Function
    modules: tuple[Function, ...]
    seeds: int = 1


class Constructed(Network):
    """A network that computes what a world says, by modules that are mixed by their weights."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.seeds, self.rules, self.module_count = world.seeds, world.rules, len(world.modules)

    def forward(self, inputs, rule, *, noise=None, route=None) -> Output:
        x = inputs[..., 0]
        weight = self.world.weight(x, rule)
        if route is not None:
            weight = route(weight, 0)
        said = torch.stack([module(x, rule) for module in self.world.modules], -1)
        output = (weight * said).sum(-1, keepdim=True)
        return Output(output, (Routed(weight, lambda: weight, output),))


def batch_of(world: World, samples: int = 2_048, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(world.seeds, samples, generator=draws)
    rule = torch.randint(world.rules, (world.seeds, samples), generator=draws)
    return Batch(x.unsqueeze(-1), rule, world.target(x, rule).unsqueeze(-1))


def absolute(prediction: Tensor, batch: Batch) -> Tensor:
    return (prediction - batch.target).abs().mean(-1)


def intervened(world: World, *, shapley: int = 0, seed: int = 0) -> Interventions:
    network = Constructed(world)
    planned: Plan = plan(network, world.rules, shapley=shapley)
    with torch.inference_mode():
        found = intervene(network, batch_of(world, seed=seed), absolute, planned=planned, seed=seed)
    assert found is not None
    return found


def table(rows: list[list[float]]) -> Function:
    """Return weights that depend on the rule alone."""
    known = torch.tensor(rows)
    return lambda _x, rule: known[rule]


def scaled(factor: float) -> Function:
    return lambda x, _rule: factor * x


def by_rule(*factors: float) -> Function:
    known = torch.tensor(factors)
    return lambda x, rule: known[rule] * x


def used_and_useless() -> World:
    """Half of every rule's samples go to a third module, which has nothing to say of them."""

    def weight(x: Tensor, rule: Tensor) -> Tensor:
        module = torch.where(x > 0, rule, 2)
        return torch.nn.functional.one_hot(module, 3).float()

    def target(x: Tensor, rule: Tensor) -> Tensor:
        return by_rule(1.0, -2.0)(x, rule).where(x > 0, 0.0)

    return World(2, target, weight, (scaled(1.0), scaled(-2.0), scaled(0.0)))


def rare_and_vital() -> World:
    """One sample in forty of rule 1 goes to module 1, and there a hundredfold is at stake."""
    rare = 1.96

    def weight(x: Tensor, rule: Tensor) -> Tensor:
        module = torch.where(rule == 0, 0, torch.where(x > rare, 1, 2))
        return torch.nn.functional.one_hot(module, 3).float()

    def target(x: Tensor, rule: Tensor) -> Tensor:
        return torch.where((rule == 1) & (x > rare), 100 * x, 0.01 * x)

    return World(2, target, weight, (scaled(0.01), scaled(100.0), scaled(0.01)))


def redundant_twins() -> World:
    """Each rule prefers one of two modules, which are the same; a third serves rule 2 alone."""
    rows = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]]
    target = by_rule(1.0, 1.0, -1.0)
    return World(3, target, table(rows), (scaled(1.0), scaled(1.0), scaled(-1.0)))


def specialists(rules: int = 3) -> World:
    """Each rule has a module of its own."""
    factors = [1.0 + each for each in range(rules)]
    return World(
        rules,
        by_rule(*factors),
        table(torch.eye(rules).tolist()),
        tuple(scaled(each) for each in factors),
    )
