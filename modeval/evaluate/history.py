"""How a run came to be what it is: its log, read as losses of each rule over phases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeval.metrics.course import Course, History, Merging
from modeval.nn import create
from modeval.spec import RunSpec
from modeval.train.records import read_log
from modeval.train.stream import VALIDATION_SAMPLES, Stream, validation_batch
from modeval.train.validation import validate


def history_of(folder: Path, spec: RunSpec, kept: Sequence[int]) -> History | None:
    """Return what the log of a run tells; nothing where it tells no losses of rules.

    Runs of earlier versions have none. The start is measured now: its network is drawn again, and
    run on the samples that all validations use.

    Args:
        folder: of the run.
        spec: of the run.
        kept: numbers of the seeds that are wanted.
    """
    log = read_log(folder)
    if not log or any("rule_loss" not in entry for entry in log):
        return None
    steps = torch.tensor([entry["step"] for entry in log])
    rule_loss = _numbers(log, "rule_loss", kept).transpose(0, 1)  # (S, V, R)
    changes = [entry for entry in log if "churn" in entry]
    course = _course(spec, kept, steps, rule_loss)
    return History(
        phases=("start", *(f"phase-{number + 1}" for number in range(len(spec.stretches)))),
        steps=steps,
        loss=_numbers(log, "validation_loss", kept).transpose(0, 1),
        rule_loss=rule_loss,
        churn=_numbers(changes, "churn", kept).mean(0) if changes else None,
        course=course,
        early=None if course is None else _early(spec, course, steps, rule_loss),
        merging=_merging(folder, spec, kept, course),
    )


def _merging(
    folder: Path, spec: RunSpec, kept: Sequence[int], course: Course | None
) -> Merging | None:
    """Return what merging cost, if a phase merged; most runs have one phase."""
    if course is None:
        return None
    from modeval.evaluate.merging import merging_of  # noqa: PLC0415 - slow, and seldom needed

    return merging_of(folder, spec, kept, course)


def _numbers(log: Sequence[dict[str, Any]], name: str, kept: Sequence[int]) -> Tensor:
    """Return what validations wrote of some seeds; what was not finite is NaN."""

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(part) for part in value]
        return float("nan") if value is None else value

    rows = [[told(entry[name][seed]) for seed in kept] for entry in log]
    return torch.tensor(rows, dtype=torch.float64)


def _course(spec: RunSpec, kept: Sequence[int], steps: Tensor, rule_loss: Tensor) -> Course | None:
    """Return the losses at the start and after each phase; nothing for one phase, or unfinished."""
    ends = [end for _, end, _ in spec.stretches]
    places = [int((steps == end).nonzero()[0]) for end in ends if bool((steps == end).any())]
    if len(ends) < 2 or len(places) < len(ends):  # noqa: PLR2004 - several phases
        return None
    seeds = tuple(spec.train.seeds[number] for number in kept)
    network = create(spec.data, spec.model, [model for _, model in seeds])
    stream = Stream(spec.data, seeds, spec.train.batch, torch.device("cpu"))
    batch = validation_batch(stream, VALIDATION_SAMPLES)
    start = validate(network, batch, spec.data.objective).rule_loss.double()
    every = range(spec.data.rules)
    drawn = [[rule in (phase.rules or every) for rule in every] for _, _, phase in spec.stretches]
    return Course(
        loss=torch.cat((start.unsqueeze(1), rule_loss[:, places]), 1), drawn=torch.tensor(drawn)
    )


def _early(spec: RunSpec, course: Course, steps: Tensor, rule_loss: Tensor) -> Tensor | None:
    """Return the mean loss on later rules at the first validation in the phase they are met in."""
    firsts = [first for first, _, _ in spec.stretches]
    found = [
        rule_loss[:, int((steps > firsts[met - 1]).int().argmax()), rule]
        for rule, met in enumerate(course.met)
        if met > 1
    ]
    return torch.stack(found, -1).mean(-1) if found else None
