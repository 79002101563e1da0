"""From losses of documents to what they show: intervals, p values, safe shares, foresight."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

from modeval.ablate.result import Contribution
from modeval.ablate.sets import ALONE, RANDOM, ModuleSet, removed_alone
from modeval.score.ablation import Change, Foresight, Kept, RandomSets, Safe

Each = NDArray[np.float64]
LEVEL = 0.95
PERMUTATIONS = 999
SLACK = 1e-9
"""Losses that differ by less are equal: sums in another order."""


def change_of(total: Each, tokens: Each) -> Change:
    """Return a loss per token with its interval over documents.

    ``value = sum_d total_d / sum_d n_d``, a ratio of sums; Student's t of the residuals
    ``total_d - value n_d`` (Cochran 1977, Sampling Techniques, 2.11). For a change, documents are
    their own partners: what differs between documents and not between sets is no error.

    Args:
        total: ``(D,)`` loss of each document, or what was added to it.
        tokens: ``(D,)`` its predicted tokens.

    >>> change_of(np.array([1.0, 3.0]), np.array([10.0, 10.0])).value
    0.2
    """
    count, size = len(total), float(tokens.sum())
    value = float(total.sum()) / size
    if count < 2:  # noqa: PLR2004 - one document has no spread
        return Change(value, None, None)
    residual = total - value * tokens
    error = math.sqrt(float((residual**2).sum()) * count / (count - 1)) / size
    reach = error * float(stdtrit(count - 1, (1 + LEVEL) / 2))
    return Change(value, value - reach, value + reach)


def at_most(observed: float, null: Sequence[float]) -> float:
    """Return the probability that a random set does as well: ``(r + 1) / (n + 1)``.

    r is the number of random sets whose loss grows no more. Where the set was drawn like them, each
    rank is as likely as another, so that p is uniform on ``1/(n+1), ..., 1``, and larger where sets
    are equal.

    >>> at_most(0.1, [0.2, 0.3, 0.05])
    0.5
    """
    fewer = sum(value <= observed + SLACK for value in null)
    return (fewer + 1) / (len(null) + 1)


class Measured:
    """Losses of all sets, document by document.

    Attributes:
        base: ``(D,)`` loss of each document of the whole model.
        tokens: ``(D,)`` its predicted tokens.
        label: ``(D,)`` number of its label.
        labels: number of labels.
    """

    def __init__(self, base: Each, tokens: Each, label: NDArray[np.int64], labels: int) -> None:
        seen = tokens > 0
        self.base, self.tokens, self.label = base[seen], tokens[seen], label[seen]
        self.labels, self._seen = labels, seen

    def change(self, losses: Each) -> tuple[Change, tuple[Change, ...]]:
        """Return how much a set adds to the loss, over all documents and for each label."""
        added = losses[self._seen] - self.base
        return self._parts(added)

    def whole(self) -> tuple[Change, tuple[Change, ...]]:
        """Return the loss of the whole model, over all documents and for each label."""
        return self._parts(self.base)

    def _parts(self, total: Each) -> tuple[Change, tuple[Change, ...]]:
        by_label = tuple(
            change_of(total[self.label == number], self.tokens[self.label == number])
            for number in range(self.labels)
        )
        return change_of(total, self.tokens), by_label

    def documents(self) -> tuple[int, ...]:
        """Return the number of documents of each label."""
        return tuple(int((self.label == number).sum()) for number in range(self.labels))

    def tokens_of(self) -> tuple[int, ...]:
        """Return the number of predicted tokens of each label."""
        return tuple(int(self.tokens[self.label == number].sum()) for number in range(self.labels))


def random_of(
    sets: Sequence[ModuleSet], changes: Sequence[tuple[Change, tuple[Change, ...]]]
) -> tuple[RandomSets, ...]:
    """Return what random sets do, size by size."""
    found = []
    for share in dict.fromkeys(one.share for one in sets if one.why == RANDOM):
        mine = [
            (one, change)
            for one, change in zip(sets, changes, strict=True)
            if one.why == RANDOM and one.share == share
        ]
        found.append(
            RandomSets(
                share=share,
                kept=tuple(len(layer) for layer in mine[0][0].kept),
                changes=tuple(overall.value for _, (overall, _) in mine),
                by_label=tuple(
                    tuple(part.value for part in each)
                    for each in zip(*(by_label for _, (_, by_label) in mine), strict=True)
                ),
            )
        )
    return tuple(found)


def kept_by_scores(
    sets: Sequence[ModuleSet],
    changes: Sequence[tuple[Change, tuple[Change, ...]]],
    random: Sequence[RandomSets],
) -> tuple[Kept, ...]:
    """Return what the sets of the scores do, beside random ones of the same size."""
    null = {each.share: each for each in random}
    return tuple(
        Kept(
            score=one.why,
            share=one.share,
            kept=one.kept,
            change=overall,
            by_label=by_label,
            p=at_most(overall.value, null[one.share].changes),
            p_by_label=tuple(
                at_most(mine.value, its)
                for mine, its in zip(by_label, null[one.share].by_label, strict=True)
            ),
        )
        for one, (overall, by_label) in zip(sets, changes, strict=True)
        if one.why not in (RANDOM, ALONE)
    )


def safe_shares(kept: Sequence[Kept], within: float) -> tuple[Safe, ...]:
    """Return for each score the smallest share that is enough, and all larger ones as well."""
    found = []
    for score in dict.fromkeys(each.score for each in kept):
        mine = sorted((k for k in kept if k.score == score), key=lambda k: -k.share)
        measured = _smallest([(k.share, [c.value for c in k.by_label]) for k in mine], within)
        sure = _smallest([(k.share, [_upper(c) for c in k.by_label]) for k in mine], within)
        found.append(Safe(score=score, measured=measured, sure=sure))
    return tuple(found)


def _smallest(levels: Sequence[tuple[float, Sequence[float]]], within: float) -> float:
    smallest = 1.0
    for share, changes in levels:
        if max(changes) > within:
            break
        smallest = share
    return smallest


def _upper(change: Change) -> float:
    return math.inf if change.high is None else change.high


# --- foresight ------------------------------------------------------------------------------------


def foresight(
    sets: Sequence[ModuleSet],
    changes: Sequence[tuple[Change, tuple[Change, ...]]],
    found: Sequence[Contribution],
    names: Sequence[str],
    *,
    seed: int,
) -> tuple[Foresight, ...]:
    """Tell whether static scores foresaw which removals cost how much.

    Over random sets of one size: Spearman's correlation of the loss with the sum of the scores that
    were removed, each layer's scores divided by their sum; its mean over sizes. Over single
    modules: the same of each module's score with what its removal costs. Losses are permuted within
    a size for p.
    """
    results = []
    for name in names:
        shares = [_shares(layer.score(name)) for layer in found]
        for what, groups in (
            ("random sets", _of_random(sets, changes, shares)),
            ("single modules", _of_single(sets, changes, shares)),
        ):
            if groups:
                value, p = _rank_correlation(groups, np.random.default_rng(seed))
                results.append(Foresight(score=name, of=what, correlation=value, p=p))
    return tuple(results)


def _shares(scores: Each | None) -> Each:
    if scores is None:
        return np.zeros(0)
    shares: Each = scores / max(float(scores.sum()), 1e-300)
    return shares


def _of_random(
    sets: Sequence[ModuleSet],
    changes: Sequence[tuple[Change, tuple[Change, ...]]],
    shares: Sequence[Each],
) -> list[tuple[Each, Each]]:
    groups: dict[float, list[tuple[float, float]]] = {}
    for one, (overall, _) in zip(sets, changes, strict=True):
        if one.why == RANDOM:
            kept = sum(
                float(layer[list(modules)].sum())
                for layer, modules in zip(shares, one.kept, strict=True)
            )
            groups.setdefault(one.share, []).append((len(shares) - kept, overall.value))
    return [(np.array(each)[:, 0], np.array(each)[:, 1]) for each in groups.values()]


def _of_single(
    sets: Sequence[ModuleSet],
    changes: Sequence[tuple[Change, tuple[Change, ...]]],
    shares: Sequence[Each],
) -> list[tuple[Each, Each]]:
    sizes = [len(layer) for layer in shares]
    rows = [
        (float(shares[layer][module]), overall.value)
        for one, (overall, _) in zip(sets, changes, strict=True)
        if one.why == ALONE
        for layer, module in [removed_alone(one, sizes)]
    ]
    return [(np.array(rows)[:, 0], np.array(rows)[:, 1])] if rows else []


def _rank_correlation(
    groups: Sequence[tuple[Each, Each]], draw: np.random.Generator
) -> tuple[float, float]:
    """Return the mean of Spearman's correlation over groups, and its p against permutations."""
    ranks = [(_centred(one), _centred(two)) for one, two in groups]
    observed = float(np.mean([one @ two for one, two in ranks]))
    null = np.zeros(PERMUTATIONS)
    for one, two in ranks:
        shuffled = draw.permuted(np.tile(two, (PERMUTATIONS, 1)), axis=1)
        null += shuffled @ one / len(ranks)
    return observed, (int((null >= observed - SLACK).sum()) + 1) / (PERMUTATIONS + 1)


def _centred(values: Each) -> Each:
    """Return ranks with the mean 0 and the length 1; zeros where all are equal."""
    size = float(np.abs(values).max(initial=0)) or 1.0
    ranks = rankdata(np.round(values / size, 9))  # sums in another order are equal
    ranks = ranks - ranks.mean()
    length = float(np.linalg.norm(ranks))
    unit: Each = ranks / length if length > 0 else np.zeros_like(ranks)
    return unit
