"""Which two choices of the model space never go together, and why: ``modeval systems --invalid``.

Nothing is listed by hand: each pair of choices on two axes is asked for with usual choices on the
others, then with those that most of the special ones need. What is refused every time is a pair
that cannot be, and the reason is that of the refusal itself.
"""

import functools
import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeval.errors import SpecError
from modeval.spec.computing.computations import Computation, Full, Prompt
from modeval.spec.computing.sharing import Head, Prefix
from modeval.spec.data import DataSpec, Task
from modeval.spec.gatings import Gating
from modeval.spec.model import Aggregation, Level, ModelSpec, Scorer, check_pair
from modeval.spec.own import OwnGating

Point = Mapping[str, Any]
"""A choice on some axes."""

AXES: dict[str, tuple[Any, ...]] = {
    "task": typing.get_args(Task),
    "scorer": tuple(name for name in typing.get_args(Scorer) if name != "own"),
    "gating": tuple(kind() for kind in typing.get_args(Gating) if kind is not OwnGating),
    "computation": tuple(kind() for kind in typing.get_args(Computation)),
    "aggregation": typing.get_args(Aggregation),
    "level": typing.get_args(Level),
}
"""All choices of each axis, with their usual settings; what users write themselves is none."""

COMPLETED: dict[str, tuple[Any, ...]] = {
    "layers": (1, 2),
    "computation": (Full(), Prompt(), Prefix(), Head()),
    "scorer": ("both", "table", "oracle", "stitch", "module"),
    "task": AXES["task"],
}
"""What a pair is tried with on other axes, the usual first."""

SKILLED = {"skills": 4, "composition": "sequential", "told": "skills"}
"""Rules that functions can be composed for."""


@dataclass(frozen=True, slots=True)
class Impossible:
    """Two choices that never go together.

    Attributes:
        first: axis and choice.
        second: axis and choice.
        reason: what says who asks for both.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """What one choice never goes with, for one reason.

    Attributes:
        choice: axis and choice.
        axis: of the others.
        others: choices on it.
        reason: for the first of them.
    """

    choice: tuple[str, str]
    axis: str
    others: tuple[str, ...]
    reason: str


@functools.cache
def impossible() -> tuple[Impossible, ...]:
    """Return all pairs of choices that never go together.

    >>> found = impossible()
    >>> [each.first[1] for each in found if each.second == ("computation", "prefix")][:2]
    ['binary', 'series']
    """
    found = []
    for one, other in itertools.combinations(AXES, 2):
        for first, second in itertools.product(AXES[one], AXES[other]):
            tried = tuple(_refusals({one: first, other: second}))
            if tried[-1][1] is None:
                continue
            names = _name(first), _name(second)
            found.append(Impossible((one, names[0]), (other, names[1]), _plainest(tried, names)))
    return tuple(found)


def grouped(pairs: Sequence[Impossible]) -> tuple[Group, ...]:
    """Return the same with what is refused for one reason side by side."""
    sides = [
        side
        for pair in pairs
        for side in ((pair.first, pair.second, pair), (pair.second, pair.first, pair))
    ]
    together: dict[tuple[tuple[str, str], str, str], list[Impossible]] = {}
    for own, (axis, name), pair in sides:
        key = (own, axis, pair.reason.replace(f'"{name}"', "").replace(f" {name} ", ""))
        together.setdefault(key, []).append(pair)
    done: set[int] = set()
    groups = []
    for (own, axis, _), held in sorted(together.items(), key=lambda item: -len(item[1])):
        new = [pair for pair in held if id(pair) not in done]
        if len(new) < len(held) and len(new) < 2:  # noqa: PLR2004 - stands with another group
            continue
        done |= {id(pair) for pair in new}
        names = tuple(dict((pair.first, pair.second))[axis] for pair in new)
        groups.append(Group(own, axis, names, new[0].reason))
    rest = [pair for pair in pairs if id(pair) not in done]
    groups += [Group(each.first, each.second[0], (each.second[1],), each.reason) for each in rest]
    return tuple(sorted(groups, key=lambda group: [*AXES].index(group.choice[0])))


def refusal(point: Point) -> str | None:
    """Return why a point of the space cannot be built; nothing where it can.

    >>> refusal({"task": "sets", "scorer": "rule"}) is None
    True
    """
    choices = {key: value for key, value in point.items() if key != "task"}
    data: dict[str, Any] = {"task": point.get("task", "binary"), "rules": 4}
    if choices.get("scorer") == "none":
        choices.setdefault("modules", 1)
    if choices.get("scorer") == "map":
        choices["map"] = ((0,), (1,), (2,), (0, 3))
    if choices.get("aggregation") == "functions" and data["task"] == "binary":
        data |= SKILLED
    try:
        check_pair(DataSpec(**data), ModelSpec(**choices))
    except SpecError as error:
        return str(error)
    return None


def _refusals(pair: Point) -> Iterator[tuple[Point, str | None]]:
    """Yield why a pair is refused with each completion, up to the first where it is not."""
    free = {axis: values for axis, values in COMPLETED.items() if axis not in pair}
    if "aggregation" not in pair:  # it alone takes special modules
        free.pop("computation", None)
    for values in itertools.product(*free.values()):
        completion = dict(zip(free, values, strict=True))
        why = refusal({**completion, **pair})
        yield completion, why
        if why is None:
            return


def _plainest(tried: Sequence[tuple[Point, str | None]], names: tuple[str, str]) -> str:
    """Return the reason that speaks most of the pair, and least of what it was tried with."""

    def told(each: tuple[Point, str | None]) -> int:
        completion, why = each
        others = [value for value in map(_name, completion.values()) if value not in names]
        said = [part for value in others for part in (f'"{value}"', f"= {value}")]
        text = why or ""
        return 2 * sum(f'"{name}"' in text for name in names) - sum(part in text for part in said)

    return str(max(reversed(tried), key=told)[1])


def _name(choice: Any) -> str:
    return str(getattr(choice, "kind", choice))
