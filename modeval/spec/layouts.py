"""How rules are made of skills: which skills each uses, and what each takes from the others.

Skills are operations on two numbers. A layout says for each place of a rule what its skill takes on
either side: one of the two inputs, or what the skill at another place gave. The result of the last
place is that of the rule.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeval.spec.data import DataSpec

FIRST, SECOND = -1, -2
"""The two inputs, where a place takes one of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place of a layout.

    Attributes:
        skill: which of a rule's skills stands here, counted from 0.
        left: what it takes for its first number: an earlier place (its position in the layout),
            :data:`FIRST` or :data:`SECOND`.
        right: likewise for its second number.
    """

    skill: int
    left: int
    right: int


def layout(spec: "DataSpec") -> tuple[Place, ...]:
    """Return the places of a rule in the order in which they are computed.

    ``sequential``: each takes the result of the one before it, and the second number again.
    ``tree``: skill 0 is the root of a balanced binary tree, skills 2i + 1 and 2i + 2 stand left and
    right below skill i, and the two numbers are its leaves. ``additive``: each takes both numbers.

    >>> from modeval.spec import DataSpec
    >>> chain = DataSpec(rules=2, skills=2, composition="sequential")
    >>> [(each.left, each.right) for each in layout(chain)]
    [(-1, -2), (0, -2)]
    >>> tree = DataSpec(skills=2, skills_per_rule=3, composition="tree")
    >>> [(each.skill, each.left, each.right) for each in layout(tree)]
    [(2, -1, -2), (1, -1, -2), (0, 1, 0)]
    """
    count = spec.skills_per_rule
    if spec.composition == "additive":
        return tuple(Place(number, FIRST, SECOND) for number in range(count))
    if spec.composition == "sequential":
        return tuple(
            Place(number, number - 1 if number else FIRST, SECOND) for number in range(count)
        )

    def below(skill: int, leaf: int) -> int:
        return count - 1 - skill if skill < count else leaf

    return tuple(
        Place(skill, below(2 * skill + 1, FIRST), below(2 * skill + 2, SECOND))
        for skill in reversed(range(count))
    )


@functools.lru_cache(maxsize=64)
def skills_of_rules(spec: "DataSpec") -> tuple[tuple[int, ...], ...]:
    """Return the skills of each rule, in the order of their places.

    The same for every task: rules take turns through all combinations (where the order matters, all
    arrangements; in trees, where a skill may stand more than once, all fillings), shuffled once so
    that few rules use all skills about equally.

    >>> from modeval.spec import DataSpec
    >>> skills_of_rules(DataSpec(skills=3, rules=3))
    ((1, 2), (0, 2), (0, 1))
    """
    import numpy as np  # noqa: PLC0415 - settings are read without it

    every = list(_ways(spec.composition, spec.skills, spec.skills_per_rule))
    order = np.random.RandomState(0).permutation(len(every))
    return tuple(every[place] for place in order[: spec.rules])


def _ways(composition: str, skills: int, each: int) -> "itertools.chain[tuple[int, ...]]":
    if composition == "additive":
        return itertools.chain(itertools.combinations(range(skills), each))
    if composition == "sequential":
        return itertools.chain(itertools.permutations(range(skills), each))
    return itertools.chain(itertools.product(range(skills), repeat=each))


def told_rows(spec: "DataSpec") -> tuple[tuple[float, ...], ...]:
    """Return what a model that is told skills sees of each rule, R rows.

    Where the order of skills does not matter, 1 for each skill of the rule; else a one-hot row for
    each place, one after another.

    >>> from modeval.spec import DataSpec
    >>> told_rows(DataSpec(skills=3, rules=1))
    ((0.0, 1.0, 1.0),)
    >>> told_rows(DataSpec(skills=2, rules=2, composition="sequential"))
    ((0.0, 1.0, 1.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    """
    ordered = spec.composition != "additive"
    width = spec.skills * (spec.skills_per_rule if ordered else 1)
    rows = []
    for used in skills_of_rules(spec):
        row = [0.0] * width
        for place, skill in enumerate(used):
            row[place * spec.skills * ordered + skill] = 1.0
        rows.append(tuple(row))
    return tuple(rows)
