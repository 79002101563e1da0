"""What a shell offers when a value is to be typed: metrics, kinds, formats, models, devices.

Each takes what was typed so far. Nothing here may fail or print: a shell shows what is returned.
"""

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path


def one_of(*choices: str) -> Callable[[str], list[str]]:
    """Return what completes one of a few names.

    >>> one_of("last", "best")("b")
    ['best']
    """
    return lambda incomplete: _begin(choices, incomplete)


def several(known: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Complete the last of names that commas separate.

    >>> several(one_of("mlp", "attention"))("mlp,at")
    ['mlp,attention']
    """

    def last(incomplete: str) -> list[str]:
        before, comma, own = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known(own)]

    return last


def paths(incomplete: str) -> list[str]:
    """Complete files and folders, where a name of something else may stand as well."""
    folder, _, begun = incomplete.rpartition("/")
    place = Path(folder or ("/" if incomplete.startswith("/") else "."))
    try:
        found = sorted(place.iterdir())
    except OSError:
        return []
    front = incomplete[: len(incomplete) - len(begun)]
    names = (f"{front}{path.name}{'/' if path.is_dir() else ''}" for path in found)
    return [name for name in _begin(names, incomplete) if begun or not _hidden(name)]


def _hidden(name: str) -> bool:
    return Path(name).name.startswith(".")


devices = one_of("auto", "cpu", "cuda")
types = one_of("auto", "float32", "bfloat16", "float16")


def metrics(incomplete: str) -> list[str]:
    """Complete the name of a metric."""
    from modeval.metrics.table import METRICS

    return _begin(METRICS, incomplete)


def shown_metrics(incomplete: str) -> list[str]:
    """Complete the name of a metric, or all."""
    return [*metrics(incomplete), *_begin(("all",), incomplete)]


def limits(incomplete: str) -> list[str]:
    """Complete the metric of a limit, METRIC=X."""
    return [] if "=" in incomplete else [f"{name}=" for name in metrics(incomplete)]


def figures(incomplete: str) -> list[str]:
    """Complete the kind of a figure."""
    from modeval.pipeline.plotting import EVERY

    return _begin(EVERY, incomplete)


def formats(incomplete: str) -> list[str]:
    """Complete the name of a format that is imported."""
    from modeval.trace.importers.formats import FORMATS

    return _begin(FORMATS, incomplete)


def tables(incomplete: str) -> list[str]:
    """Complete the name of a table of a report."""
    from modeval.report.table_formats import TABLES

    return _begin(TABLES, incomplete)


def systems(incomplete: str) -> list[str]:
    """Complete the name of a system that can be trained."""
    from modeval.spec.systems import BY_NAME

    return _begin(BY_NAME, incomplete)


def settings(incomplete: str) -> list[str]:
    """Complete the key of a setting, SECTION.NAME=VALUE."""
    from dataclasses import fields

    from modeval.spec import DataSpec, ModelSpec, TrainSpec

    kinds = (("data", DataSpec), ("model", ModelSpec), ("train", TrainSpec))
    keys = (f"{section}.{each.name}=" for section, kind in kinds for each in fields(kind))
    return [] if "=" in incomplete else _begin(keys, incomplete)


def grids(incomplete: str) -> list[str]:
    """Complete the name of a grid."""
    from modeval.spec.sweep import NAMED

    return _begin(NAMED, incomplete)


def models(incomplete: str) -> list[str]:
    """Complete the id of a model of the scorecards that stand on the command line."""
    from modeval.errors import ModevalError
    from modeval.score.stored.files import read_scorecard

    found: list[str] = []
    for word in _line():
        if word.endswith(".json"):
            try:
                found += [record.id for record in read_scorecard(Path(word)).models]
            except (ModevalError, OSError):
                continue
    return _begin(dict.fromkeys(found), incomplete)


def axes(incomplete: str) -> list[str]:
    """Complete the last of the axes of an array; each stands once."""
    from modeval.trace.importers.plain.arrays import AXES

    said = incomplete.split(",")[:-1]
    return several(one_of(*(axis for axis in AXES if axis not in said)))(incomplete)


def row_kinds(incomplete: str) -> list[str]:
    """Complete the last of the kinds of rows that can be left out, in one word each."""
    from modeval.trace.suspicions import ROW_KINDS

    return several(one_of(*(kind.replace(" ", "-") for kind in ROW_KINDS)))(incomplete)


MANY = 200
"""Modules of all layers beyond which layers are offered first, and then the modules of one."""


def modules(incomplete: str) -> list[str]:
    """Complete LAYER:MODULE by the traces that stand on the command line."""
    from modeval.errors import ModevalError
    from modeval.trace.trace import header_from_json

    found: list[str] = []
    for word in _line():
        path = Path(word) / "header.json"
        try:
            header = header_from_json(path.read_text(encoding="utf-8"), word)
        except (ModevalError, OSError, ValueError):
            continue
        layers = [(str(number), count) for number, count in enumerate(header.modules)]
        if ":" not in incomplete and sum(header.modules) > MANY:
            found += [f"{layer}:" for layer, _ in layers]
            continue
        named = [*layers, *zip(header.layers, header.modules, strict=True)]
        begun, colon, _ = incomplete.rpartition(":")
        for layer, count in named if colon else layers:
            if not colon or layer == begun:
                found += [f"{layer}:{module}" for module in range(count)]
    return _begin(dict.fromkeys(found), incomplete)


def _line() -> list[str]:
    """Return the words of the line that is being typed, as the shell tells them."""
    told = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    try:
        return shlex.split(told)
    except ValueError:  # a quote that is still open
        return told.split()


def _begin(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
