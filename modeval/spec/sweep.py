"""Sweeps: grids of runs, as a file of lists and products.

A grid is a spec file in which any setting may be a list of values, those of a gating, a computation
or a phase too; the sweep is their product. Beside the sections ``[data]``, ``[model]`` and
``[train]`` it has

    name       of the sweep
    models     names of models, any of ``modeval systems``, or ``path/to/file.py:ClassName``
    seeds      how many task seeds, and model seeds of each: ``{ tasks = 5, models = 5 }``
    part       ``[[part]]`` tables: grids of their own, laid over the rest; the sweep is their union
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeval.errors import SpecError, nearest
from modeval.pace import tell
from modeval.spec.checks import hints_of
from modeval.spec.data import DataSpec
from modeval.spec.model import ModelSpec, name_of
from modeval.spec.own import is_code, with_own
from modeval.spec.plain import choices_of, from_dict
from modeval.spec.run import RunSpec
from modeval.spec.systems import BY_NAME, SYSTEMS, contradictions, named
from modeval.spec.train import TrainSpec, seed_grid
from modeval.text import brief

KINDS: dict[str, type] = {"data": DataSpec, "model": ModelSpec, "train": TrainSpec}
OF_MODULES = ("modules", "gating", "computation", "aggregation")
"""Settings of models with modules, which Monolithic has not, whatever the others have."""
PAPER = ("monolithic", "modular", "modular-op", "gt-modular")
MOST = 10_000
"""Cohorts of one sweep."""

_PAPER: dict[str, Any] = {
    "models": list(PAPER),
    "seeds": {"tasks": 5, "models": 5},
    "data": {"rules": [2, 4, 8, 16, 32], "objective": ["regression", "classification"]},
    "train": {"batch": 256, "learning_rate": 1e-4, "validate_every": 5_000},
}
_CAPACITIES = ((32, 128), (64, 256), (128, 512), (256, 1024), (512, 2048))

NAMED: dict[str, dict[str, Any]] = {
    "demo": {
        "name": "demo",
        "models": list(PAPER),
        "seeds": {"tasks": 2, "models": 2},
        "data": {"rules": [2, 4, 8]},
        "train": {"steps": 300, "learning_rate": 1e-3, "validate_every": 50},
    },
    "paper-mlp": {
        "name": "paper-mlp",
        **_PAPER,
        "model": {"encoder": 32, "width": 128},
        "train": {**_PAPER["train"], "steps": 100_000},
    },
    "paper": {
        "name": "paper",
        **_PAPER,
        "part": [
            {
                "data": data,
                "model": {"encoder": encoder, "width": width},
                "train": {"steps": steps},
            }
            for encoder, width in _CAPACITIES
            for data, steps in (
                ({"task": "binary"}, 100_000),
                ({"task": "sets", "search": ["nearest", "product"]}, 500_000),
                ({"task": "series"}, 500_000),
            )
        ],
    },
    "survey": {
        "name": "survey",
        "seeds": {"tasks": 3, "models": 2},
        "data": {"rules": 4},
        "train": {"steps": 10_000, "learning_rate": 1e-3},
        "part": [
            *(
                {
                    "models": [
                        each.name for each in SYSTEMS if task in each.tasks and not each.data
                    ],
                    "data": {"task": task},
                }
                for task in ("binary", "sets", "series")
            ),
            *(
                {"models": [each.name], "data": {"task": each.tasks[0], **each.data}}
                for each in SYSTEMS
                if each.data
            ),
        ],
    },
}
"""Grids by name: a small one, those of arXiv 2206.02713 at full length, and every system that has a
name on every task that it is defined for."""


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """A grid, unfolded.

    Attributes:
        name: of the sweep.
        runs: a run for each cohort, each once, in the order of the file.
    """

    name: str
    runs: tuple[RunSpec, ...]


def unfold(grid: Mapping[str, Any]) -> SweepSpec:
    """Turn a grid into its runs.

    Raises:
        SpecError: an unknown setting, a value of the wrong type, a model that cannot be built for
            one of the tasks, or no run at all.

    >>> grid = {"models": ["modular", "gt-modular"], "data": {"rules": [2, 4]}}
    >>> [(run.name, run.data.rules) for run in unfold(grid).runs]
    [('modular', 2), ('gt-modular', 2), ('modular', 4), ('gt-modular', 4)]
    """
    _check_names(grid, "", ("name", "models", "seeds", "part", *KINDS))
    parts = grid.get("part", [{}])
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise SpecError("part: expected tables, each headed [[part]].")
    runs: dict[str, RunSpec] = {}
    for part in parts:
        _check_names(part, "part: ", ("models", "seeds", *KINDS))
        for run in _product(_laid_over(grid, part)):
            runs.setdefault(run.digest, run)
            tell("unfolding the grid, cohorts", len(runs))
    if not runs:
        raise SpecError("The grid has no run: a list in it is empty. Give at least one value.")
    return SweepSpec(str(grid.get("name", "sweep")), tuple(runs.values()))


def _check_names(table: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
    for name in table:
        if name not in known:
            raise SpecError(
                f"{where}{name}: a grid has no such entry{nearest(name, known)}. It may have "
                f"{', '.join(known)}."
            )


def _laid_over(grid: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    laid = {**grid, **part}
    for section in KINDS:
        laid[section] = {**_table(grid, section), **_table(part, section)}
    return laid


def _table(grid: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    table = grid.get(section, {})
    if not isinstance(table, Mapping):
        raise SpecError(f"{section} = {brief(table)}: expected a table, headed [{section}].")
    return table


def _product(grid: Mapping[str, Any]) -> Iterator[RunSpec]:
    """Return the runs of one product; models vary fastest, so that rivals stand together."""
    scored = "scorer" in grid["model"]  # then the settings say all of the model
    names = grid.get("models", [""] if scored else ["modular"])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError(f'models = {brief(names)}: expected names, as ["modular", "gt-modular"].')
    for name in names:
        if name not in BY_NAME and not is_code(name) and "models" in grid:
            raise SpecError(
                f"models: {brief(name)} is no model{nearest(str(name), list(BY_NAME))}. "
                f"Expected some of {', '.join(BY_NAME)}, or path/to/file.py:ClassName for your own."
            )
    seeds = _seeds(grid.get("seeds", {}))
    axes = [
        [(section, key, value) for value in _values(kind, key, setting)]
        for section, kind in KINDS.items()
        for key, setting in grid[section].items()
    ]
    if math.prod(map(len, axes)) * len(names) > MOST:
        raise SpecError(f"The grid has more than {MOST:,} cohorts. Cut it in several.")
    for point in itertools.product(*axes):
        values: dict[str, dict[str, Any]] = {section: {} for section in KINDS}
        for section, key, value in point:
            values[section][key] = value
        values["train"].setdefault("seeds", seeds)
        for name in names:
            yield _run(name, values)


def _run(name: str, values: Mapping[str, Mapping[str, Any]]) -> RunSpec:
    settings = with_own(values["model"])
    if is_code(name):
        model = {**settings, "own": {"code": name}}
        own = name_of(name.rpartition(":")[2])
        return from_dict(RunSpec, {**values, "name": own, "model": model})
    if not name:
        return from_dict(RunSpec, {**values, "name": _called(settings), "model": settings})
    if name == "monolithic":
        settings = {key: value for key, value in settings.items() if key not in OF_MODULES}
    for axis, (own, said) in contradictions(name, settings).items():
        raise SpecError(
            f"models: {name} has {axis} {own}, and the grid says {axis} {said}. Leave {axis} out "
            "of it, or give the two in [[part]] tables of their own."
        )
    model, train = named(name, settings, values["train"])
    if "modules" in settings:
        model["modules"] = settings["modules"]
    return from_dict(RunSpec, {**values, "name": name, "model": model, "train": train})


def _called(settings: Mapping[str, Any]) -> str:
    """Return what to call a model of which no name but its scorer is given."""
    if settings["scorer"] == "own" and "own_scorer" in settings:
        return name_of(str(settings["own_scorer"]["code"]).rpartition(":")[2])
    known = (name for name in PAPER if BY_NAME[name].choices["scorer"] == settings["scorer"])
    return next(known, "modular")


def _seeds(value: Any) -> list[list[int]]:
    counts = {"tasks": 1, "models": 1}
    if not isinstance(value, Mapping) or not all(
        isinstance(count, int) and not isinstance(count, bool) and count > 0
        for count in value.values()
    ):
        raise SpecError(f"seeds = {brief(value)}: expected {{ tasks = 5, models = 5 }}.")
    _check_names(value, "seeds: ", tuple(counts))
    counts |= value
    return [list(pair) for pair in seed_grid(counts["tasks"], counts["models"])]


def _values(kind: type, key: str, setting: Any) -> list[Any]:
    """Return the values of a setting: a list is an axis where it is deeper than the setting."""
    return _expanded(hints_of(kind).get(key), setting)


def _expanded(hint: Any, setting: Any) -> list[Any]:
    """Return all values that a setting stands for, lists within tables multiplied out.

    Args:
        hint: the type of the setting; nothing for one that there is not, which is refused later.
        setting: a value, a list of values, or a table with such in it.
    """
    if isinstance(setting, list) and _depth(setting) > _hinted_depth(hint):
        return [value for item in setting for value in _expanded(hint, item)]
    if isinstance(setting, list) and typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        return [list(each) for each in itertools.product(*(_expanded(element, i) for i in setting))]
    if isinstance(setting, Mapping):
        return _expanded_table(hint, setting)
    return [setting]


def _expanded_table(hint: Any, table: Mapping[str, Any]) -> list[Any]:
    """Return the tables that one stands for; what its kind is decides which settings it has."""
    found = []
    choices = choices_of(hint)
    kinds = table.get("kind", "")
    for name in kinds if isinstance(kinds, list) else [kinds]:
        chosen = choices.get(name, next(iter(choices.values()), hint)) if choices else hint
        hints = hints_of(chosen) if dataclasses.is_dataclass(chosen) else {}
        told = {**table, "kind": name} if "kind" in table else table
        axes = [_expanded(hints.get(key), value) for key, value in told.items()]
        found += [dict(zip(told, point, strict=True)) for point in itertools.product(*axes)]
    return found


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _hinted_depth(hint: Any) -> int:
    if typing.get_origin(hint) is not tuple:
        return 0
    return 1 + _hinted_depth(typing.get_args(hint)[0])
