"""One set of parameters from several: averages, task vectors, TIES, DARE and soups.

Libraries differ in what they call by one name. Every convention is named here:

* TIES with unequal weights: ``count`` elects signs by plain sums and divides by how many agree, as
  peft 0.21 does; ``weight`` elects by weighted sums and divides by the weights that agree, as
  mergekit 0.1.5 does, where a negative weight turns a vector round. With equal weights of 1 both
  are the paper's.
* DARE: what is kept is divided by ``density``, so that the mean over draws is the vector itself, as
  in the paper and peft; mergekit keeps the sum of sizes instead.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from modeval.errors import SpecError

Convention = Literal["count", "weight"]


def average(models: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """Return ``sum_t w_t theta_t`` of models ``(T, ...)``, the weights being divided by their sum.

    A uniform soup where no weights are given. Source: Wortsman et al. 2022 (arXiv 2203.05482).

    >>> average(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).tolist()
    [2.0, 4.0]
    """
    shares = _weights(models, weights)
    return (shares / shares.sum() * models.movedim(0, -1)).sum(-1)


def task_arithmetic(
    base: Tensor, models: Tensor, scale: float = 1.0, weights: Sequence[float] = ()
) -> Tensor:
    """Return ``base + scale sum_t w_t (theta_t - base)``; a negative scale unlearns.

    Source: Ilharco et al. 2023 (arXiv 2212.04089), section 2.

    >>> task_arithmetic(torch.tensor([1.0]), torch.tensor([[2.0], [4.0]]), 0.5).tolist()
    [3.0]
    """
    vectors = (models - base).movedim(0, -1)
    return base + scale * (_weights(models, weights) * vectors).sum(-1)


def ties(
    vectors: Tensor,
    density: float = 1.0,
    weights: Sequence[float] = (),
    convention: Convention = "count",
) -> Tensor:
    """Return the mean of task vectors ``(T, ...)`` where they agree in sign.

    Each is trimmed to the ``int(density n)`` largest of its n elements; the sign of an element is
    that of the sum over vectors; the mean is over those that have it. What all have trimmed is 0.

    Args:
        vectors: what models have beyond a base.
        density: share of each vector that is kept.
        weights: of the vectors; 1 each if not given.
        convention: what weights mean; see the module.

    Source: Yadav et al. 2023 (TIES-Merging, arXiv 2306.01708), section 4.

    >>> ties(torch.tensor([[4.0, 1.0], [2.0, -3.0]])).tolist()
    [3.0, -3.0]
    """
    kept = trim(vectors, density).movedim(0, -1)
    shares = _weights(vectors, weights)
    signed = kept * shares if convention == "weight" else kept
    elected = signed.sum(-1, keepdim=True).sign()
    agree = ((signed.sign() == elected) & (kept != 0)).to(kept.dtype)
    total = (kept * shares * agree).sum(-1)
    count = (agree * shares if convention == "weight" else agree).sum(-1)
    return total / torch.where(count == 0, 1.0, count)  # nothing is left of what all have trimmed


def trim(vectors: Tensor, density: float) -> Tensor:
    """Keep the ``int(density n)`` largest of the n elements of each vector ``(T, ...)``.

    >>> trim(torch.tensor([[4.0, 1.0, -3.0, 0.5]]), 0.5).tolist()
    [[4.0, 0.0, -3.0, 0.0]]
    """
    _check_density(density)
    flat = vectors.flatten(1)
    best = flat.abs().topk(int(density * flat.shape[1]), 1).indices
    mask = torch.zeros_like(flat).scatter_(1, best, 1.0)
    return (flat * mask).view_as(vectors)


def dare(vectors: Tensor, uniform: Tensor, density: float = 0.5) -> Tensor:
    """Return task vectors with elements dropped at random, the others divided by ``density``.

    Args:
        vectors: ``(T, ...)``.
        uniform: numbers from 0 to 1 of that shape; below ``density`` an element stays.
        density: share that stays.

    Source: Yu et al. 2024 (arXiv 2311.03099), section 3.2.

    >>> dare(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.1, 0.9]]), 0.5).tolist()
    [[2.0, 0.0]]
    """
    _check_density(density)
    return torch.where(uniform < density, vectors / density, torch.zeros_like(vectors))


def greedy_soup(models: Tensor, loss: Callable[[Tensor], float]) -> tuple[Tensor, tuple[int, ...]]:
    """Return the mean of the models that together have the least loss, added one by one.

    Best first; a model stays in the soup where the loss does not grow by it.

    Args:
        models: ``(T, ...)``.
        loss: of one set of parameters, on samples of their own.

    Returns:
        The soup, and the numbers of the models in it.

    Source: Wortsman et al. 2022 (arXiv 2203.05482), recipe 1.

    >>> soup, chosen = greedy_soup(
    ...     torch.tensor([[3.0], [-1.0], [9.0]]), lambda theta: float((theta - 1).abs()))
    >>> soup.tolist(), chosen
    ([1.0], (0, 1))
    """
    alone = [loss(model) for model in models]
    first, *others = sorted(range(len(models)), key=alone.__getitem__)
    chosen, least = [first], alone[first]
    for number in others:
        tried = loss(average(models[[*chosen, number]]))
        if tried <= least:
            chosen, least = [*chosen, number], tried
    return average(models[chosen]), tuple(chosen)


def _weights(models: Tensor, weights: Sequence[float]) -> Tensor:
    if weights and len(weights) != len(models):
        raise SpecError(f"{len(weights)} weights for {len(models)} models: give one for each.")
    given = list(weights) or [1.0] * len(models)
    return torch.tensor(given, dtype=models.dtype, device=models.device)


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise SpecError(f"density = {density}: expected a share above 0, up to 1.")
