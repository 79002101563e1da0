"""Laws that hold on any device: on a GPU where there is one, or where MODEVAL_TEST_DEVICE says."""

import os

import pytest
import torch

from modeval.metrics import match
from modeval.nn import create
from modeval.spec import MODELS, DataSpec, Engine, ModelSpec
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Batch

DEVICE = torch.device(
    os.environ.get("MODEVAL_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
)
ON_GPU = DEVICE.type == "cuda"
SEEDS = (3, 4, 5)
STEPS = 3
CASES = [
    (task, name)
    for task in ("binary", "sets", "series")
    for name in ("monolithic", "modular", "modular-op", "gt-modular")
]


def drawn(data: DataSpec, device: torch.device = DEVICE) -> list[Batch]:
    """Return the first batches of a cohort, drawn on the device."""
    source = batches(Stream(data, tuple((s, s) for s in SEEDS), 16, device))
    return [next(source) for _ in range(STEPS)]


def trained(
    data: DataSpec, name: str, seeds: tuple[int, ...], source: list[Batch], engine: Engine
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Train on the device of the batches; return the parameters and the last loss."""
    device = source[0].inputs.device
    model = ModelSpec(**MODELS[name], encoder=8, width=24)
    network = create(data, model, seeds).to(device)
    stepper = Stepper(network, data.objective, clip=1.0, engine=engine)
    rate, loss = torch.tensor(1e-3, device=device), torch.zeros(0)
    for batch in source:
        loss = stepper.step(batch, rate)
    return [value.detach().cpu() for value in network.parameters()], loss.cpu()


@pytest.mark.parametrize(("task", "name"), CASES)
def test_a_seed_of_a_cohort_is_that_seed_alone(task: str, name: str) -> None:
    data = DataSpec(task=task, rules=3)  # type: ignore[arg-type]
    source = drawn(data)
    together, loss = trained(data, name, SEEDS, source, "eager")
    alone, own = trained(data, name, SEEDS[1:2], [batch.seed(1) for batch in source], "eager")
    torch.testing.assert_close(loss[1:2], own, rtol=1e-4, atol=1e-6)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:2], other, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(("task", "name"), CASES)
def test_the_device_computes_what_the_processor_computes(task: str, name: str) -> None:
    data = DataSpec(task=task, rules=3)  # type: ignore[arg-type]
    source = drawn(data)
    here, loss = trained(data, name, SEEDS, source, "auto")
    there, own = trained(data, name, SEEDS, [batch.to("cpu") for batch in source], "eager")
    torch.testing.assert_close(loss, own, rtol=1e-3, atol=1e-5)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(not ON_GPU, reason="CUDA graphs need a GPU")
@pytest.mark.parametrize(("task", "name"), CASES)
def test_a_replayed_graph_is_the_step(task: str, name: str) -> None:
    data = DataSpec(task=task, rules=3)  # type: ignore[arg-type]
    source = drawn(data)
    replayed, loss = trained(data, name, SEEDS, source, "graphed")
    plain, own = trained(data, name, SEEDS, source, "eager")
    torch.testing.assert_close(loss, own, rtol=1e-4, atol=1e-6)
    for one, other in zip(replayed, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_batches_are_drawn_on_the_device() -> None:
    for task in ("binary", "sets", "series"):
        first = drawn(DataSpec(task=task, rules=3))[0]
        parts = (first.inputs, first.rule, first.target)
        assert {part.device.type for part in parts} == {DEVICE.type}


def test_matching_is_the_same_on_the_device() -> None:
    generator = torch.Generator().manual_seed(0)
    benefit = torch.rand(50, 6, 9, generator=generator, dtype=torch.float64)
    (columns, values), (own, exact) = match(benefit.to(DEVICE))[:2], match(benefit)[:2]
    torch.testing.assert_close(values.cpu(), exact)
    assert torch.equal(columns.cpu(), own)
