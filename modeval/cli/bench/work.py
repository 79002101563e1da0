"""What ``modeval bench train`` trains, and how long a step of it takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from modeval.spec import DataSpec, ModelSpec, Phase, RunSpec, from_dict
from modeval.spec.systems import named, system_of
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches, uniform_numbers
from modeval.types import Noise

PAPERS = ("monolithic", "modular", "modular-op", "gt-modular")
"""The models that the plain side is written for; others are trained one by one by our network."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained.

    Attributes:
        name: of the system.
        data: the task.
        model: the network.
        phase: of training, the first one.
        batch: samples of a step.
        clip: largest norm of a gradient; 0 for none.
    """

    name: str
    data: DataSpec
    model: ModelSpec
    phase: Phase
    batch: int
    clip: float

    @property
    def is_papers(self) -> bool:
        """Tell whether there is a plain way to write it."""
        return self.name in PAPERS


def workload(task: str, rules: int, name: str) -> Workload:
    """Return what a system trains on a task, with the settings of ``modeval train``.

    Systems that need a task of their own get it, whatever the number of rules.
    """
    model, training = named(name, {}, {})
    spec = from_dict(
        RunSpec,
        {
            "data": {"task": task, "rules": rules, **system_of(name).data},
            "model": model,
            "train": training,
        },
    )
    phase = spec.train.stretches[0][2]
    return Workload(name, spec.data, spec.model, phase, spec.train.batch, spec.clip)


def stepping(stepper: Stepper, stream: Stream) -> Callable[[], None]:
    """Return what draws a batch and takes a step with it."""
    source, rate = batches(stream), torch.tensor(1e-4, device=stream.device)
    columns = stepper.network.chance
    chance = uniform_numbers(stream, columns) if columns >= 0 else None
    middle = torch.tensor(0.5, device=stream.device)

    def step() -> None:
        noise = None if chance is None else Noise(next(chance), middle)
        stepper.step(next(source), rate, noise)

    return step


def wait_for(device: torch.device) -> None:
    """Let a device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast steps were.

    Attributes:
        steps: done.
        seconds: that passed.
        busy: seconds of processor time that all threads of this process took together.
    """

    steps: int
    seconds: float
    busy: float

    @property
    def rate(self) -> float:
        """Return steps per second."""
        return self.steps / self.seconds


def pace(step: Callable[[], object], seconds: float, device: torch.device) -> Pace:
    """Repeat a step for about ``seconds``, and wait for the device."""
    started, busy, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds or not done:
        step()
        done += 1
    wait_for(device)
    return Pace(done, time.perf_counter() - started, time.process_time() - busy)
