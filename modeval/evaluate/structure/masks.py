"""Masks: which weights does a rule need, and do rules share them more than chance would?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.func import functional_call

from modeval.evaluate.structure.chain import Chain

STEPS, BATCH, RATE = 300, 256, 0.05
"""Of learning a mask."""
SPARSITY = 0.1
"""What a mask of all weights costs, as a share of what the network gains on one without weights."""
START = 2.0
"""Logit of keeping a weight at first: .88."""
PERMUTED = 199
Score = Callable[[Tensor, Tensor], Tensor]
"""Loss of each sample from predictions and targets, ``(N, ...)`` each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """The weights that each rule needs, as masks that were learned (R rules).

    Attributes:
        density: ``(R,)`` share of the weights that are kept.
        loss: ``(R,)`` loss of the rule with its mask.
        intact: ``(R,)`` loss of the rule with all weights.
        overlap: ``(R, R)`` weights that both keep, as a share of those that either keeps.
        chance: ``(R, R)`` the same of independent masks of the same densities.
        p_shared: that masks whose entries are permuted within each layer overlap as much.
        p_apart: that they overlap as little.
    """

    density: Float64[Tensor, "rules"]
    loss: Float64[Tensor, "rules"]
    intact: Float64[Tensor, "rules"]
    overlap: Float64[Tensor, "rules rules"]
    chance: Float64[Tensor, "rules rules"]
    p_shared: float
    p_apart: float


def learned_masks(
    chain: Chain,
    inputs: Tensor,
    target: Tensor,
    rule: Int64[Tensor, " samples *positions"],
    score: Score,
    *,
    steps: int = STEPS,
    sparsity: float = SPARSITY,
    generator: torch.Generator | None = None,
) -> Masks:
    """Which weights does each rule need by itself, and how many do two rules share?

    For each rule a logit for each weight is learned, by Gumbel-sigmoid with straight-through
    samples, so that ``loss of the rule + sparsity · gain · share kept`` is small, the gain being
    that on a network without weights. Two masks of densities d and e that know nothing of each
    other overlap by ``d e/(d + e - d e)``.

    Args:
        chain: the network, which stays as it is.
        inputs: samples.
        target: what is wanted of them.
        rule: rule of each sample, or of each position of it.
        score: gives the loss of each of them.
        steps: of learning.
        sparsity: price of keeping all weights, as a share of the gain.
        generator: draws samples and noise.

    Source: Csordás et al. 2021, Are neural nets modular? (arXiv 2010.02066).
    """
    generator = generator or torch.Generator().manual_seed(0)
    rules = int(rule.max()) + 1
    parts = [_part(inputs, target, rule == each) for each in range(rules)]
    with torch.no_grad():
        intact = [
            float(score(chain.module(part.inputs), part.target)[part.counts].mean())
            for part in parts
        ]
    found = [
        _learned(chain, part, score, steps=steps, price=sparsity, generator=generator)
        for part in parts
    ]
    masks = [mask for mask, _ in found]
    flat = torch.stack([torch.cat([layer.flatten() for layer in mask]) for mask in masks])
    density = flat.double().mean(1)
    both = density[:, None] * density
    chance = both / (density[:, None] + density - both).clamp(min=1e-12)
    overlap = overlap_of(flat)
    shared, apart = chance_of_overlap(masks, float(_mean_pair(overlap)), generator)
    return Masks(
        density=density,
        loss=torch.tensor([loss for _, loss in found], dtype=torch.float64),
        intact=torch.tensor(intact, dtype=torch.float64),
        overlap=overlap,
        chance=chance,
        p_shared=shared,
        p_apart=apart,
    )


def overlap_of(masks: Bool[Tensor, "rules weights"]) -> Float64[Tensor, "rules rules"]:
    """Return intersection over union of each pair of masks; 1 where both are empty.

    >>> overlap_of(torch.tensor([[True, True, False], [False, True, True]])).tolist()
    [[1.0, 0.333...], [0.333..., 1.0]]
    """
    kept = masks.double()
    both = kept @ kept.mT
    size = kept.sum(1)
    either = size[:, None] + size - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def _mean_pair(table: Tensor) -> Tensor:
    rules = len(table)
    off = ~torch.eye(rules, dtype=torch.bool)
    return table[off].mean() if rules > 1 else table.new_ones(())


