"""Search and retrieve among the positions of a set, with keys and values for each rule."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from modeval.spec import DataSpec, Search

PAIRS = 2**16
"""Pairs of positions compared at once on a CPU, so that they stay in its cache."""

DEVICE_PAIRS = 2**22
"""The same on other devices: what bounds the working space there."""


def draw_positions(
    spec: DataSpec, generator: Generator, *, out: Float[Tensor, "samples positions features"]
) -> None:
    """Fill ``out`` with the keys and values of every rule, rule after rule.

    ``nearest``: four standard normal numbers ``q, q', v, v'``. ``product``: ``q`` and ``q'`` are
    points of the unit circle instead, so that a rule has six numbers.
    """
    if spec.search == "nearest":
        out.normal_(generator=generator)
        return
    by_rule = out.view(*out.shape[:-1], spec.rules, 6)
    drawn = torch.empty(*by_rule.shape[:-1], 2, dtype=out.dtype, device=out.device)
    by_rule[..., 4:] = drawn.normal_(generator=generator)
    angle = drawn.uniform_(0, 2 * math.pi, generator=generator)
    by_rule[..., 0:4:2] = angle.cos()
    by_rule[..., 1:4:2] = angle.sin()


def search_and_retrieve(
    inputs: Float[Tensor, "seeds samples positions features"],
    rule: Int64[Tensor, "seeds samples positions"],
    *,
    search: Search,
) -> Float[Tensor, "seeds samples positions 2"]:
    """What does each position find?

    Position n looks, in the columns of its own rule, for the other position whose first key is
    most like its own and takes that one's first value; likewise with the second key and value:
    ``v[s], v'[s']`` with ``s = argmin |q_n - q_i|`` or ``s = argmax q_n . q_i`` over ``i != n``.
    """
    samples, length = inputs.shape[0] * inputs.shape[1], inputs.shape[2]
    pairs = PAIRS if inputs.device.type == "cpu" else DEVICE_PAIRS
    size = max(1, pairs // length**2)
    found = [
        _retrieve(part, part_rule, search)
        for part, part_rule in zip(
            torch.split(inputs.view(samples, length, -1), size),
            torch.split(rule.view(samples, length), size),
            strict=True,
        )
    ]
    return torch.cat(found).view(*rule.shape, 2)


def _retrieve(
    inputs: Float[Tensor, "samples positions features"],
    rule: Int64[Tensor, "samples positions"],
    search: Search,
) -> Float[Tensor, "samples positions 2"]:
    samples, length = rule.shape
    width = {"nearest": 4, "product": 6}[search]
    rows = inputs.reshape(-1, width)
    # Row of position i under the rule of position n: only these columns are ever read.
    position = torch.arange(samples * length, device=rule.device).view(samples, 1, length)
    index = position * (len(rows) // (samples * length)) + rule.unsqueeze(-1)
    seen = rows.index_select(0, index.flatten()).view(samples, length, length, width)
    own = torch.eye(length, dtype=torch.bool, device=rule.device)
    taken = []
    for distance, value in zip(_distances(seen, search), (-2, -1), strict=True):
        chosen = distance.masked_fill_(own, torch.inf).argmin(-1, keepdim=True)
        taken.append(seen[..., value].gather(-1, chosen))
    return torch.cat(taken, dim=-1)


def _distances(
    seen: Float[Tensor, "samples positions others width"], search: Search
) -> list[Float[Tensor, "samples positions others"]]:
    """Return how unlike the first keys, and how unlike the second keys, of each two positions are.

    Entry ``[n, i]`` compares under the rule of n, in whose columns its own keys lie on the
    diagonal.
    """
    own = seen.diagonal(dim1=1, dim2=2).mT.unsqueeze(2)
    if search == "nearest":
        return [(seen[..., key] - own[..., key]).abs_() for key in (0, 1)]
    return [
        (seen[..., x] * own[..., x]).addcmul_(seen[..., y], own[..., y]).neg_()
        for x, y in ((0, 1), (2, 3))
    ]
