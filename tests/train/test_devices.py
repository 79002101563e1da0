"""What a GPU needs, shown on processors: no step waits, and a recorded step is the step."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modeval.errors import RunError
from modeval.nn import create
from modeval.spec import MODELS, DataSpec, ModelSpec, RunSpec, from_dict
from modeval.spec.systems import SYSTEMS, named, system_of
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Batch, Noise

WAITS = {
    "base": "balanced assignment is solved on the processor",
    "pathnet": "who lost a trial decides what is bred, on the processor",
}
"""Systems that cannot but wait; they are trained eagerly."""


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Return a device without memory: whoever asks it for a value, or mixes it, gets an error."""
    monkeypatch.setattr(torch, "_fused_adam_", lambda *_parts, **_more: None)
    return torch.device("meta")


def step_on(device: torch.device, name: str, task: str) -> None:
    """Do a step of each phase of a system."""
    model, training = named(name, {}, {})
    length = {} if task == "binary" else {"length": 3}
    data = {"task": task, "rules": 4, **length, **system_of(name).data}
    spec = from_dict(RunSpec, {"data": data, "model": model, "train": training})
    network = create(spec.data, spec.model, (1, 2)).to(device)
    shape = (2, 16, *length.values())
    batch = Batch(
        torch.randn(*shape, spec.data.features, device=device),
        torch.zeros(*shape, dtype=torch.int64, device=device),
        torch.randn(*shape, spec.data.outputs, device=device),
    )
    noise = None
    if network.chance >= 0:
        uniform = torch.rand(*shape, network.chance, device=device)
        noise = Noise(uniform, torch.tensor(0.5, device=device))
    for _, _, phase in spec.train.stretches:
        stepper = Stepper(network, spec.data.objective, clip=1.0, engine="eager", phase=phase)
        loss = stepper.step(batch, torch.tensor(1e-3, device=device), noise)
        assert loss.device.type == device.type


SYSTEMS_AND_TASKS = [(system.name, task) for system in SYSTEMS for task in system.tasks]


@pytest.mark.parametrize(("name", "task"), SYSTEMS_AND_TASKS)
def test_no_step_waits_for_the_device(name: str, task: str, nowhere: torch.device) -> None:
    if name in WAITS:
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            step_on(nowhere, name, task)
    else:
        step_on(nowhere, name, task)


def recorder(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Stand for a GPU's: it runs before it records, and replaying reads what lies in the inputs."""
    for _ in range(3):
        run()
    kept = run().clone()
    return (lambda: kept.copy_(run())), kept


def steps(task: str, model: ModelSpec, count: int) -> tuple[Stepper, Iterator[Batch]]:
    data = DataSpec(task=task, rules=3)  # type: ignore[arg-type]
    seeds = ((1, 1), (2, 2))
    network = create(data, model, [seed for _, seed in seeds])
    stream = Stream(data, seeds, 8, torch.device("cpu"))
    source = batches(stream)
    return Stepper(network, data.objective, clip=1.0, engine="eager"), (
        next(source) for _ in range(count)
    )


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_a_recorded_step_is_the_step(task: str) -> None:
    plain, source = steps(task, ModelSpec(**MODELS["modular"], encoder=8, width=12), 4)
    recorded = copy.deepcopy(plain)
    recorded.record_by(recorder)
    assert recorded.engine == "graphed"
    for number, batch in enumerate(source):
        rate = torch.tensor(1e-3 / (1 + number))
        assert torch.equal(plain.step(batch, rate), recorded.step(batch, rate))
    for one, other in zip(plain.parameters, recorded.parameters, strict=True):
        assert torch.equal(one, other)
    assert plain.count == recorded.count == 4


def test_another_batch_size_is_recorded_anew() -> None:
    plain, source = steps("binary", ModelSpec(encoder=8, width=12), 3)
    recorded = copy.deepcopy(plain)
    recorded.record_by(recorder)
    for size, batch in zip((8, 5, 8), source, strict=True):
        part = replace(
            batch,
            inputs=batch.inputs[:, :size],
            rule=batch.rule[:, :size],
            target=batch.target[:, :size],
        )
        rate = torch.tensor(1e-3)
        assert torch.equal(plain.step(part, rate), recorded.step(part, rate))


def test_what_cannot_be_recorded_goes_on_eagerly_as_if_nothing_had_been_tried() -> None:
    def refusing(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, source = steps("binary", ModelSpec(encoder=8, width=12), 2)
    tried = copy.deepcopy(plain)
    tried.record_by(refusing)
    tried._may_fall_back = True
    for batch in source:
        rate = torch.tensor(1e-3)
        assert torch.equal(plain.step(batch, rate), tried.step(batch, rate))
    assert (tried.engine, tried.engine_note) == (
        "eager",
        "operation not permitted when stream is capturing",
    )


def test_graphs_without_a_gpu_are_refused() -> None:
    network = create(DataSpec(rules=2), ModelSpec(), (1,))
    with pytest.raises(RunError, match="CUDA graphs need a GPU"):
        Stepper(network, "regression", engine="graphed")
