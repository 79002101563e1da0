"""Which seeds of a run are connected: pairs that learned one task from two starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modeval.evaluate.connected import connection, matchable
from modeval.evaluate.subject import Subject
from modeval.nn import build
from modeval.types import Batch

CONNECTED = 0.02
"""Share of their loss up to which the loss may rise between models that are called connected.

Source: Frankle et al. 2020 (linear mode connectivity, arXiv 1912.05671), section 2.
"""
Seeds = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedConnection:
    """What lies on the line between two seeds of one task.

    Attributes:
        one: task and model seed of the first.
        two: of the second, of the same task.
        loss: mean of both.
        barrier: how far the loss rises above the line between theirs, from 0. Units of two starts
            are in no common order, so that this is what matching is held against.
        matched: the same once the second's hidden units are in the order of the first's.
    """

    one: Seeds
    two: Seeds
    loss: float
    barrier: float
    matched: float

    @property
    def limit(self) -> float:
        """The largest barrier with which they are called connected."""
        return CONNECTED * self.loss

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as numbers."""
        pair = [{"task": task, "model": model} for task, model in (self.one, self.two)]
        numbers = {name: getattr(self, name) for name in ("loss", "limit", "barrier", "matched")}
        return {"seeds": pair, **numbers}


def pairs_of(seeds: Sequence[Seeds], usable: Sequence[int]) -> list[tuple[int, int]]:
    """Return numbers of seeds of one task, two and two, each in one pair so that pairs are apart.

    >>> pairs_of([(0, 0), (1, 0), (0, 1), (0, 2)], [0, 1, 2, 3])
    [(0, 2)]
    """
    tasks = dict.fromkeys(seeds[number][0] for number in usable)
    members = [[number for number in usable if seeds[number][0] == task] for task in tasks]
    return [pair for each in members for pair in zip(each[::2], each[1::2], strict=False)]


def connections(
    subject: Subject, usable: Sequence[int], batch: Batch
) -> tuple[SeedConnection, ...]:
    """Return what lies between pairs of seeds; nothing where units cannot be matched.

    Args:
        subject: a cohort with its network.
        usable: numbers of the seeds that can be used.
        batch: samples for each of its seeds.
    """
    pairs = pairs_of(subject.seeds, usable)
    if not pairs or subject.network is None or not matchable(subject.network):
        return ()
    one, two = (torch.tensor(side) for side in zip(*pairs, strict=True))
    held = {name: value.detach() for name, value in subject.network.named_parameters()}
    found = connection(
        build(subject.data, subject.model, seeds=len(pairs)),
        {name: value[one] for name, value in held.items()},
        {name: value[two] for name, value in held.items()},
        Batch(batch.inputs[one], batch.told[one], batch.target[one]),
        subject.data.objective,
    )
    numbers = zip(found.loss.tolist(), found.barrier.tolist(), found.matched.tolist(), strict=True)
    return tuple(
        SeedConnection(
            one=subject.seeds[first],
            two=subject.seeds[second],
            loss=loss,
            barrier=barrier,
            matched=matched,
        )
        for (first, second), (loss, barrier, matched) in zip(pairs, numbers, strict=True)
    )
