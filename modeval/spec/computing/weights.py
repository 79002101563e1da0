"""Pieces that gatings are made of: choices as weights, and uniform numbers that are safe to log."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings are read where torch is not yet loaded; tensors bring their methods
    from torch import Tensor

    from modeval.types import Noise

TINY = 1e-6
"""Uniform numbers are kept so far from 0 and 1 before their logarithm is taken."""


def largest(values: "Tensor") -> "Tensor":
    """Return 1 at the largest of each row (the first of several) and 0 elsewhere."""
    return values.new_zeros(values.shape).scatter_(-1, values.argmax(-1, keepdim=True), 1.0)


def explored(chosen: "Tensor", noise: "Noise | None", *, epsilon: float, end: float) -> "Tensor":
    """Return a choice, in training now and then a random one: a share that falls evenly.

    Args:
        chosen: 1 at the module of each row.
        noise: of the step, two numbers for each module; nothing at evaluation.
        epsilon: share of random choices at the beginning of training.
        end: share at its end.
    """
    if noise is None:
        return chosen
    coin, other = noise.uniform.chunk(2, -1)
    share = epsilon + (end - epsilon) * noise.progress
    return largest(other).where(coin[..., :1] < share, chosen)


def straight_through(hard: "Tensor", soft: "Tensor") -> "Tensor":
    """Return ``hard``, with the gradient of ``soft``."""
    return hard.detach() + (soft - soft.detach())


def keep_best(logits: "Tensor", k: int) -> "Tensor":
    """Return the k largest of each row, and minus infinity elsewhere."""
    best = logits.topk(min(k, logits.shape[-1]), -1).indices
    kept = logits.new_zeros(logits.shape).scatter_(-1, best, 1.0)
    return logits.masked_fill(kept == 0, -math.inf)


def open_interval(uniform: "Tensor") -> "Tensor":
    """Return uniform numbers with those at the ends moved inwards."""
    return uniform.clamp(TINY, 1 - TINY)


def assignment(logits: "Tensor") -> "Tensor":
    """Return the balanced assignment with the largest sum, of several seeds at a time."""
    import torch  # noqa: PLC0415 - specifications are read without it
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow, and seldom needed

    seeds, samples, modules = logits.shape
    room = -(-samples // modules)
    wanted = logits.nan_to_num().cpu().double()  # a seed that is lost stops no other one
    places = wanted.repeat_interleave(room, 2).numpy()

    def solved(seed: int) -> "Tensor":
        rows, columns = linear_sum_assignment(places[seed], maximize=True)
        module = torch.empty(samples, dtype=torch.int64)
        module[rows] = torch.from_numpy(columns // room)
        return module

    together = min(torch.get_num_threads(), seeds)
    if together > 1:
        with ThreadPoolExecutor(together) as pool:
            found = [*pool.map(solved, range(seeds))]
    else:
        found = [solved(seed) for seed in range(seeds)]
    chosen = torch.stack(found).to(logits.device).unsqueeze(-1)
    return torch.zeros_like(logits).scatter_(2, chosen, 1.0)
