"""The endless stream of training batches: a pure function of the seeds and of the step.

Data are drawn in chunks of several steps, for each seed from a generator of its own. Chunk j of
seed (task, model) depends on those three numbers alone: a cohort sees for each seed what that seed
would see alone, and a run resumes at any step without stored generator states.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from modeval.data import draw, stack_tasks
from modeval.data.tasks import TaskStack
from modeval.spec import DataSpec
from modeval.types import Batch

VALIDATION_SAMPLES = 2_560
"""Samples of each seed that every validation uses."""

CHUNK_BYTES = 4 * 2**20
CHUNK_STEPS = 64
TRAINING, VALIDATION, NOISE, KEPT, AGAIN = 0, 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Stream:
    """Where batches come from.

    Attributes:
        data: a task family.
        seeds: of a cohort.
        batch: samples of a step, for each seed.
        device: where they lie.
        phase: of training: each has a stream of its own.
        rules: those that are drawn; empty for all.
        replay: share of the samples that are of earlier rules.
        earlier: numbers of those.
        buffer: so many samples of those are kept and drawn again; 0 for fresh ones.
    """

    data: DataSpec
    seeds: tuple[tuple[int, int], ...]
    batch: int
    device: torch.device
    phase: int = 0
    rules: tuple[int, ...] = ()
    replay: float = 0.0
    earlier: tuple[int, ...] = ()
    buffer: int = 0

    @property
    def shares(self) -> Tensor | None:
        """Return the shares of the rules that are drawn, where they are not those of the task."""
        if not self.rules:
            return None
        fresh = shares_of(self.data, self.rules)
        if not self.replay or self.buffer:
            return fresh
        return (1 - self.replay) * fresh + self.replay * shares_of(self.data, self.earlier)

    @property
    def kept(self) -> int:
        """Return how many samples of a step come from the buffer."""
        return round(self.replay * self.batch) if self.buffer else 0


def shares_of(data: DataSpec, rules: Sequence[int]) -> Tensor:
    """Return the shares of some rules, in the proportions that the task gives them.

    >>> shares_of(DataSpec(rules=3, rule_probabilities=(0.6, 0.3, 0.1)), (0, 1)).tolist()
    [0.666..., 0.333..., 0.0]
    """
    usual = data.trained_shares or (1.0,) * data.rules
    kept = [share if rule in rules else 0.0 for rule, share in enumerate(usual)]
    whole: Tensor = torch.tensor(kept) / sum(kept)
    return whole


def chunk_steps(data: DataSpec, batch: int) -> int:
    """Return how many steps are drawn at once: a size that does not depend on the cohort."""
    return max(1, min(CHUNK_STEPS, CHUNK_BYTES // _step_bytes(data, batch)))


def chunk_bytes(data: DataSpec, batch: int) -> int:
    """Return the bytes of what is drawn at once for one seed."""
    return chunk_steps(data, batch) * _step_bytes(data, batch)


def _step_bytes(data: DataSpec, batch: int) -> int:
    positions = data.length if data.sequence else 1
    width = data.features + data.outputs + 2  # a rule is an int64
    return 4 * batch * positions * width


def generators(stream: Stream, purpose: int, chunk: int) -> list[torch.Generator]:
    """Return a generator for each seed, for one purpose and one chunk of one phase."""
    more = (stream.phase,) if stream.phase else ()
    return [
        torch.Generator(stream.device).manual_seed(
            int(np.random.SeedSequence((task, model, purpose, chunk, *more)).generate_state(1)[0])
        )
        for task, model in stream.seeds
    ]


def batches(stream: Stream, *, start: int = 0) -> Iterator[Batch]:
    """Yield the batch of step ``start``, then of each step after it.

    On processors the next chunk is drawn in a thread while this one is trained on: much of drawing
    runs on one core, which would leave the others idle.
    """
    tasks = stack_tasks(stream.data, [task for task, _ in stream.seeds], stream.device)
    steps = chunk_steps(stream.data, stream.batch)
    chunk, skipped = divmod(start, steps)
    buffer = _buffer(stream, tasks)

    def chunk_of(number: int) -> list[Batch]:
        own = generators(stream, TRAINING, number)
        drawn = draw(
            stream.data,
            tasks,
            own,
            samples=steps * stream.batch,
            rule_probabilities=stream.shares,
        ).as_told()
        if buffer is not None:
            drawn = _replayed(stream, drawn, buffer, number, steps)
        parts = (drawn.inputs, drawn.rule, drawn.target)
        return [Batch(*part) for part in zip(*(_steps(each, steps) for each in parts), strict=True)]

    if stream.device.type == "cpu":
        chunks = _ahead(chunk_of, chunk)
    else:  # the device is ahead of the program anyhow
        chunks = (chunk_of(number) for number in itertools.count(chunk))
    for drawn in chunks:
        yield from drawn[skipped:]
        skipped = 0


def _buffer(stream: Stream, tasks: TaskStack) -> Batch | None:
    """Return the kept samples of earlier rules: of an endless stream, any are as good as others."""
    if not stream.kept:
        return None
    own = generators(stream, KEPT, 0)
    shares = shares_of(stream.data, stream.earlier)
    return draw(stream.data, tasks, own, samples=stream.buffer, rule_probabilities=shares).as_told()


def _replayed(stream: Stream, drawn: Batch, buffer: Batch, chunk: int, steps: int) -> Batch:
    """Put kept samples in the place of the first ones of each step."""
    again = torch.stack(
        [
            torch.randint(
                stream.buffer, (steps, stream.kept), generator=generator, device=stream.device
            )
            for generator in generators(stream, AGAIN, chunk)
        ]
    )

    def put(fresh: Tensor, kept: Tensor) -> Tensor:
        by_step = fresh.unflatten(1, (steps, stream.batch)).clone()
        for member, chosen, own in zip(by_step, again, kept, strict=True):
            member[:, : stream.kept] = own[chosen]
        flat: Tensor = by_step.flatten(1, 2)
        return flat

    return Batch(
        put(drawn.inputs, buffer.inputs),
        put(drawn.rule, buffer.rule),
        put(drawn.target, buffer.target),
    )


def uniform_numbers(stream: Stream, columns: int, *, start: int = 0) -> Iterator[Tensor]:
    """Yield the chance of step ``start``, then of each step after it: ``(S, N, C)`` or with T.

    Drawn in the chunks of the data, but from generators of its own: a network sees the same data
    whether it takes chance or not, and a seed the same chance whatever else is in the cohort.
    """
    steps = chunk_steps(stream.data, stream.batch)
    positions = (stream.data.length,) if stream.data.sequence else ()
    first, skipped = divmod(start, steps)
    for number in itertools.count(first):
        own = generators(stream, NOISE, number)
        shape = (steps * stream.batch, *positions, columns)
        drawn = torch.empty(len(own), *shape, device=stream.device)
        for member, generator in zip(drawn, own, strict=True):
            member.uniform_(generator=generator)
        yield from _steps(drawn, steps)[skipped:]
        skipped = 0


def _ahead(chunk_of: Callable[[int], list[Batch]], first: int) -> Iterator[list[Batch]]:
    """Yield one chunk after another, the next one being drawn meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="draw") as thread:
        coming = thread.submit(chunk_of, first)
        for number in itertools.count(first + 1):
            drawn = coming.result()
            coming = thread.submit(chunk_of, number)
            yield drawn


def validation_batch(stream: Stream, samples: int) -> Batch:
    """Return samples that training never sees, the same at each validation."""
    tasks = stack_tasks(stream.data, [task for task, _ in stream.seeds], stream.device)
    own = generators(replace(stream, phase=0), VALIDATION, 0)
    return draw(stream.data.clean, tasks, own, samples=samples).as_told()


def _steps(tensor: Tensor, steps: int) -> Sequence[Tensor]:
    """Split ``(S, steps·N, ...)`` into contiguous ``(S, N, ...)``, one for each step."""
    shape = (tensor.shape[0], steps, tensor.shape[1] // steps, *tensor.shape[2:])
    by_step = tensor.view(shape).transpose(0, 1)
    return list(by_step.contiguous())
