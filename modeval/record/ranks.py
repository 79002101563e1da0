"""Counts of the ranks of ``torch.distributed``, added up."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from modeval.errors import TraceError
from modeval.trace.fold import LayerGroup
from modeval.types import RoutingCounts

WAIT = 300.0  # seconds to wait for a rank


def rank_of(group: Any) -> tuple[int, int]:
    """Return the number of this rank and how many there are; 0 of 1 when nothing is distributed."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(group), distributed.get_world_size(group)


def _meet(group: Any, wait: float) -> None:
    """Wait until every rank is here, and no longer than so many seconds.

    Raises:
        TraceError: one did not come.
    """
    distributed = torch.distributed
    device = "cuda" if "nccl" in distributed.get_backend(group) else "cpu"
    here = torch.ones(1, device=device)
    try:
        work = distributed.all_reduce(here, group=group, async_op=True)
        work.wait(timedelta(seconds=wait))
    except RuntimeError as error:
        raise TraceError(
            f"A rank did not come to add its counts within {wait:g} s: it ended with an error, or "
            "it does not ask for counts. Every rank must call recording.counts(); take "
            f"counts(local=True) of each where that cannot be. ({str(error).splitlines()[0]})"
        ) from None


def reduce_counts(
    groups: tuple[LayerGroup, ...],
    layers: Sequence[str],
    group: Any = None,
    *,
    wait: float = WAIT,
) -> tuple[LayerGroup, ...]:
    """Sum counts over the ranks of ``torch.distributed``; every rank must make this call.

    Args:
        groups: counts of this rank.
        layers: names of its layers.
        group: the ranks to sum over; all of them when absent.
        wait: seconds to wait for a rank that does not come.

    Raises:
        TraceError: ranks recorded different layers, or one of them ended before.
    """
    distributed = torch.distributed
    if rank_of(group)[1] == 1:
        return groups
    _meet(group, wait)
    mine = [list(layers), [list(entry.counts.mass.shape) for entry in groups]]
    all_of_them: list[Any] = [None] * rank_of(group)[1]
    distributed.all_gather_object(all_of_them, mine, group)
    if any(entry != mine for entry in all_of_them):
        raise TraceError(
            "Ranks recorded different layers, so their counts do not add: expected the same "
            "model, routers, labels and blocks on each. Take recording.groups(local=True) of each "
            "rank, or give group= the ranks that share layers."
        )
    parts = [part for entry in groups for part in entry.counts.tensors().values()]
    device = "cuda" if "nccl" in distributed.get_backend(group) else "cpu"
    flat = torch.cat([part.reshape(-1) for part in parts]).to(device)
    distributed.all_reduce(flat, group=group)
    sums = iter(flat.cpu().split([part.numel() for part in parts]))
    return tuple(
        replace(
            entry,
            counts=RoutingCounts(
                **{
                    name: next(sums).reshape(part.shape)
                    for name, part in entry.counts.tensors().items()
                }
            ),
        )
        for entry in groups
    )
