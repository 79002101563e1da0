"""Cutting streams of batches into other sizes."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from modeval.types import Batch


def parts_of(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, rule and target."""
    return batch.inputs, batch.rule, batch.target


def recut(pieces: Iterable[Batch], sizes: Iterable[int]) -> Iterator[Batch]:
    """Cut a stream of batches anew, into batches of the given numbers of samples."""
    source = iter(pieces)
    held: list[Batch] = []
    there = 0
    for size in sizes:
        while there < size:
            held.append(next(source))
            there += held[-1].rule.shape[1]
        joined = held[0]
        if len(held) > 1:
            joined = Batch(*(torch.cat(same, 1) for same in zip(*map(parts_of, held), strict=True)))
        yield Batch(*(part[:, :size] for part in parts_of(joined)))
        held = [Batch(*(part[:, size:] for part in parts_of(joined)))]
        there -= size
