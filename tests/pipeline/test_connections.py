"""Seeds of one task in pairs: what lies between them, and what is said of it."""

import itertools

import pytest
import torch

from modeval.cli.structure import lines
from modeval.data.tasks import draw, stack_tasks
from modeval.evaluate.subject import Subject
from modeval.nn import create
from modeval.pipeline.connections import connections
from modeval.pipeline.structure import RunStructure
from modeval.spec import MODELS, DataSpec, ModelSpec, from_dict
from modeval.spec.systems import named
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Batch

SEEDS = ((0, 0), (0, 1), (1, 0))
DATA = DataSpec(rules=2)


def subject(model: ModelSpec) -> Subject:
    return Subject(
        title="Any",
        origin="run",
        data=DATA,
        model=model,
        objective_known=True,
        seeds=SEEDS,
        sources=("",) * len(SEEDS),
        faults=("",) * len(SEEDS),
        selection="last",
        network=create(DATA, model, [seed for _, seed in SEEDS]),
    )


def samples() -> Batch:
    generators = [torch.Generator().manual_seed(3) for _ in SEEDS]
    tasks = stack_tasks(DATA, [task for task, _ in SEEDS])
    return draw(DATA, tasks, generators, samples=256)


@pytest.mark.parametrize("name", ["monolithic", "gt-modular"])
def test_a_seed_and_its_copy_in_another_order_are_connected_once_units_are_matched(
    name: str,
) -> None:
    made = subject(ModelSpec(**MODELS[name], encoder=6, width=24))
    network = made.network
    assert network is not None
    stepper = Stepper(network, "regression", engine="eager")
    for batch in itertools.islice(batches(Stream(DATA, SEEDS, 48, torch.device("cpu"))), 60):
        stepper.step(batch, torch.tensor(1e-2))
    network.requires_grad_(requires_grad=False)
    [apart] = connections(made, range(3), samples())
    assert (apart.one, apart.two) == ((0, 0), (0, 1))
    assert apart.barrier > apart.limit
    assert apart.matched > apart.limit, "other starts are more than other orders"
    held = dict(network.named_parameters())
    for parameter in held.values():
        parameter[1] = parameter[0]
    width = held["experts.hidden.bias"].shape[-1]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(0))
    for suffix, axis in (("hidden.weight", -1), ("hidden.bias", -1), ("readout.weight", -2)):
        value = held[f"experts.{suffix}"]
        value[1] = value[1].index_select(axis, order)
    [copied] = connections(made, range(3), samples())
    assert copied.barrier > copied.limit
    assert copied.matched < 1e-5
    said = RunStructure(title="Any", seeds=SEEDS, modules={}, connections=(copied,))
    assert any(
        "0 of 1 pair as they are, in 1 once units are matched" in each for each in lines(said)
    )
    assert said.to_dict()["connections"][0]["barrier"] == copied.barrier
    assert connections(made, [0, 2], samples()) == (), "of two tasks"


def test_seeds_whose_units_cannot_be_matched_are_left_out() -> None:
    model, _ = named("low-rank-per-rule", {"encoder": 6, "width": 24}, {})
    made = subject(from_dict(ModelSpec, model))
    assert connections(made, range(3), samples()) == ()
