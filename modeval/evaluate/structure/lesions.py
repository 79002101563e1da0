"""Lesions: does a part of a network matter, and to one rule more than to others?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from modeval.evaluate.structure.chain import Chain, lesioned

PARTITIONS = 99
"""Random partitions that the parts are held against."""
Losses = Callable[[], Float64[Tensor, " samples *positions"]]
"""Runs the network and gives the loss of each sample, or of each position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesions:
    """What switching the parts of a network off does (C parts, R rules, P random partitions).

    Attributes:
        change: ``(C, R)`` growth of the loss of each rule without each part.
        importance: ``(C,)`` mean growth over rules.
        coherence: ``(C,)`` share of all growth that is of the rule with most; 1/R when alike.
        importance_chance: mean of random sets with as many units in each layer.
        coherence_chance: likewise.
        importance_p: that random partitions have parts as important: Fisher's combination of the
            parts' p values, held against those of random partitions.
        coherence_p: likewise of coherence.
    """

    change: Float64[Tensor, "parts rules"]
    importance: Float64[Tensor, "parts"]
    coherence: Float64[Tensor, "parts"]
    importance_chance: Float64[Tensor, "parts"]
    coherence_chance: Float64[Tensor, "parts"]
    importance_p: float
    coherence_p: float


def lesion_test(
    chain: Chain,
    labels: Sequence[Sequence[int]],
    losses: Losses,
    rule: Int64[Tensor, " samples *positions"],
    *,
    partitions: int = PARTITIONS,
    generator: torch.Generator | None = None,
) -> Lesions:
    """Does a part matter more, or to fewer rules, than as many units drawn at random?

    Each part is switched off and the loss of each rule measured; so are the parts of random
    partitions with the same numbers of units in each layer. A part's p is its rank among its
    random counterparts, ``(r + 1)/(P + 1)``; Fisher's ``-2 sum log p`` combines the parts, and its
    own p is its rank among those of the random partitions, for the parts of one partition are not
    independent. So both keep their size whatever the network.

    Args:
        chain: the network.
        labels: part of each unit of each hidden layer; -1 for none.
        losses: runs the network.
        rule: rule of each sample, or of each position.
        partitions: random partitions.
        generator: draws them.

    Source: Hod et al. 2021, Quantifying local specialization in deep neural networks
    (arXiv 2110.08058).
    """
    generator = generator or torch.Generator().manual_seed(0)
    own = [torch.tensor(layer) for layer in labels]
    rules = int(rule.max()) + 1
    intact = _by_rule(losses(), rule, rules)
    parts = sorted({int(label) for layer in own for label in layer.unique() if label >= 0})

    def changes(partition: Sequence[Tensor]) -> Tensor:
        grown = []
        for part in parts:
            with lesioned(chain, [layer == part for layer in partition]):
                grown.append(_by_rule(losses(), rule, rules) - intact)
        return torch.stack(grown)

    drawn = [own]
    drawn += [
        [layer[torch.randperm(len(layer), generator=generator)] for layer in own]
        for _ in range(partitions)
    ]
    with torch.inference_mode():
        change = torch.stack([changes(partition) for partition in drawn])
    importance, coherence = change.mean(-1), coherence_of(change)
    return Lesions(
        change=change[0],
        importance=importance[0],
        coherence=coherence[0],
        importance_chance=importance[1:].mean(0),
        coherence_chance=coherence[1:].mean(0),
        importance_p=combined_p(importance),
        coherence_p=combined_p(coherence),
    )


def coherence_of(change: Float64[Tensor, "*batch rules"]) -> Float64[Tensor, "*batch"]:
    """Return the share of all growth of the loss that is of one rule; 1/R where nothing grows.

    >>> coherence_of(torch.tensor([[1.0, 0.0], [0.5, 0.5], [-1.0, 0.0]]).double()).tolist()
    [1.0, 0.5, 0.5]
    """
    positive = change.clamp(min=0)
    total = positive.sum(-1)
    even = torch.full_like(total, 1 / change.shape[-1])
    return torch.where(total > 0, positive.amax(-1) / total.clamp(min=1e-300), even)


def combined_p(values: Float64[Tensor, "partitions parts"]) -> float:
    """Return the p value that the first of several exchangeable partitions has parts so large.

    >>> combined_p(torch.tensor([[9.0, 8.0], [1.0, 2.0], [2.0, 1.0], [0.0, 3.0]]).double())
    0.25
    """
    each = (values.unsqueeze(0) >= values.unsqueeze(1)).double().mean(1)
    fisher = -2 * each.log().sum(-1)
    return float((fisher >= fisher[0] - 1e-12).double().mean())


def _by_rule(loss: Tensor, rule: Tensor, rules: int) -> Float64[Tensor, "rules"]:
    member = torch.nn.functional.one_hot(rule.flatten(), rules).double()
    return loss.flatten().double() @ member / member.sum(0)