@dataclass(frozen=True, slots=True)
class _Part:
    """Samples in which a rule is met.

    Attributes:
        inputs: of them.
        target: what is wanted of them.
        counts: ``(N,)`` or ``(N, T)`` where: losses there are the rule's.
    """

    inputs: Tensor
    target: Tensor
    counts: Tensor


def _part(inputs: Tensor, target: Tensor, of: Tensor) -> _Part:
    met = of.flatten(1).any(1) if of.ndim > 1 else of
    return _Part(inputs[met], target[met], of[met])


def _learned(
    chain: Chain,
    part: _Part,
    score: Score,
    *,
    steps: int,
    price: float,
    generator: torch.Generator,
) -> tuple[list[Tensor], float]:
    names = {id(layer.weight): name for name, layer in _named_weights(chain)}
    weights = [layer.weight.detach() for layer in chain.layers]
    logits = [torch.full_like(weight, START).requires_grad_() for weight in weights]
    optimiser = torch.optim.Adam(logits, lr=RATE)
    total = sum(weight.numel() for weight in weights)

    def run(masks: list[Tensor], x: Tensor) -> Tensor:
        given = {
            names[id(layer.weight)]: weight * mask
            for layer, weight, mask in zip(chain.layers, weights, masks, strict=True)
        }
        answer: Tensor = functional_call(chain.module, given, (x,))
        return answer

    def loss(masks: list[Tensor], chosen: Tensor | slice) -> Tensor:
        each = score(run(masks, part.inputs[chosen]), part.target[chosen])
        return each[part.counts[chosen]].mean()

    with torch.no_grad():
        ends = [
            float(loss([torch.full_like(w, kept) for w in weights], slice(None)))
            for kept in (0.0, 1.0)
        ]
    price *= abs(ends[0] - ends[1])
    for _ in range(steps):
        size = len(part.inputs)
        chosen = torch.randint(size, (min(BATCH, size),), generator=generator)
        masks = [_sampled(logit, generator) for logit in logits]
        kept = sum(logit.sigmoid().sum() for logit in logits) / total
        cost = loss(masks, chosen) + price * kept
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
    final = [logit.detach() > 0 for logit in logits]
    with torch.no_grad():
        kept_loss = loss([mask.to(part.inputs.dtype) for mask in final], slice(None))
    return final, float(kept_loss)


def _named_weights(chain: Chain) -> list[tuple[str, torch.nn.Linear]]:
    wanted = {id(layer) for layer in chain.layers}
    return [
        (f"{name}.weight" if name else "weight", layer)
        for name, layer in chain.module.named_modules()
        if isinstance(layer, torch.nn.Linear) and id(layer) in wanted
    ]


def _sampled(logit: Tensor, generator: torch.Generator) -> Tensor:
    """Return a mask of 0 and 1 whose gradient is that of its relaxation."""
    uniform = torch.rand(logit.shape, generator=generator, dtype=logit.dtype).clamp(1e-6, 1 - 1e-6)
    soft = (logit + uniform.log() - (-uniform).log1p()).sigmoid()
    hard = (soft > 0.5).to(soft.dtype)  # noqa: PLR2004 - more likely than not
    return hard + soft - soft.detach()


def chance_of_overlap(
    masks: list[list[Tensor]], observed: float, generator: torch.Generator
) -> tuple[float, float]:
    """Return how often permuted masks overlap as much, and as little."""
    layers = [torch.stack(list(layer)).flatten(1) for layer in zip(*masks, strict=True)]
    drawn = []
    for _ in range(PERMUTED):
        parts = []
        for layer in layers:
            order = torch.rand(layer.shape, generator=generator).argsort(1)
            parts.append(layer.gather(1, order))
        drawn.append(float(_mean_pair(overlap_of(torch.cat(parts, 1)))))
    count = len(drawn) + 1
    more = sum(each >= observed - 1e-12 for each in drawn) + 1
    fewer = sum(each <= observed + 1e-12 for each in drawn) + 1
    return more / count, fewer / count
