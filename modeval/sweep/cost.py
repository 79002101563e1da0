"""What a sweep will cost: a short trial of some of its cohorts, and the rest by their size."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from modeval.nn import count_parameters, create
from modeval.spec import Engine, RunSpec
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

TRIALS = 12
SECONDS = 12.0
"""What the steps that are measured take in all, about."""
WARM_UP = 2
MOST_STEPS = 200


def steps_per_second(
    run: RunSpec, *, device: torch.device, engine: Engine = "auto", seconds: float = 1.0
) -> float:
    """Train a cohort for some seconds, one step at least, and return its speed; nothing is kept.

    The first steps, in which kernels are compiled and memory is taken, do not count.
    """
    network = create(run.data, run.model, [model for _, model in run.train.seeds]).to(device)
    stepper = Stepper(network, run.data.objective, clip=run.clip, engine=engine)
    stream = Stream(run.data, run.train.seeds, run.train.batch, device)
    rate = torch.tensor(run.train.learning_rate, device=device)
    source = batches(stream)

    def timed() -> float:
        started = time.perf_counter()
        float(stepper.step(next(source), rate).sum())
        return time.perf_counter() - started

    for _ in range(WARM_UP):
        if timed() > seconds:
            break
    spent, steps = timed(), 1
    while steps < MOST_STEPS and spent < seconds:
        spent, steps = spent + timed(), steps + 1
    return steps / spent


def size(run: RunSpec) -> int:
    """Return the parameters of a cohort: what its steps take grows with them."""
    one = create(run.data, run.model, [0])
    return count_parameters(one) * len(run.train.seeds)


def expected_seconds(
    runs: Sequence[RunSpec],
    *,
    speed: Callable[[RunSpec, float], float],
    size: Callable[[RunSpec], int] = size,
    trials: int = TRIALS,
    announce: Callable[[int], None] = lambda _count: None,
) -> list[float]:
    """Estimate how long each run takes.

    Runs of one shape take the same time a step. Of each family (task and model) the smallest and
    the largest shape are tried, then those between, as far as ``trials`` allow; the others lie on
    the line through their neighbours, of the logarithms of time and size. Where there are more
    families than trials, models that compute alike on one task are one.

    Args:
        runs: what is to be trained.
        speed: measures steps a second, in about as many seconds as it is given.
        size: tells how large a cohort is.
        trials: how many shapes to try at most; at least one of each family is tried.
        announce: is told how many will be tried, before the first is.
    """
    sizes = {_shape(run): size(run) for run in runs}
    families: dict[Any, list[RunSpec]] = {}
    family = _family if len({_family(run) for run in runs}) <= trials else _kind
    for run in {_shape(run): run for run in runs}.values():
        families.setdefault(family(run), []).append(run)
    each = max(trials // max(len(families), 1), 1)
    spread = {
        name: _spread(sorted(members, key=lambda run: sizes[_shape(run)]), each)
        for name, members in families.items()
    }
    count = sum(map(len, spread.values()))
    announce(count)
    tried = {
        name: [
            (math.log(sizes[_shape(run)]), -math.log(speed(run, SECONDS / count)))
            for run in members
        ]
        for name, members in spread.items()
    }
    return [
        run.train.steps * math.exp(_line(tried[family(run)], math.log(sizes[_shape(run)])))
        for run in runs
    ]


def _shape(run: RunSpec) -> Any:
    return run.data.task, run.data.rules, run.data.length, run.model, run.train.batch, _seeds(run)


def _family(run: RunSpec) -> Any:
    return run.data.task, run.name


def _kind(run: RunSpec) -> Any:
    return run.data.task, type(run.model.computation), run.model.aggregation, run.model.layers


def _seeds(run: RunSpec) -> int:
    return len(run.train.seeds)


def _spread(members: list[RunSpec], count: int) -> list[RunSpec]:
    """Return about ``count`` members, evenly spread, the last one first among them."""
    if count == 1 or len(members) == 1:
        return members[-1:]
    last = len(members) - 1
    places = sorted({round(index * last / (count - 1)) for index in range(count)})
    return [members[index] for index in places]


def _line(points: list[tuple[float, float]], x: float) -> float:
    """Return the height at ``x`` of the broken line through points; flat beyond its ends."""
    points = sorted(points)
    if x <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in itertools.pairwise(points):
        if x <= right:
            return low + (high - low) * (x - left) / max(right - left, 1e-12)
    return points[-1][1]
