"""How much memory a step takes, before anything is computed: how many seeds fit at once."""

import os
from pathlib import Path

import torch
from torch import Tensor

from modeval.nn import build
from modeval.spec import DataSpec, ModelSpec
from modeval.train.goal import losses
from modeval.types import Noise

MOMENTS = 4  # copies of the parameters: themselves, their gradients, and the two moments of Adam
NOWHERE = torch.device("meta")


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
    network = build(data, model, seeds=1).to(NOWHERE)
    shape = (1, batch, *((data.length,) if data.sequence else ()))
    inputs = torch.empty(*shape, data.features, device=NOWHERE)
    rule = torch.empty(*shape, dtype=torch.int64, device=NOWHERE)
    target = torch.empty(*shape, data.outputs, device=NOWHERE)
    noise = None
    if network.chance >= 0:
        uniform = torch.empty(*shape, network.chance, device=NOWHERE)
        noise = Noise(uniform, torch.empty((), device=NOWHERE))
    own = {value.untyped_storage()._cdata for value in network.parameters()}  # noqa: SLF001
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # noqa: SLF001 - what tells storages apart
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            prediction = network(inputs, rule, noise=noise).prediction
            total = losses(prediction, target, data.objective).sum()
    except (RuntimeError, NotImplementedError):
        return None
    del total
    parameters = sum(value.nbytes for value in network.parameters())
    saved = sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own
    )
    return MOMENTS * parameters + saved


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
        return int(told.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 20
        return pages * 4096 // 2
