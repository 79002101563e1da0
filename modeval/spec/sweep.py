"""Sweeps: grids of runs, as a file of lists and products.

A grid is a spec file in which any setting may be a list of values; the sweep is their product.
Beside the sections ``[data]``, ``[model]`` and ``[train]`` it has

    name       of the sweep
    models     names of models, as ``modeval train --model`` takes them
    seeds      how many task seeds, and model seeds of each: ``{ tasks = 5, models = 5 }``
    part       ``[[part]]`` tables: grids of their own, laid over the rest; the sweep is their union
"""

import itertools
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeval.errors import SpecError, nearest
from modeval.spec.data import DataSpec
from modeval.spec.model import ModelSpec
from modeval.spec.plain import from_dict
from modeval.spec.run import RunSpec
from modeval.spec.systems import BY_NAME, named
from modeval.spec.train import TrainSpec, seed_grid

KINDS: dict[str, type] = {"data": DataSpec, "model": ModelSpec, "train": TrainSpec}
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
}
"""Grids by name: a small one, and those of arXiv 2206.02713 at full length."""


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
        raise SpecError(f"{section} = {table!r}: expected a table, headed [{section}].")
    return table


def _product(grid: Mapping[str, Any]) -> Iterator[RunSpec]:
    """Return the runs of one product; models vary fastest, so that rivals stand together."""
    names = grid.get("models", ["modular"])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError(f'models = {names!r}: expected names, as ["modular", "gt-modular"].')
    for name in names:
        if name not in BY_NAME:
            raise SpecError(
                f"models: {name!r} is no model{nearest(str(name), list(BY_NAME))}. Expected some "
                f"of {', '.join(BY_NAME)}."
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
    settings = dict(values["model"])
    if name == "monolithic":
        settings.pop("modules", None)  # it has one, whatever the others have
    model, train = named(name, settings, values["train"])
    if "modules" in settings:
        model["modules"] = settings["modules"]
    return from_dict(RunSpec, {**values, "name": name, "model": model, "train": train})


def _seeds(value: Any) -> list[list[int]]:
    counts = {"tasks": 1, "models": 1}
    if not isinstance(value, Mapping) or not all(
        isinstance(count, int) and not isinstance(count, bool) and count > 0
        for count in value.values()
    ):
        raise SpecError(f"seeds = {value!r}: expected {{ tasks = 5, models = 5 }}.")
    _check_names(value, "seeds: ", tuple(counts))
    counts |= value
    return [list(pair) for pair in seed_grid(counts["tasks"], counts["models"])]


def _values(kind: type, key: str, setting: Any) -> list[Any]:
    """Return the values of a setting: a list is an axis where it is deeper than the setting."""
    hint = typing.get_type_hints(kind).get(key)
    if not isinstance(setting, list) or _depth(setting) <= _hinted_depth(hint):
        return [setting]
    return setting


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _hinted_depth(hint: Any) -> int:
    if typing.get_origin(hint) is not tuple:
        return 0
    return 1 + _hinted_depth(typing.get_args(hint)[0])
