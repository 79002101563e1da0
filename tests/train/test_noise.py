"""Chance in training is a function of seeds and steps, and absent at evaluation."""

import itertools

import pytest
import torch

from modeval.nn import create
from modeval.spec import DataSpec, ModelSpec
from modeval.spec.gatings import EpsilonGreedy, Gating, Gumbel, NoisyTopK, Sinkhorn
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches, chunk_steps, uniform_numbers
from modeval.types import Noise

CPU = torch.device("cpu")
SEEDS = ((0, 0), (1, 0), (0, 3))
GATINGS: tuple[Gating, ...] = (Gumbel(), NoisyTopK(), EpsilonGreedy(), Sinkhorn())


@pytest.mark.parametrize("length", [None, 4])
def test_chance_of_a_seed_is_the_same_alone_and_in_a_cohort(length: int | None) -> None:
    data = DataSpec(rules=3) if length is None else DataSpec(task="sets", rules=3, length=length)
    together = next(uniform_numbers(Stream(data, SEEDS, 8, CPU), 5))
    assert together.shape == (3, 8, *(() if length is None else (length,)), 5)
    for index, seed in enumerate(SEEDS):
        alone = next(uniform_numbers(Stream(data, (seed,), 8, CPU), 5))
        assert torch.equal(alone[0], together[index])
    assert not torch.equal(together[0], together[1])


def test_chance_of_a_step_does_not_depend_on_where_one_begins() -> None:
    stream = Stream(DataSpec(rules=3), SEEDS, 8, CPU)
    steps = chunk_steps(stream.data, 8) + 3
    last = next(itertools.islice(uniform_numbers(stream, 2), steps, None))
    assert torch.equal(last, next(uniform_numbers(stream, 2, start=steps)))


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
@pytest.mark.parametrize("gating", GATINGS, ids=lambda gating: gating.kind)
def test_a_seed_is_trained_alike_alone_and_in_a_cohort_with_chance(
    task: str, gating: Gating
) -> None:
    sizes = {"binary": {}, "sets": {"length": 3}, "series": {"length": 3, "dimension": 3}}[task]
    data = DataSpec(task=task, rules=3, **sizes)  # type: ignore[arg-type]
    model = ModelSpec(
        scorer="rule", gating=gating, encoder=6, width=12, heads=1 if task == "sets" else 2
    )
    losses = []
    for seeds in (SEEDS, SEEDS[1:2]):
        network = create(data, model, [seed for _, seed in seeds])
        stream = Stream(data, seeds, 16, CPU)
        stepper = Stepper(network, data.objective, engine="eager")
        numbers = uniform_numbers(stream, network.chance)
        losses.append(
            torch.stack(
                [
                    stepper.step(batch, torch.tensor(1e-2), Noise(uniform, torch.tensor(0.5)))
                    for batch, uniform, _ in zip(batches(stream), numbers, range(3), strict=False)
                ]
            )
        )
    torch.testing.assert_close(losses[0][:, 1], losses[1][:, 0], rtol=1e-4, atol=1e-5)


def test_without_noise_a_network_says_the_same_twice_and_with_it_something_else() -> None:
    data = DataSpec(rules=3)
    network = create(data, ModelSpec(scorer="rule", gating=Gumbel(), encoder=6, width=12), (0,))
    x, rule = torch.randn(1, 50, 2), torch.randint(3, (1, 50))
    first, second = (network(x, rule).routed[0].weight for _ in range(2))
    assert torch.equal(first, second)
    noise = Noise(torch.rand(1, 50, network.chance), torch.tensor(0.0))
    assert not torch.equal(first, network(x, rule, noise=noise).routed[0].weight)
