"""A cohort that is worked off a few seeds at a time, where all at once would leave the cache.

What a step keeps for its backward pass grows with the seeds. Beyond a few tens of megabytes each
operation waits for memory, and each tensor is asked for anew from the system: a large cohort is
then slower than its seeds one by one. Seeds do not meet in a step, so a part of them is the same
network on a part of the parameters.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeval.memory import keep_memory
from modeval.nn import Network
from modeval.nn.layer import LayeredNetwork
from modeval.types import Batch, Noise

CACHED = 24 * 2**20
"""Bytes that a step may keep for its backward pass; measured on several systems and machines."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some seeds of a cohort.

    Attributes:
        first: the first of them.
        last: the one after the last.
        network: theirs; its parameters are views of those of the whole.
    """

    first: int
    last: int
    network: Network

    def of(self, value: Tensor) -> Tensor:
        """Return their part of what has the seeds first."""
        return value[self.first : self.last]

    def of_batch(self, batch: Batch) -> Batch:
        """Return their samples."""
        return Batch(self.of(batch.inputs), self.of(batch.rule), self.of(batch.target))

    def of_noise(self, noise: Noise | None) -> Noise | None:
        """Return their chance."""
        if noise is None:
            return None
        return Noise(self.of(noise.uniform), noise.progress)


def slices_of(network: Network, batch: Batch, noise: Noise | None) -> tuple[Slice, ...]:
    """Return the parts that a step is to be cut into; none where it is best done as a whole."""
    if not isinstance(network, LayeredNetwork) or batch.inputs.device.type != "cpu":
        return ()
    if network.seeds == 1:
        return ()
    keep_memory()
    one = _slice(network, 0, 1)
    most = max(1, CACHED // max(1, _kept_bytes(one, batch, noise)))
    if most >= network.seeds:
        return ()
    count = -(-network.seeds // most)
    bounds = [network.seeds * number // count for number in range(count + 1)]
    return tuple(_slice(network, first, last) for first, last in itertools.pairwise(bounds))


def side_by_side(work: Callable[[Slice], Tensor], parts: Sequence[Slice]) -> list[Tensor]:
    """Work parts off, each by one thread, as many at a time as PyTorch has threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(part) for part in parts]
    torch.set_num_threads(1)  # of the products, too, which is a setting of the whole process
    try:
        return list(_crew(threads).map(work, parts))
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _crew(threads: int) -> ThreadPoolExecutor:
    """Return threads that are kept from step to step, each of which works alone."""
    return ThreadPoolExecutor(threads, "slice", initializer=torch.set_num_threads, initargs=(1,))


def _slice(network: Network, first: int, last: int) -> Slice:
    """Return the network of some seeds."""
    kept: dict[int, object] = {}
    lasting = {id(value) for value in network.state_dict(keep_vars=True).values()}
    for parameter in network.parameters():
        own = nn.Parameter(parameter.detach()[first:last], parameter.requires_grad)
        kept[id(parameter)] = own
    for buffer in network.buffers():  # those that are stored have seeds, tables of rules have none
        kept[id(buffer)] = buffer[first:last] if id(buffer) in lasting else buffer
    made = copy.deepcopy(network, kept)
    for part in made.modules():
        if isinstance(getattr(part, "seeds", None), int):
            part.seeds = last - first  # type: ignore[assignment]
    return Slice(first, last, made)


def _kept_bytes(part: Slice, batch: Batch, noise: Noise | None) -> int:
    """Return what a forward pass keeps for the backward one."""
    own = {value.untyped_storage().data_ptr() for value in part.network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = min(storage.nbytes(), tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        own_batch = part.of_batch(batch)
        output = part.network(own_batch.inputs, own_batch.rule, noise=part.of_noise(noise))
    del output
    return sum(size for place, size in kept.items() if place not in own)
