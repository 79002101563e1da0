"""Finite data as a stream: shuffled without end for training, once in order for scoring."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Generator, Tensor

from modeval.data.batches import parts_of, recut
from modeval.data.files import Dataset
from modeval.errors import DataError
from modeval.types import Batch


def batches(
    dataset: Dataset,
    seeds: Sequence[tuple[int, int]],
    *,
    batch: int,
    start_step: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Read a data set for ever, each epoch in a new order.

    Each member of a cohort, a pair (task seed, model seed), reads the samples of its task in orders
    of its own, so that leaving a member out changes nothing for the others. The samples of a member
    are one endless sequence of which step t takes ``[t * batch, (t + 1) * batch)``: steps may be
    read k at a time with a batch k times as large, and from any ``start_step`` on.

    Args:
        dataset: from :func:`modeval.data.open_dataset`.
        seeds: members of the cohort.
        batch: samples of a step, for each member.
        start_step: first step to read.
        device: where the batches go.

    Raises:
        DataError: the data set lacks the task of a member.
        ValueError: a batch of no samples.
    """
    if batch < 1:
        raise ValueError(f"batch = {batch}: expected 1 or more.")
    task = torch.tensor([task_index(dataset, pair[0]) for pair in seeds])
    orders: dict[tuple[int, int, int], Tensor] = {}
    step = start_step
    while True:
        first, last = step * batch // dataset.samples, ((step + 1) * batch - 1) // dataset.samples
        needed = [[(*pair, epoch) for epoch in range(first, last + 1)] for pair in seeds]
        orders = {
            key: orders[key] if key in orders else shuffled(dataset.samples, *key)
            for keys in needed
            for key in keys
        }
        begin = step * batch - first * dataset.samples
        spans = [(begin - i * dataset.samples, i) for i in range(last - first + 1)]
        rows = [
            torch.cat([orders[keys[i]][max(0, start) : start + batch] for start, i in spans])
            for keys in needed
        ]
        yield take(dataset, task, torch.stack(rows).long()).to(device)
        step += 1


def in_order(
    dataset: Dataset, *, batch: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Read every sample once, all tasks side by side; the last batch may be shorter."""
    full, rest = divmod(dataset.samples, batch)
    sizes = [batch] * full + [rest] * (rest > 0)
    for part in recut(dataset.shards, sizes):
        yield part.to(device)


def task_index(dataset: Dataset, task_seed: int) -> int:
    """Return where the task with this seed stands in a data set."""
    if task_seed not in dataset.task_seeds:
        held = ", ".join(map(str, dataset.task_seeds))
        raise DataError(
            f"{dataset.folder} has no task seed {task_seed}: it holds {held}. Train with "
            f"--task-seeds {len(dataset.task_seeds)}, or generate a data set with more."
        )
    return dataset.task_seeds.index(task_seed)


def shuffled(samples: int, task_seed: int, model_seed: int, epoch: int) -> Int32[Tensor, "samples"]:
    """Return the order in which a member reads its samples in one epoch."""
    words = np.random.SeedSequence([task_seed, model_seed, epoch]).generate_state(1, np.uint64)
    generator = Generator().manual_seed(int(words[0]))
    return torch.randperm(samples, generator=generator, dtype=torch.int32)


def take(
    dataset: Dataset, task: Int64[Tensor, "seeds"], row: Int64[Tensor, "seeds samples"]
) -> Batch:
    """Gather samples: entry ``[s, n]`` is sample ``row[s, n]`` of the task at ``task[s]``."""
    shards = dataset.shards
    ends = torch.tensor([shard.rule.shape[1] for shard in shards]).cumsum(0)
    place = torch.bucketize(row.flatten(), ends, right=True)
    owner = task.unsqueeze(-1).expand_as(row).flatten()
    gathered = [part.new_empty(row.numel(), *part.shape[2:]) for part in parts_of(shards[0])]
    for number, shard in enumerate(shards):
        here = torch.nonzero(place == number).flatten()
        size = shard.rule.shape[1]
        source = owner[here] * size + row.flatten()[here] - (ends[number] - size)
        for out, part in zip(gathered, parts_of(shard), strict=True):
            out.index_copy_(0, here, part.flatten(0, 1).index_select(0, source))
    return Batch(*(part.view(*row.shape, *part.shape[1:]) for part in gathered))
