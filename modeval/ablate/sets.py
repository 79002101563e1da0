"""Which sets of modules are tried: those that scores keep, those that chance keeps, single ones."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeval.ablate.result import SCORES, Contribution, best_first, kept_of

RANDOM = "random"
ALONE = "alone"
LEAST_RANDOM = 20
"""Random sets below which p could not fall to 1/21."""


@dataclass(frozen=True, slots=True)
class ModuleSet:
    """Modules that are kept, and why these.

    Attributes:
        why: key of the scores, ``random``, or ``alone`` for all but one module.
        share: share of the modules that is kept; 1 for all but one.
        kept: modules kept in each layer, best first where a score says so.
    """

    why: str
    share: float
    kept: tuple[tuple[int, ...], ...]

    def key(self, removal: str) -> str:
        """Return what the measured losses of this set are found by: its modules, not its reason."""
        plain = json.dumps([removal, [sorted(layer) for layer in self.kept]])
        return hashlib.sha256(plain.encode()).hexdigest()[:24]


def scores_known(found: Sequence[Contribution], asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the scores that every layer has, of those that were asked for."""
    names = [name for name in SCORES if not asked or name in asked]
    return tuple(n for n in names if all(layer.score(n) is not None for layer in found))


def best_of(scores: NDArray[np.float64], number: int) -> tuple[int, ...]:
    """Return the modules with the largest scores, best first; of equal ones the lower number.

    >>> best_of(np.array([1.0, 3.0, 2.0, 3.0]), 3)
    (1, 3, 2)
    """
    return tuple(best_first(scores.tolist())[:number])


def plan_sets(
    found: Sequence[Contribution],
    *,
    shares: Sequence[float],
    by: Sequence[str],
    random: int,
    alone: bool,
    seed: int,
) -> tuple[ModuleSet, ...]:
    """Return the sets to try.

    Args:
        found: static scores of each layer.
        shares: shares of the modules to keep.
        by: scores to keep them by.
        random: number of random sets of each size; the same number in each layer as scores keep.
        alone: whether each module is removed alone, too.
        seed: draws the random sets.
    """
    modules = [layer.routed.shape[1] for layer in found]
    sets: list[ModuleSet] = []
    for share in sorted(shares, reverse=True):
        sizes = [kept_of(share, number) for number in modules]
        for name in by:
            tables = [layer.score(name) for layer in found]
            kept = [
                best_of(table, size)
                for table, size in zip(tables, sizes, strict=True)
                if table is not None
            ]
            sets.append(ModuleSet(name, share, tuple(kept)))
        sets += random_sets(modules, sizes, share, random, seed)
    if alone:
        sets += single_sets(modules)
    return tuple(sets)


def random_sets(
    modules: Sequence[int], sizes: Sequence[int], share: float, number: int, seed: int
) -> list[ModuleSet]:
    """Return random sets: every subset of the right size in a layer is as likely as another."""
    draw = np.random.default_rng([seed, round(share * 1e6)])
    return [
        ModuleSet(
            RANDOM,
            share,
            tuple(
                tuple(sorted(draw.permutation(all_of)[:size].tolist()))
                for all_of, size in zip(modules, sizes, strict=True)
            ),
        )
        for _ in range(number)
    ]


def single_sets(modules: Sequence[int]) -> list[ModuleSet]:
    """Return for each module of each layer the set of all others."""
    whole = [tuple(range(number)) for number in modules]
    return [
        ModuleSet(
            ALONE,
            1.0,
            tuple(
                tuple(m for m in all_of if (place, m) != (layer, module))
                for place, all_of in enumerate(whole)
            ),
        )
        for layer, number in enumerate(modules)
        for module in range(number)
    ]


def removed_alone(one: ModuleSet, modules: Sequence[int]) -> tuple[int, int]:
    """Return the layer and the module that a set of all others leaves out."""
    for layer, (kept, number) in enumerate(zip(one.kept, modules, strict=True)):
        if len(kept) < number:
            return layer, next(m for m in range(number) if m not in kept)
    raise ValueError(one)
