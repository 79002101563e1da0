"""How much memory a step takes, before anything is computed: how many seeds fit at once."""

import functools
import os
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeval.nn import Network, build
from modeval.spec import DataSpec, ModelSpec
from modeval.train.goal import losses
from modeval.train.stream import chunk_bytes
from modeval.types import Batch, Noise

COPIES = 2  # of the parameters beside those: the best checkpoint, and what is written of all
CHUNKS = 2  # of data: the one that is trained on, and the next one, which is drawn meanwhile
MOMENTS = 4  # copies of the parameters: themselves, their gradients, and the two moments of Adam
NOWHERE = torch.device("meta")
CONTAINER = Path("/sys/fs/cgroup")


def step_bytes(data: DataSpec, model: ModelSpec, batch: int) -> int | None:
    """Return the bytes that an eager step keeps of one seed when its backward pass begins.

    What autograd keeps is counted by a forward pass on a device without memory; parameters count
    four times. A step peaks somewhat above that, by what single operations need on the way.

    Returns:
        None for networks whose routing looks at values on the processor within a step.

    >>> few, many = (step_bytes(DataSpec(rules=2), ModelSpec(), batch) for batch in (64, 256))
    >>> few < many < 4 * few
    True
    """
    network, samples = _nowhere(data, model, batch)
    own = {value.untyped_storage()._cdata for value in network.parameters()}  # noqa: SLF001
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # noqa: SLF001 - what tells storages apart
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            prediction = network(
                samples.inputs, samples.rule, noise=_noise(network, samples)
            ).prediction
            total = losses(prediction, samples.target, data.objective).sum()
    except (RuntimeError, NotImplementedError):
        return None
    del total
    parameters = sum(value.nbytes for value in network.parameters())
    saved = sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own
    )
    return MOMENTS * parameters + saved


def validation_bytes(data: DataSpec, model: ModelSpec, samples: int) -> int | None:
    """Return the bytes that one seed takes at most while it is validated, on so many samples.

    Nothing is kept for a backward pass, but samples are many: for sequences this is far more than a
    step takes. Counted like a step, on a device without memory.

    Returns:
        None where a step is not known either.

    >>> few, many = (validation_bytes(DataSpec(rules=2), ModelSpec(), n) for n in (64, 256))
    >>> few < many < 5 * few
    True
    """
    network, given = _nowhere(data, model, samples)
    try:
        with torch.no_grad(), _Held() as held:
            network(given.inputs, given.rule)
    except (RuntimeError, NotImplementedError):
        return None
    return int(held.most)


@functools.lru_cache(maxsize=64)
def seed_bytes(data: DataSpec, model: ModelSpec, batch: int, samples: int) -> int | None:
    """Return the bytes that a seed takes while it is trained: in a step, or in a validation.

    Args:
        data: the task.
        model: the network.
        batch: samples of a step.
        samples: samples of a validation.

    Returns:
        None where it is not known; see :func:`step_bytes`.
    """
    step = step_bytes(data, model, batch)
    validation = validation_bytes(data, model, samples)
    if step is None or validation is None:
        return None
    network, _ = _nowhere(data, model, 1)
    parameters = sum(value.nbytes for value in network.parameters())
    drawn = CHUNKS * chunk_bytes(data, batch)
    return drawn + COPIES * parameters + max(step, MOMENTS * parameters + validation)


class _Held(TorchDispatchMode):
    """The largest number of bytes that tensors hold at one time, of those that are made within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._tensors: dict[int, int] = {}  # by storage: how many tensors look at it

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        return made

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()  # noqa: SLF001 - what tells storages apart
        if not self._tensors.get(place):
            self._now += size
            self.most = max(self.most, self._now)
        self._tensors[place] = self._tensors.get(place, 0) + 1
        weakref.finalize(tensor, self._drop, place, size)

    def _drop(self, place: int, size: int) -> None:
        self._tensors[place] -= 1
        if not self._tensors[place]:
            self._now -= size


def _nowhere(data: DataSpec, model: ModelSpec, samples: int) -> tuple[Network, Batch]:
    """Return a network of one seed and samples for it, without numbers and without memory."""
    shape = (1, samples, *((data.length,) if data.sequence else ()))
    batch = Batch(
        torch.empty(*shape, data.features, device=NOWHERE),
        torch.empty(*shape, dtype=torch.int64, device=NOWHERE),
        torch.empty(*shape, data.outputs, device=NOWHERE),
    )
    return build(data, model, seeds=1).to(NOWHERE), batch


def _noise(network: Network, batch: Batch) -> Noise | None:
    if network.chance < 0:
        return None
    uniform = torch.empty(*batch.rule.shape, network.chance, device=NOWHERE)
    return Noise(uniform, torch.empty((), device=NOWHERE))


def seeds_at_once(seeds: int, bytes_of_one: int, free: int) -> int:
    """Return how many seeds to take together, in parts as equal as can be, so that they fit.

    >>> seeds_at_once(100, 10, 10_000), seeds_at_once(100, 10, 400), seeds_at_once(100, 10, 3)
    (100, 34, 1)
    """
    most = max(1, min(seeds, free // max(1, bytes_of_one)))
    parts = -(-seeds // most)
    return -(-seeds // parts)


def free_bytes(device: torch.device) -> int:
    """Return the memory of a device that is free now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        told = next(line for line in lines if line.startswith("MemAvailable"))
        free = int(told.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 20
        free = pages * 4096 // 2
    limit = _left_to_container(CONTAINER)
    return free if limit is None else min(free, limit)


def _left_to_container(folder: Path) -> int | None:
    """Return what a container's own limit leaves; None where there is no limit."""
    try:
        limit, taken = (
            int((folder / f"memory.{name}").read_text(encoding="utf-8"))
            for name in ("max", "current")
        )
    except (OSError, ValueError):  # "max" stands for no limit
        return None
    return max(0, limit - taken)
