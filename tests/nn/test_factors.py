"""Factors of low-rank modules averaged apart: one module's is that module, all others meet."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from modeval.errors import SpecError
from modeval.evaluate.structure.redundancy import aligned_cosine
from modeval.nn import Network, create
from modeval.nn.routes import only
from modeval.spec import DataSpec, ModelSpec, title_of
from modeval.spec.computing.computations import LowRank
from modeval.train.step import Stepper
from modeval.types import Batch

DATA = {
    "binary": DataSpec(rules=3),
    "series": DataSpec(task="series", rules=3, length=4, dimension=3),
}
FACTORS, PRODUCTS = LowRank(rank=2, averaged="factors"), LowRank(rank=2)
SEEDS = (3, 5)
tasks = pytest.mark.parametrize("task", DATA)


def network_of(task: str, computation: LowRank, seeds: Any = SEEDS, **choices: Any) -> Network:
    model = ModelSpec(
        **{"scorer": "both", **choices}, computation=computation, aggregation="parameters",
        encoder=4, width=8,
    )  # fmt: skip
    network = create(DATA[task], model, seeds)
    with torch.no_grad():  # whose second factors start at 0
        for number, (_, parameter) in enumerate(sorted(network.named_parameters())):
            drawn = torch.randn(
                parameter.shape[1:], generator=torch.Generator().manual_seed(number)
            )
            parameter.add_(0.3 * drawn)
    return network


def batch_of(task: str, seeds: int = len(SEEDS)) -> Batch:
    data, generator = DATA[task], torch.Generator().manual_seed(1)
    shape = (6, data.length) if data.sequence else (6,)
    rule = torch.randint(data.rules, shape, generator=generator)
    inputs = torch.randn(*shape, data.features, generator=generator)
    target = torch.randn(*shape, data.outputs, generator=generator)
    return Batch(*(part.expand(seeds, *part.shape) for part in (inputs, rule, target)))


@tasks
@pytest.mark.parametrize("layers", [1, 2])
def test_one_module_alone_is_the_same_either_way_and_several_are_not(
    task: str, layers: int
) -> None:
    layers = layers if task == "binary" else 1
    one, two = (network_of(task, each, layers=layers) for each in (FACTORS, PRODUCTS))
    batch = batch_of(task)
    for route in (only(0), only(2), None):
        said, other = (net(batch.inputs, batch.rule, route=route).prediction for net in (one, two))
        assert torch.allclose(said, other, atol=1e-5) == (route is not None)
    with torch.no_grad():
        alone = [aligned_cosine(net) for net in (one, two)]
    if task == "binary":
        assert alone[0] is not None
        torch.testing.assert_close(alone[0], alone[1])


@tasks
@pytest.mark.parametrize("scorer", ["both", "rule"])
def test_every_engine_takes_the_step_of_the_definition(task: str, scorer: str) -> None:
    moved = []
    for engine in ("eager", "auto"):
        network = network_of(task, FACTORS, scorer=scorer)
        stepper = Stepper(network, "regression", engine=engine)
        slopes, loss, _ = stepper._slope(batch_of(task), None)
        moved.append([loss, *slopes])
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-5)


@tasks
def test_a_seed_of_a_cohort_is_that_seed_alone(task: str) -> None:
    batch = batch_of(task)
    whole = network_of(task, FACTORS)(batch.inputs, batch.rule).prediction
    alone = network_of(task, FACTORS, (5,))(batch.inputs[:1], batch.rule[:1]).prediction
    torch.testing.assert_close(whole[1:], alone)


def test_factors_are_averaged_only_where_parameters_are_mixed() -> None:
    with pytest.raises(SpecError, match="Use --aggregation parameters"):
        ModelSpec(scorer="rule", computation=FACTORS)
    assert replace(FACTORS, averaged="products") == PRODUCTS
    model = ModelSpec(scorer="rule", computation=FACTORS, aggregation="parameters")
    assert "low-rank rank 2 averaged factors" in title_of(model)
