"""Routes: small maps of routing weights after gating, by which a network is intervened upon.

    knock_out, keep_only    modules are removed, or all others are
    only                    one module does all the work
    on_largest, on_top, sampled, rounded    soft weights are made hard, in four ways
    shuffle                 each sample is routed as another one was
    swap                    two modules exchange their work
    given                   weights are given
    even                    every module has the same weight
    in_turn                 several of them, one after the other

Each is a :data:`~modeval.nn.network.Route`, ``network(inputs, rule, route=knock_out([3]))``. The
network stays as it is. What a sample's modules had together is its *total*, the sum of the sizes of
its weights; it is 1 but for gatings that scale, drop or do not normalise.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from modeval.nn.network import Route

ROUNDING = 1e-5
"""By how much routing weights may miss a sum of 1 and still be meant to have it."""
HALF = 0.5
"""Share of the largest weight from which a weight is rounded up."""
Modules = Sequence[int] | Bool[Tensor, "*seeds modules"]
"""Numbers of modules, the same for each seed, or a mask ``(M,)`` or ``(S, M)``."""


# --- removing ------------------------------------------------------------------------------------


def knock_out(modules: Modules, *, layer: int | None = None, renormalise: bool = True) -> Route:
    """Return the route that switches modules off.

    Args:
        modules: which.
        layer: in which layer; in each when absent.
        renormalise: whether the others of a sample take over what it lost, so that it keeps its
            total, as after removing the module from a softmax. Without, they keep their weights
            and what the module contributed is lost. A sample that has no other module loses it
            either way.

    >>> weight = torch.tensor([[[0.5, 0.3, 0.2]]])
    >>> knock_out([0])(weight, 0).tolist()
    [[[0.0, 0.6..., 0.4...]]]
    >>> knock_out([0], renormalise=False)(weight, 0).tolist()
    [[[0.0, 0.3..., 0.2...]]]
    """

    def route(weight: Tensor, number: int) -> Tensor:
        if layer is not None and number != layer:
            return weight
        kept = weight.masked_fill(_mask(modules, weight), 0.0)
        return _rescaled(kept, _total(weight)) if renormalise else kept

    return route


def keep_only(modules: Modules, *, layer: int | None = None, renormalise: bool = True) -> Route:
    """Return the route that switches all but some modules off.

    Args:
        modules: which stay.
        layer: in which layer; in each when absent.
        renormalise: as for :func:`knock_out`.

    >>> keep_only([1, 2])(torch.tensor([[[0.5, 0.3, 0.2]]]), 0).tolist()
    [[[0.0, 0.6..., 0.4...]]]
    """

    def route(weight: Tensor, number: int) -> Tensor:
        others = ~_mask(modules, weight)
        return knock_out(others, layer=layer, renormalise=renormalise)(weight, number)

    return route


def only(module: int, *, layer: int | None = None) -> Route:
    """Return the route that gives one module the total of each sample, chosen or not.

    >>> only(2)(torch.tensor([[[0.5, 0.5, 0.0]]]), 0).tolist()
    [[[0.0, 0.0, 1.0]]]
    """

    def route(weight: Tensor, number: int) -> Tensor:
        if layer is not None and number != layer:
            return weight
        alone = torch.zeros_like(weight)
        alone[..., module : module + 1] = _total(weight)
        return alone

    return route


# --- hardening -----------------------------------------------------------------------------------


def on_largest(weight: Tensor, layer: int) -> Tensor:
    """Route each sample to the module with the largest share alone.

    It gets all that the sample's modules had together, so that routing which is hard already stays
    as it is, scaled or not; a sample that no module took stays so.

    >>> on_largest(torch.tensor([[[0.5, 0.3, 0.2]]]), 0).tolist()
    [[[1.0, 0.0, 0.0]]]
    """
    del layer  # the same for all
    best = weight.abs().argmax(-1, keepdim=True)
    total = _total(weight) * weight.gather(-1, best).sign()
    return torch.zeros_like(weight).scatter_(-1, best, total)


def on_top(count: int) -> Route:
    """Return the route that keeps the largest ``count`` weights of each sample, rescaled.

    >>> on_top(2)(torch.tensor([[[0.5, 0.3, 0.2]]]), 0).tolist()
    [[[0.625, 0.375, 0.0]]]
    """

    def route(weight: Tensor, layer: int) -> Tensor:
        del layer
        chosen = weight.abs().topk(min(count, weight.shape[-1]), -1).indices
        kept = torch.zeros_like(weight).scatter_(-1, chosen, weight.gather(-1, chosen))
        return _rescaled(kept, _total(weight))

    return route


def sampled(generator: torch.Generator) -> Route:
    """Return the route that draws one module for each sample, by its share, and gives it the total.

    Seeds share the draws, so that one of a cohort is routed as it would be alone.

    >>> sampled(torch.Generator().manual_seed(0))(torch.tensor([[[0.0, 1.0]]]), 0).tolist()
    [[[0.0, 1.0]]]
    """

    def route(weight: Tensor, layer: int) -> Tensor:
        del layer
        size = weight.abs()
        shape = (1, *weight.shape[1:-1], 1)
        point = torch.rand(shape, generator=generator, device=weight.device, dtype=weight.dtype)
        reached = size.cumsum(-1) > point * size.sum(-1, keepdim=True)
        drawn = reached.to(torch.uint8).argmax(-1, keepdim=True)
        total = _total(weight) * weight.gather(-1, drawn).sign()
        return torch.zeros_like(weight).scatter_(-1, drawn, total)

    return route


def rounded(weight: Tensor, layer: int) -> Tensor:
    """Round weights to all or nothing: those of at least half the largest share the total evenly.

    What is all or nothing already, as the rows of a skill matrix, stays as it is.

    >>> rounded(torch.tensor([[[0.5, 0.3, 0.2]]]), 0).tolist()
    [[[0.5, 0.5, 0.0]]]
    """
    del layer
    size = weight.abs()
    up = (size >= HALF * size.amax(-1, keepdim=True)) & (size > 0)
    return _rescaled(up * weight.sign(), _total(weight))


def hardenings(generator: torch.Generator) -> dict[str, Route]:
    """Return the ways to make routing hard beside the largest alone, by the name of their score."""
    return {
        "hard_gap_top_2": on_top(2),
        "hard_gap_sampled": sampled(generator),
        "hard_gap_rounded": rounded,
    }


# --- exchanging ----------------------------------------------------------------------------------


def shuffle(generator: torch.Generator) -> Route:
    """Return the route that routes each sample as another one was: loads stay, reasons go.

    >>> weight = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    >>> shuffle(torch.Generator().manual_seed(0))(weight, 0).sum(1).tolist()
    [[1.0, 2.0]]
    """

    def route(weight: Tensor, layer: int) -> Tensor:
        del layer
        order = torch.randperm(weight.shape[1], generator=generator, device=weight.device)
        return weight[:, order]

    return route


def swap(one: int, other: int, *, layer: int | None = None) -> Route:
    """Return the route by which two modules do each other's work.

    >>> swap(0, 2)(torch.tensor([[[0.5, 0.3, 0.2]]]), 0).tolist()
    [[[0.2..., 0.3..., 0.5]]]
    """

    def route(weight: Tensor, number: int) -> Tensor:
        if layer is not None and number != layer:
            return weight
        order = torch.arange(weight.shape[-1], device=weight.device)
        order[one], order[other] = other, one
        return weight[..., order]

    return route


def given(weight: Float[Tensor, "..."], *, layer: int | None = None) -> Route:
    """Return the route that puts given weights in place of those of the network.

    Args:
        weight: of a shape that can be expanded to ``(S, ..., M)``.
        layer: in which layer; in each when absent.

    >>> given(torch.tensor([1.0, 0.0]))(torch.tensor([[[0.5, 0.5]]]), 0).tolist()
    [[[1.0, 0.0]]]
    """

    def route(routed: Tensor, number: int) -> Tensor:
        if layer is not None and number != layer:
            return routed
        return weight.to(routed).expand_as(routed)

    return route


def even(weight: Tensor, layer: int) -> Tensor:
    """Give each module the same part of a sample's total: routing that knows nothing.

    >>> even(torch.tensor([[[1.0, 0.0]]]), 0).tolist()
    [[[0.5, 0.5]]]
    """
    del layer
    return (_total(weight) / weight.shape[-1]).expand_as(weight)


def in_turn(*routes: Route) -> Route:
    """Return one route that does several, one after the other.

    >>> in_turn(swap(0, 1), on_largest)(torch.tensor([[[0.7, 0.3]]]), 0).tolist()
    [[[0.0, 1.0]]]
    """

    def route(weight: Tensor, layer: int) -> Tensor:
        for each in routes:
            weight = each(weight, layer)
        return weight

    return route


# --- parts ---------------------------------------------------------------------------------------


def _total(weight: Tensor) -> Tensor:
    """Return what a sample's modules have together, ``(S, ..., 1)``; 1 where that is meant."""
    total = weight.abs().sum(-1, keepdim=True)
    return torch.where((total - 1).abs() < ROUNDING, 1.0, total)


def _rescaled(kept: Tensor, total: Tensor) -> Tensor:
    """Return weights scaled to a total; rows of nothing and whole rows stay as they are."""
    left = _total(kept)
    return torch.where(left == total, kept, kept * (total / left.clamp(min=1e-30)))


def _mask(modules: Modules, weight: Tensor) -> Bool[Tensor, "..."]:
    """Return which modules are meant, of a shape that expands to that of the weights."""
    if isinstance(modules, Tensor):
        mask = modules.to(weight.device)
        return mask if mask.ndim == 1 else mask.view(len(mask), *(1,) * (weight.ndim - 2), -1)
    mask = torch.zeros(weight.shape[-1], dtype=torch.bool, device=weight.device)
    mask[[*modules]] = True
    return mask
