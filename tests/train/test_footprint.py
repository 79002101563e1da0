"""Memory of a step is known before it is taken."""

import pytest
import torch
from torch import Tensor

from modeval.nn import create
from modeval.spec import MODELS, DataSpec, ModelSpec
from modeval.spec.gatings import Base
from modeval.train.footprint import free_bytes, seeds_at_once, step_bytes
from modeval.train.goal import losses
from modeval.train.stream import Stream, batches


@pytest.mark.parametrize("name", ["modular", "gt-modular"])
@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_what_a_step_keeps_is_what_autograd_keeps_of_real_samples(task: str, name: str) -> None:
    data = DataSpec(task=task, rules=3)  # type: ignore[arg-type]
    model = ModelSpec(**MODELS[name], encoder=8, width=24)
    network = create(data, model, (1, 2))
    batch = next(batches(Stream(data, ((1, 1), (2, 2)), 16, torch.device("cpu"))))
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = network(batch.inputs, batch.rule).prediction
        total = losses(prediction, batch.target, data.objective).sum()
    own = {value.untyped_storage().data_ptr() for value in network.parameters()}
    given = {part.untyped_storage().data_ptr() for part in (batch.inputs, batch.target)}
    saved = sum(t.untyped_storage().nbytes() for p, t in kept.items() if p not in own | given)
    of_two = 4 * sum(value.nbytes for value in network.parameters()) + saved
    assert total.requires_grad
    expected = step_bytes(data, model, 16)
    assert expected is not None
    assert 2 * expected == pytest.approx(of_two, rel=0.1)  # what all seeds share counts twice


def test_what_waits_within_a_step_is_not_known() -> None:
    assert step_bytes(DataSpec(rules=2), ModelSpec(gating=Base()), 16) is None


@pytest.mark.parametrize("seeds", [1, 7, 25, 1000])
@pytest.mark.parametrize("free", [0, 1, 99, 100, 1_234, 10**9])
def test_parts_fit_and_are_as_few_and_as_equal_as_can_be(seeds: int, free: int) -> None:
    size = seeds_at_once(seeds, 100, free)
    assert 1 <= size <= seeds
    assert size == 1 or size * 100 <= free
    parts = -(-seeds // size)
    assert parts * max(1, min(seeds, free // 100)) >= seeds
    assert size * parts - seeds < parts


def test_some_memory_is_free() -> None:
    assert free_bytes(torch.device("cpu")) > 2**20
