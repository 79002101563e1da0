"""Intervals and nulls: how sure is a number, and could chance have made it?

Everything is drawn from a given generator (on the CPU): the same generator, the same interval.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics import mutual_information
from modeval.types import Prior, RoutingCounts, View

Tail = Literal["greater", "less"]
Documents = Literal["labelled", "mixed"]
Part = TypeVar("Part")

DRAWS = 1000
LEVEL = 0.95
SAMPLES_PER_CELL = 50  # effective samples for each rule and module, below which a score is marked
REDRAWS = 100  # rounds of drawing again the resamples that lost a rule
ELEMENTS = 1 << 20  # numbers of one table of resamples held at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """Percentile interval of a bootstrap.

    Attributes:
        low: ``(...)`` lower end.
        high: ``(...)`` upper end.
        level: share of the resamples between them.
        draws: number of resamples.
    """

    low: Float64[Tensor, "*batch"]
    high: Float64[Tensor, "*batch"]
    level: float
    draws: int


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """A statistic held against what permuted labels give.

    Attributes:
        observed: ``(...)`` the statistic.
        p_value: ``(...)`` one-sided, (r+1)/(n+1).
        null_mean: ``(...)`` mean under permutation: the chance level of this trace.
        null_low: ``(...)`` 2.5 % point under permutation.
        null_high: ``(...)`` 97.5 % point under permutation.
        permutations: number n of permutations.
    """

    observed: Float64[Tensor, "*batch"]
    p_value: Float64[Tensor, "*batch"]
    null_mean: Float64[Tensor, "*batch"]
    null_low: Float64[Tensor, "*batch"]
    null_high: Float64[Tensor, "*batch"]
    permutations: int


def percentile_interval(
    draws: Float64[Tensor, "draws *batch"], *, level: float = LEVEL
) -> Interval:
    """Return the middle ``level`` of the draws."""
    if not bool(torch.isfinite(draws).all()):
        raise TraceError(
            "A resample gave a value that is not finite, so there is no interval. Score more "
            "samples, or leave out rules that are rare."
        )
    low, high = _quantile(draws, (1 - level) / 2), _quantile(draws, (1 + level) / 2)
    return Interval(low=low, high=high, level=level, draws=len(draws))


def bootstrap_seeds(
    values: Float64[Tensor, "seeds *batch"],
    *,
    generator: torch.Generator,
    strata: Int64[Tensor, "seeds"] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval | None:
    """How sure is the mean over seeds?

    Stratified bootstrap: seeds are resampled within their stratum (the task seed of each model
    seed), so that every resample has the design of the experiment. Seeds that are alone in their
    stratum are resampled among themselves.

    Args:
        values: ``(S, ...)`` one value for each seed of a cohort.
        generator: draws the resamples.
        strata: ``(S,)`` stratum of each seed; a single one when absent.
        draws: number of resamples.
        level: share of the resamples between the ends.

    Returns:
        The interval of the mean, ``(...)``; None for one seed, which says nothing of the others.

    Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.1.

    >>> generator = torch.Generator().manual_seed(0)
    >>> values = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
    >>> interval = bootstrap_seeds(values, generator=generator)
    >>> round(interval.low.item(), 3), round(interval.high.item(), 3)
    (0.15, 0.375)
    """
    seeds = len(values)
    if seeds < 2:  # noqa: PLR2004 - one seed has no spread
        return None
    groups = torch.zeros(seeds, dtype=torch.int64) if strata is None else strata.cpu()
    index = torch.empty(draws, seeds, dtype=torch.int64)
    for members in _strata(groups):
        picks = torch.randint(len(members), (draws, len(members)), generator=generator)
        index[:, members] = members[picks]
    weight = _multiplicity(index, seeds).to(values.device) / seeds
    means = (weight @ values.flatten(1) if values.dim() > 1 else weight @ values).reshape(
        draws, *values.shape[1:]
    )
    return percentile_interval(means, level=level)


def bootstrap_blocks(
    counts: RoutingCounts,
    function: Callable[[RoutingCounts], Mapping[str, Tensor]],
    *,
    generator: torch.Generator,
    draws: int = DRAWS,
    level: float = LEVEL,
    view: View = "weight",
) -> dict[str, Interval] | None:
    """How sure are the metrics of one trace, whose tokens are dependent within a document?

    Replicate blocks (documents hashed to B blocks) are resampled with replacement, never tokens.
    A resample that lost a rule is drawn again. Co-activations are not kept by block and stay as
    they are.

    Args:
        counts: folded routing, batch ``(...)``, of B blocks.
        function: gives metrics by name, ``(D, ...)``, from resampled counts of batch ``(D, ...)``;
            :func:`modeval.metrics.measure` is one.
        generator: draws the resamples, the same for the whole batch.
        draws: number of resamples D.
        level: share of the resamples between the ends.
        view: what ``function`` reads; the table of the other view is left empty.

    Returns:
        An interval ``(...)`` for each metric; None for one block, which says nothing of others.

    Raises:
        TraceError: a rule stands in so few blocks that resamples keep losing it.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 8.
    """
    blocks = counts.mass.shape[-3]
    if blocks < 2:  # noqa: PLR2004 - one block has no spread
        return None
    weight = block_weights(counts.samples, draws, generator)
    found = resample_blocks(counts, function, weight, view=view)
    return {name: percentile_interval(values, level=level) for name, values in found.items()}


def resample_blocks(
    counts: RoutingCounts,
    function: Callable[[RoutingCounts], Mapping[str, Tensor]],
    weight: Float64[Tensor, "draws blocks"],
    *,
    view: View = "weight",
) -> dict[str, Tensor]:
    """Return metrics by name, ``(D, ...)``, of resamples in which blocks stand ``weight`` times.

    What :func:`bootstrap_blocks` takes its percentiles of. Layers that cannot stand in one batch
    (other numbers of modules) are resampled alike by giving each the same weights, which
    :func:`block_weights` draws.
    """
    weight = weight.to(counts.mass.device)
    parts = _blocks_first(counts, view)

    def resampled(part: slice) -> Mapping[str, Tensor]:
        return function(_resampled(counts, parts, weight[part]))

    found = side_by_side(resampled, len(weight), counts.mass[..., 0, :, :])
    return {name: torch.cat([values[name] for values in found]) for name in found[0]}


def permutation_test(
    counts: RoutingCounts,
    function: Callable[[Tensor], Tensor] = mutual_information,
    *,
    generator: torch.Generator,
    permutations: int = 999,
    documents: Documents = "labelled",
    tail: Tail = "greater",
    prior: Prior = "empirical",
    view: View = "weight",
) -> PermutationTest:
    """Could routing that knows nothing of the rules have given this value?

    The labels of documents are permuted, never those of tokens: tokens of a document go the same
    way for reasons of their own. Permuted units are the (block, rule) cells of the counts.

    Args:
        counts: folded routing, batch ``(...)``.
        function: statistic of the joint distribution, ``(..., R, M) -> (...)``.
        generator: draws the permutations, the same for the whole batch.
        permutations: number n of permutations.
        documents: ``labelled`` when all of a document has one rule: cells are permuted among all
            blocks. ``mixed`` when rules change within a document: within each block.
        tail: ``greater`` when large values tell against chance.
        prior: weight of the rules in the joint. ``empirical`` keeps the test's size when rules
            are unequally frequent: chance information is then the same for any frequencies.
        view: routing weights, or each of K chosen modules as 1/K.

    Returns:
        The statistic, its one-sided p value (r+1)/(n+1) and its null distribution.

    Raises:
        TraceError: one block of one document each is too little to permute.

    Source: Phipson & Smyth 2010, Permutation p-values should never be zero.
    """
    observed = function(counts.joint(prior, view=view))
    label = permuted_labels(counts.samples, permutations, documents, generator)

    def statistic(table: Tensor, share: Tensor) -> Tensor:
        return function(table * (share if prior == "empirical" else 1 / share.shape[-2]))

    draws = relabel_cells(counts, statistic, label, view=view)
    return PermutationTest(
        observed=observed,
        p_value=p_value(observed, draws, tail=tail),
        null_mean=draws.mean(0),
        null_low=_quantile(draws, 0.025),
        null_high=_quantile(draws, 0.975),
        permutations=permutations,
    )


def relabel_cells(
    counts: RoutingCounts,
    function: Callable[[Tensor, Tensor], Tensor],
    label: Int64[Tensor, "draws cells"],
    *,
    view: View = "weight",
) -> Tensor:
    """Return a statistic, ``(D, ...)``, when each (block, rule) cell has another rule.

    What :func:`permutation_test` holds the observed value against. The statistic is a function of
    A, ``(D, ..., R, M)``, and of each rule's share of the samples, ``(D, ..., R, 1)``: weights of
    the rules differ between statistics, and A is what costs time.
    """
    table = counts.mass if view == "weight" else counts.selections
    cells = table.flatten(-3, -2).movedim(-2, 0)  # (B R, ..., M)
    samples = counts.samples.flatten(-2).movedim(-1, 0)  # (B R, ...)

    def relabelled(part: slice) -> Tensor:
        return function(*_relabelled(cells, samples, label[part], table.shape[-2]))

    return torch.cat(side_by_side(relabelled, len(label), table[..., 0, :, :]))


def p_value(
    observed: Float64[Tensor, "*batch"],
    null: Float64[Tensor, "draws *batch"],
    *,
    tail: Tail = "greater",
) -> Float64[Tensor, "*batch"]:
    """Return (r+1)/(n+1), r the number of the n null values at least as extreme.

    Values that differ by rounding alone count as equal.

    >>> null = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    >>> p_value(torch.tensor(0.25, dtype=torch.float64), null).item()
    0.5
    """
    if not bool(torch.isfinite(null).all() & torch.isfinite(observed).all()):
        raise TraceError(
            "A permutation gave a value that is not finite, so there is no p value. Score more "
            "samples, or leave out rules whose samples were not routed."
        )
    slack = 1e-12 + 1e-9 * observed.abs()
    extreme = null >= observed - slack if tail == "greater" else null <= observed + slack
    return (extreme.sum(0) + 1).double() / (len(null) + 1)


def effective_samples(counts: RoutingCounts) -> Float64[Tensor, "*batch"]:
    """How many independent samples would be as telling as these?

    ``N / max(1, D)``, D the design effect: how much more a module's share varies between blocks
    than it would if samples were independent, over all rules and modules. With one block D is
    unknown and N is returned.

    Source: Kish 1965, Survey Sampling, section 8.2.
    """
    total = counts.samples.sum((-2, -1))
    size = counts.samples.unsqueeze(-1)
    share = counts.selections / size.clamp(min=1)
    mean = counts.selections.sum(-3, keepdim=True) / size.sum(-3, keepdim=True).clamp(min=1)
    between = (size * (share - mean).square()).sum((-3, -2, -1))
    freedom = ((size > 0).sum(-3, keepdim=True) - 1).clamp(min=0)
    expected = (freedom * mean * (1 - mean).clamp(min=0)).sum((-3, -2, -1))
    effect = torch.where(expected > 0, between / torch.where(expected > 0, expected, 1.0), 1.0)
    return total / effect.clamp(min=1)


def few_samples(counts: RoutingCounts) -> Bool[Tensor, "*batch"]:
    """Are there fewer than 50 R M effective samples, so that chance looks like specialisation?"""
    rules, modules = counts.mass.shape[-2:]
    return effective_samples(counts) < SAMPLES_PER_CELL * rules * modules


# --- resampling ----------------------------------------------------------------------------------


def _quantile(draws: Tensor, share: float) -> Tensor:
    """Return a quantile over the first axis, of any size (torch.quantile has a limit)."""
    place = share * (len(draws) - 1)
    ordered = draws.sort(0).values
    low = int(place)
    high = min(low + 1, len(draws) - 1)
    return torch.lerp(ordered[low], ordered[high], place - low)


def side_by_side(function: Callable[[slice], Part], draws: int, table: Tensor) -> list[Part]:
    """Work on the draws in parts that fit the memory set aside for them, several at a time.

    On a CPU a thread for each part, which runs torch alone, takes half the time of all threads for
    each of many short operations, and a quarter where other programs want the processor too.
    """
    step = max(1, ELEMENTS // max(table.numel(), 1))
    parts = [slice(start, start + step) for start in range(0, draws, step)]
    threads = torch.get_num_threads()
    if table.device.type != "cpu" or min(threads, len(parts)) == 1:
        return [function(part) for part in parts]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, parts))
    finally:
        torch.set_num_threads(threads)


def _strata(groups: Tensor) -> list[Tensor]:
    """Return the members of each stratum; those that are alone form one together."""
    members = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
    alone = [group for group in members if len(group) == 1]
    return [group for group in members if len(group) > 1] + ([torch.cat(alone)] if alone else [])


def _multiplicity(index: Tensor, count: int) -> Tensor:
    """Turn drawn numbers ``(D, n)`` into how often each was drawn, ``(D, count)``."""
    weight = torch.zeros(len(index), count, dtype=torch.float64)
    return weight.scatter_add_(1, index, torch.ones(index.shape, dtype=torch.float64))


def block_weights(
    samples: Float64[Tensor, "*batch blocks rules"], draws: int, generator: torch.Generator
) -> Float64[Tensor, "draws blocks"]:
    """Draw how often each block stands in each resample, every rule being there.

    Raises:
        TraceError: a rule stands in so few blocks that resamples keep losing it.
    """
    blocks, rules = samples.shape[-2:]
    present = (samples > 0).reshape(-1, blocks, rules).movedim(1, 0).flatten(1)
    present = present.double().cpu()
    weight = torch.zeros(draws, blocks, dtype=torch.float64)
    lost = torch.ones(draws, dtype=torch.bool)
    for _ in range(REDRAWS):
        index = torch.randint(blocks, (int(lost.sum()), blocks), generator=generator)
        weight[lost] = _multiplicity(index, blocks)
        lost = (weight @ present == 0).any(-1)
        if not bool(lost.any()):
            return weight
    rarest = int(present.sum(0).argmin())
    raise TraceError(
        f"Rule {rarest % rules} stands in {int(present.sum(0).min())} of {blocks} blocks, so "
        "resamples of the blocks keep losing it. Score more documents of it, use more blocks, or "
        "leave the rule out."
    )


def _blocks_first(counts: RoutingCounts, view: View) -> dict[str, Tensor]:
    """Return what the view needs, with the blocks as first axis and in one piece."""
    table = "mass" if view == "weight" else "selections"
    return {
        table: getattr(counts, table).movedim(-3, 0).contiguous(),
        "samples": counts.samples.movedim(-2, 0).contiguous(),
        "entropy": counts.entropy.movedim(-2, 0).contiguous(),
        "selection_entropy": counts.selection_entropy.movedim(-2, 0).contiguous(),
    }


def _resampled(
    counts: RoutingCounts, parts: dict[str, Tensor], weight: Float64[Tensor, "draws blocks"]
) -> RoutingCounts:
    """Return the counts of each resample, batch ``(D, ...)``, in one block."""
    draws = len(weight)
    mixed = {
        name: (weight @ part.view(len(part), -1)).view(draws, *part.shape[1:])
        for name, part in parts.items()
    }
    one_block = {
        name: part.unsqueeze(-3 if name in ("mass", "selections") else -2)
        for name, part in mixed.items()
    }
    shape = (draws, *counts.mass.shape[:-3], 1, *counts.mass.shape[-2:])
    empty = counts.mass.new_zeros(()).expand(shape)
    return RoutingCounts(
        **{
            "mass": empty,
            "selections": empty,
            "coactivation": counts.coactivation.expand(draws, *counts.coactivation.shape),
            **one_block,
        }
    )


def permuted_labels(
    samples: Float64[Tensor, "*batch blocks rules"],
    permutations: int,
    documents: Documents,
    generator: torch.Generator,
) -> Int64[Tensor, "draws cells"]:
    """Draw a rule for each (block, rule) cell; empty cells keep theirs.

    Raises:
        TraceError: one block of one document each is too little to permute.
    """
    blocks, rules = samples.shape[-2:]
    label = torch.arange(rules).repeat(blocks)
    draws = label.repeat(permutations, 1)
    filled = (samples > 0).reshape(-1, blocks * rules).any(0).cpu()
    groups = filled.view(blocks, rules) if documents == "mixed" else filled.view(1, -1)
    if int(groups.sum(-1).max()) <= rules and len(groups) == 1:
        raise TraceError(
            f"{int(filled.sum())} documents of {rules} rules are too few to permute their labels. "
            "Fold the trace with blocks=32 or more, and a block for each document."
        )
    for number, group in enumerate(groups):
        cells = number * group.numel() + group.nonzero()[:, 0]
        keys = torch.rand(permutations, len(cells), generator=generator)
        draws[:, cells] = label[cells][keys.argsort(-1)]
    return draws


def _relabelled(
    cells: Float64[Tensor, "cells *batch modules"],
    samples: Float64[Tensor, "cells *batch"],
    label: Int64[Tensor, "draws cells"],
    rules: int,
) -> tuple[Tensor, Tensor]:
    """Return A and the shares of the rules when each cell has the rule that was drawn for it."""
    device = cells.device
    member = (label.to(device)[:, None] == torch.arange(rules, device=device)[:, None]).double()

    def gather(part: Tensor) -> Tensor:
        mixed = member.flatten(0, 1) @ part.reshape(len(part), -1)
        return mixed.reshape(len(label), rules, *part.shape[1:]).movedim(1, part.dim())

    table = gather(cells).movedim(-1, -2).contiguous()
    weight = gather(samples)
    share = weight / weight.sum(-1, keepdim=True)
    return table / table.sum(-1, keepdim=True), share.unsqueeze(-1)
