"""Processes that train one model at a time, to measure a cohort against."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from modeval.cli.bench.plain_pytorch import train_step
from modeval.cli.bench.reference import reference_step
from modeval.cli.bench.work import Workload, pace, stepping
from modeval.errors import ModevalError
from modeval.nn import create
from modeval.train.step import Stepper
from modeval.train.stream import Stream

WARMING = 0.1
"""Seconds of steps that do not count."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Asks for a model of one's own, and a few steps of it."""

    work: Workload
    device: torch.device


@dataclass(frozen=True, slots=True)
class PrepareReference:
    """Asks for the training loop of a script."""

    script: Path
    flags: tuple[str, ...]
    device: torch.device


@dataclass(frozen=True, slots=True)
class Measure:
    """Asks for the rate of what was prepared under a name."""

    what: str
    seconds: float


@contextmanager
def processes(count: int) -> Iterator["Crew"]:
    """Start plain trainers, one thread each, and stop them at the end."""
    context = multiprocessing.get_context("spawn")  # threads of PyTorch do not survive a fork
    pipes = [context.Pipe() for _ in range(count)]
    workers = [
        context.Process(target=_serve, args=(theirs, seed), daemon=True)
        for seed, (_, theirs) in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
    try:
        yield Crew([ours for ours, _ in pipes])
    finally:
        for ours, _ in pipes:
            ours.close()
        for worker in workers:
            worker.join(timeout=10)
            if worker.is_alive():
                worker.terminate()


@dataclass(frozen=True, slots=True)
class Crew:
    """Running trainers, each of one model at a time."""

    pipes: "list[Connection[Any, Any]]"

    def prepare(self, work: Workload, device: torch.device) -> None:
        """Let each build a model of its own and take its first steps."""
        self._ask([Prepare(work, device)] * len(self.pipes))

    def prepare_reference(
        self, script: Path, flags: Callable[[int], list[str]], device: torch.device
    ) -> None:
        """Let each read the script, with the flags of a seed of its own."""
        self._ask(
            [
                PrepareReference(script, tuple(flags(seed)), device)
                for seed in range(len(self.pipes))
            ]
        )

    def measure(self, what: str, seconds: float) -> float:
        """Let all train for so long at the same time; return their steps per second, summed."""
        return sum(self._ask([Measure(what, seconds)] * len(self.pipes)))

    def _ask(self, requests: Sequence[Prepare | PrepareReference | Measure]) -> list[float]:
        for pipe, request in zip(self.pipes, requests, strict=True):
            pipe.send(request)
        answers = [pipe.recv() for pipe in self.pipes]
        for answer in answers:
            if isinstance(answer, str):
                raise ModevalError(answer)
        return answers


def _serve(pipe: "Connection[Any, Any]", seed: int) -> None:
    """Answer requests until nobody asks: a rate, or what went wrong."""
    torch.set_num_threads(1)
    ready: dict[str, tuple[Callable[[], object], torch.device]] = {}
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_answer(request, seed, ready))
        except (RuntimeError, OSError, ImportError, ArithmeticError, LookupError) as error:
            pipe.send(f"A process of the benchmark failed: {error}.")


def _answer(
    request: Prepare | PrepareReference | Measure,
    seed: int,
    ready: dict[str, tuple[Callable[[], object], torch.device]],
) -> float:
    if isinstance(request, Measure):
        step, device = ready[request.what]
        return pace(step, request.seconds, device).rate
    if isinstance(request, Prepare):
        ready["plain"] = alone(request.work, seed, request.device), request.device
    else:
        script = reference_step(request.script, list(request.flags), request.device.type)
        ready["reference"] = script, request.device
    step, device = ready["plain" if isinstance(request, Prepare) else "reference"]
    pace(step, WARMING, device)
    return 0.0


def alone(work: Workload, seed: int, device: torch.device) -> Callable[[], None]:
    """Return one step of one model in a plain loop: as plain PyTorch has it, or as we do."""
    if work.is_papers:
        return train_step(
            work.data, work.model, work.batch, seed, clip=work.clip, device=str(device)
        )
    network = create(work.data, work.model, [seed]).to(device)
    stepper = Stepper(
        network, work.data.objective, clip=work.clip, engine="eager", phase=work.phase
    )
    return stepping(stepper, Stream(work.data, ((seed, seed),), work.batch, device))
