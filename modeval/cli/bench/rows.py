"""A row of ``modeval bench train``: one workload, all ways to train it, taking turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modeval.cli.bench.crew import Crew
from modeval.cli.bench.peak import peak
from modeval.cli.bench.reference import flags, trainer
from modeval.cli.bench.vmapped import vmapped_step
from modeval.cli.bench.work import Pace, Workload, pace, stepping, wait_for
from modeval.nn import create
from modeval.spec import Engine
from modeval.train.arithmetic import step_arithmetic
from modeval.train.footprint import free_bytes, seeds_at_once, step_bytes
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

ROUNDS = 3
STEP = 1 / 12  # of the seconds of a row; more seeds than that are left out of its cohort
MEMORY_FOR_VMAP = 0.25  # of what is free
KEPT_BY_PLAIN = 4  # times what our networks keep: the plain ones merge nothing; on the safe side

_NAMES = {"binary": "mlp", "sets": "attention", "series": "recurrent"}


@dataclass(frozen=True, slots=True)
class Bench:
    """How rows are measured.

    Attributes:
        crew: what trains the plain way.
        cohort: seeds of ours.
        seconds: for each side of a row.
        device: of all sides.
        engine: of ours.
        reference: checkout of the paper's code.
    """

    crew: Crew
    cohort: int
    seconds: float
    device: torch.device
    engine: Engine
    reference: Path | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured: models x steps per second of each way, and what the machine can do.

    Attributes:
        family: mlp, attention or recurrent.
        rules: of the task.
        model: the system.
        seeds: of ours.
        plain: one process for each core, one model at a time; systems that are not the paper's are
            trained by our network, alone.
        vmap: ``torch.func.vmap`` of the plain model; None where PyTorch cannot map it.
        reference: the paper's own loop; None where its checkout is not given.
        cohort: ours.
        ratio: of ours to the plain way.
        arithmetic: operations that a step of one model needs; None where not known.
        peak: operations per second of the machine; None where there is no compiler.
        share: of the peak that ours takes, by processor time: other work on the machine does not
            count.
        engine: that computed our steps.
        note: why not a faster one.
        first_step_seconds: what the first step took, compiling included.
    """

    family: str
    rules: int
    model: str
    seeds: int
    plain: float
    vmap: float | None
    reference: float | None
    cohort: float
    ratio: float
    arithmetic: int | None
    peak: float | None
    share: float | None
    engine: str
    note: str
    first_step_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def measure_within(bench: Bench, work: Workload, seconds: float) -> Row:
    """Measure a row in about so many seconds in all, with as many seeds as that allows."""
    started = time.perf_counter()
    threads = torch.get_num_threads()
    _, step, _ = _ours(replace(bench, cohort=threads), work)
    each = 1 / pace(step, 0.0, bench.device).rate / threads
    seeds = max(threads, int(seconds * STEP / each))
    some = replace(bench, cohort=min(bench.cohort, seeds))
    return measure(some, work, until=started + seconds)


def measure(bench: Bench, work: Workload, *, until: float | None = None) -> Row:
    """Let all ways take turns; rates are means over the turns.

    Args:
        bench: how.
        work: what.
        until: when to end, instead of after the seconds of ``bench`` for each side.
    """
    stepper, step, first = _ours(bench, work)
    bench.crew.prepare(work, bench.device)
    paces: list[Pace] = []

    def ours(turn: float) -> float:
        paces.append(pace(step, turn, bench.device))
        return bench.cohort * paces[-1].rate

    sides: dict[str, Callable[[float], float | None]] = {
        "plain": lambda turn: bench.crew.measure("plain", turn),
        "cohort": ours,
        "peak": lambda turn: peak(bench.device, torch.get_num_threads(), turn),
    }
    mapped = _vmapped(bench, work) if work.is_papers else None
    if mapped is not None:
        sides["vmap"] = lambda turn: bench.cohort * pace(mapped, turn, bench.device).rate
    if work.is_papers and bench.reference is not None:
        _prepare_reference(bench, bench.reference, work)
        sides["reference"] = lambda turn: bench.crew.measure("reference", turn)
    seconds = bench.seconds
    if until is not None:
        seconds = max(0.0, until - time.perf_counter()) / len(sides)
    turn = seconds / ROUNDS
    turns = [{name: side(turn) for name, side in sides.items()} for _ in range(ROUNDS)]
    means = {name: _mean([turn[name] for turn in turns]) for name in sides}
    positions = work.data.length if work.data.sequence else 1
    arithmetic, most = step_arithmetic(stepper.network, work.batch, positions), means["peak"]
    cohort, plain = means["cohort"] or 0.0, means["plain"] or 0.0
    return Row(
        family=_NAMES[work.data.task],
        rules=work.data.rules,
        model=work.name,
        seeds=bench.cohort,
        plain=plain,
        vmap=means.get("vmap"),
        reference=means.get("reference"),
        cohort=cohort,
        ratio=cohort / plain,
        arithmetic=arithmetic,
        peak=most,
        share=_share(bench, arithmetic, paces, most),
        engine=stepper.engine,
        note=stepper.engine_note,
        first_step_seconds=first,
    )


def _share(
    bench: Bench, arithmetic: int | None, paces: Sequence[Pace], most: float | None
) -> float | None:
    """Return which part of the machine's peak the arithmetic takes."""
    if not (arithmetic and most):
        return None
    operations = arithmetic * bench.cohort * sum(pace.steps for pace in paces)
    if bench.device.type == "cuda":
        return operations / sum(pace.seconds for pace in paces) / most
    # of processor time, so that other work on the machine does not count
    return operations * torch.get_num_threads() / sum(pace.busy for pace in paces) / most


def _mean(rates: list[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None


def _stream(bench: Bench, work: Workload) -> Stream:
    seeds = tuple((seed, seed) for seed in range(bench.cohort))
    return Stream(work.data, seeds, work.batch, bench.device)


def _ours(bench: Bench, work: Workload) -> tuple[Stepper, Callable[[], None], float]:
    """Return our way, one step of the whole cohort, and the seconds that the first one took."""
    network = create(work.data, work.model, range(bench.cohort)).to(bench.device)
    stepper = Stepper(
        network, work.data.objective, clip=work.clip, engine=bench.engine, phase=work.phase
    )
    step = stepping(stepper, _stream(bench, work))
    started = time.perf_counter()
    step()
    wait_for(bench.device)
    return stepper, step, time.perf_counter() - started


def _vmapped(bench: Bench, work: Workload) -> Callable[[], None] | None:
    """Return PyTorch's own way to a cohort; None where it cannot map the model, or not so much."""
    needed = step_bytes(work.data, work.model, work.batch)
    free = int(MEMORY_FOR_VMAP * free_bytes(bench.device))
    if needed is None or seeds_at_once(bench.cohort, KEPT_BY_PLAIN * needed, free) < bench.cohort:
        return None
    source = batches(_stream(bench, work))
    try:
        return vmapped_step(work.data, work.model, bench.cohort, source, bench.device)
    except (RuntimeError, NotImplementedError):
        return None


def _prepare_reference(bench: Bench, checkout: Path, work: Workload) -> None:
    script = trainer(checkout, work.data)
    bench.crew.prepare_reference(
        script, lambda seed: flags(work.data, work.model, work.batch, seed), bench.device
    )
