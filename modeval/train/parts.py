"""Cohorts larger than memory are trained in parts, one after another.

A seed is the same in a part as in the whole: to the last bit with the fused engine, to rounding
with the others. The run folder is that of the whole cohort in the end: each part that is trained is
joined with those before it, as seeds are that are added later; see :mod:`modeval.train.extend`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from modeval.spec import RunSpec
from modeval.train import footprint

SHARE = 0.6
"""Of the free memory, for one part: single operations need room on the way."""

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """Some seeds of a cohort, trained at one time.

    Attributes:
        seeds: pairs of task and model.
        note: which they are, for a watcher; empty where the part is all of the cohort.
    """

    seeds: tuple[Pair, ...]
    note: str = ""


def parts(
    spec: RunSpec, seeds: tuple[Pair, ...], device: torch.device, samples: int
) -> Iterator[Part]:
    """Yield what of these seeds is trained at once: all of them where memory allows it.

    How many fit is asked before each part: other programs come and go.

    Args:
        spec: of the run.
        seeds: those that are to be trained.
        device: whose memory it is.
        samples: of a validation.
    """
    left = seeds
    while left:
        some = left[: seeds_that_fit(spec, len(left), device, samples)]
        first, left = len(seeds) - len(left) + 1, left[len(some) :]
        named = f"seeds {first} to {first + len(some) - 1} of {len(seeds)}"
        whole = len(some) == len(seeds)
        yield Part(some, "" if whole else f"{named}: memory holds no more at once")


def with_seeds(spec: RunSpec, seeds: Iterable[Pair]) -> RunSpec:
    """Return the same run of other seeds."""
    return replace(spec, train=replace(spec.train, seeds=tuple(seeds)))


def telling(watch: Callable[[Any], None], part: Part) -> Callable[[Any], None]:
    """Return a watcher that is told which seeds are trained, where it is not all of them."""
    return (lambda progress: watch(replace(progress, part=part.note))) if part.note else watch


def seeds_that_fit(spec: RunSpec, seeds: int, device: torch.device, samples: int) -> int:
    """Return how many seeds of a cohort are trained at once; all where their size is not known."""
    if seeds == 1:
        return 1
    needed = footprint.seed_bytes(spec.data, spec.model, spec.train.batch, samples)
    if needed is None:
        return seeds
    return footprint.seeds_at_once(seeds, needed, int(SHARE * footprint.free_bytes(device)))
