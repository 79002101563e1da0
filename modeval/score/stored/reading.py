"""Reading the JSON form of a scorecard: every value of the type that its field says, or an error.

Readers are made from the annotations of the dataclasses, once; a value passes through a few of
them. They say where in the form a wrong value stands. What the values must be together is
:mod:`modeval.score.stored.checks`.
"""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from modeval.errors import ModevalError, ScorecardError
from modeval.score.ablation import Ablation
from modeval.score.ablation_card import ablation_card
from modeval.score.scorecard import FORMAT, Scorecard, Seed
from modeval.score.stored.ablation_checks import ablation_faults
from modeval.score.stored.first_version import upgraded

Reader = Callable[[Any], Any]
PARTS = ("modeval", "level", "models", "scores", "profiles", "activations", "coactivations")
"""What a scorecard of any version has, were it empty."""
ABLATION = "modeval ablation"
"""Kind of the files of ``modeval ablate`` that are no scorecards yet."""
DEPTH = 32
"""Levels of nesting in what is told of data and model."""


class WrongValueError(Exception):
    """A value that is not what its place asks for."""

    def __init__(self, value: Any, expected: str, path: str = "") -> None:
        super().__init__(value, expected, path)
        self.value, self.expected, self.path = value, expected, path

    def inside(self, part: str) -> "WrongValueError":
        """Return the same, seen from one level further out."""
        return WrongValueError(self.value, self.expected, part + self.path)


def from_dict_form(form: Any, *, where: str) -> Scorecard:
    """Read the JSON form. Fields of later versions are passed over, those of 0.1 are understood.

    Args:
        form: what a JSON parser gave.
        where: the file, for messages.

    Raises:
        ScorecardError: it is no scorecard, or of another version, or a value is of a wrong type.
    """
    if isinstance(form, dict) and form.get("kind") == ABLATION:
        return _of_ablation(form, where)
    if not isinstance(form, dict) or "scores" not in form or "format" not in form:
        raise ScorecardError(
            f"{where} is not a scorecard. Make one with: modeval score RUN --json {where}"
        )
    if type(form["format"]) is not int or form["format"] != FORMAT:
        raise ScorecardError(
            f"{where} has format {form['format']!r}; this modeval reads format {FORMAT}. Use the "
            "modeval that wrote it, or score again."
        )
    try:
        _check_names(form, PARTS)
        card: Scorecard = reader_of(Scorecard)(upgraded(form))
    except WrongValueError as wrong:
        raise _damaged(where, wrong) from None
    return card


def _of_ablation(form: Mapping[str, Any], where: str) -> Scorecard:
    """Read what ``modeval ablate`` wrote before it wrote scorecards."""
    try:
        found: Ablation = reader_of(Ablation)(form)
    except WrongValueError as wrong:
        raise _damaged(where, wrong) from None
    if fault := next(ablation_faults(found), ""):
        raise ScorecardError(f"{where} is damaged or was edited: {fault}. Ablate again.")
    return ablation_card(found, where)


def _damaged(where: str, wrong: WrongValueError) -> ScorecardError:
    got = "nothing" if wrong.value is MISSING else reprlib.repr(wrong.value)
    return ScorecardError(
        f"{where} is damaged: {wrong.path.lstrip('.')} is {got}, expected {wrong.expected}. "
        "Score again."
    )


# --- readers, one for each type ------------------------------------------------------------------


@cache
def reader_of(kind: Any) -> Reader:
    """Return what reads a value of a type."""
    if kind in PLAIN:
        return PLAIN[kind]
    if is_dataclass(kind):
        return _object_reader(kind)
    parts = get_args(kind)
    return MADE_OF[get_origin(kind)](parts)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise WrongValueError(value, "a text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise WrongValueError(value, "a whole number")
    return value


def _number(value: Any) -> float:
    if type(value) is float:
        if math.isfinite(value):
            return value
    elif type(value) is int and abs(value) < LARGEST:
        return float(value)
    raise WrongValueError(value, "a finite number")


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise WrongValueError(value, "true or false")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if type(value) is not dict:
        raise WrongValueError(value, "an object")
    return {key: _plain(each, f".{key}") for key, each in value.items()}


def _plain(value: Any, path: str, depth: int = 0) -> Any:
    """Return what is told of data and model: texts, finite numbers, lists and objects of them."""
    if depth > DEPTH:
        raise WrongValueError("...", "less nesting", path)
    if type(value) is list:
        return [_plain(each, f"{path}[{at}]", depth + 1) for at, each in enumerate(value)]
    if type(value) is dict:
        return {key: _plain(each, f"{path}.{key}", depth + 1) for key, each in value.items()}
    if type(value) is float and not math.isfinite(value):
        raise WrongValueError(value, "a finite number", path)
    return value


def _seed(value: Any) -> Seed:
    if type(value) is not dict:
        raise WrongValueError(value, 'a seed, as {"task": 0, "model": 0}')
    task, model = value.get("task", MISSING), value.get("model", MISSING)
    if type(task) is not int or type(model) is not int or task < 0 or model < 0:
        raise WrongValueError(value, 'a seed, as {"task": 0, "model": 0}')
    return task, model


LARGEST = 1 << 1000
PLAIN: dict[Any, Reader] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _truth,
    Seed: _seed,
}
"""Readers of types that stand for themselves."""


def _optional_reader(parts: tuple[Any, ...]) -> Reader:
    [kind] = [part for part in parts if part is not NoneType]
    inner = reader_of(kind)

    def read(value: Any) -> Any:
        return None if value is None else inner(value)

    return read


def _choice_reader(choices: tuple[Any, ...]) -> Reader:
    known = frozenset(choices)

    def read(value: Any) -> Any:
        if type(value) is not str or value not in known:
            raise WrongValueError(value, " or ".join(map(str, choices)))
        return value

    return read


def _list_reader(parts: tuple[Any, ...]) -> Reader:
    inner = reader_of(parts[0])

    def read(value: Any) -> Any:
        if type(value) is not list:
            raise WrongValueError(value, "a list")
        try:
            return tuple(map(inner, value))
        except WrongValueError:
            pass
        for at, each in enumerate(value):  # only now it matters which one it was
            try:
                inner(each)
            except WrongValueError as wrong:
                raise wrong.inside(f"[{at}]{_named(each)}") from None
        raise AssertionError("readers give the same result twice")

    return read


def _mapping_reader(parts: tuple[Any, ...]) -> Reader:
    if parts[1] is Any:
        return _mapping
    inner = reader_of(parts[1])

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise WrongValueError(value, "an object")
        found = {}
        for key, each in value.items():
            try:
                found[key] = inner(each)
            except WrongValueError as wrong:
                raise wrong.inside(f".{key}") from None
        return found

    return read


MADE_OF: dict[Any, Callable[[tuple[Any, ...]], Reader]] = {
    Literal: _choice_reader,
    Union: _optional_reader,
    UnionType: _optional_reader,
    tuple: _list_reader,
    Mapping: _mapping_reader,
}
"""What makes readers of types that are made of others."""


def _named(item: Any) -> str:
    """Say which score an entry is of, where it says so itself."""
    if not isinstance(item, dict) or not isinstance(item.get("metric"), str):
        return ""
    return f" ({reprlib.repr(item['metric'])} of {reprlib.repr(item.get('model'))})"


def _object_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    known = [(each.name, reader_of(hints[each.name])) for each in fields(kind)]
    wanted = [each.name for each in fields(kind) if each.default is MISSING]

    def read(value: Any) -> Any:
        _check_names(value, wanted)
        name = ""
        found = {}
        try:
            for name, read_field in known:
                if name in value:
                    found[name] = read_field(value[name])
            return kind(**found)
        except WrongValueError as wrong:
            raise wrong.inside(f".{name}") from None
        except ModevalError as error:  # a type that checks its own values
            raise WrongValueError(value, str(error)) from None

    return read


def _check_names(value: Any, wanted: Sequence[str]) -> None:
    if type(value) is not dict:
        raise WrongValueError(value, "an object")
    for name in wanted:
        if name not in value:
            raise WrongValueError(MISSING, "a value", f".{name}")
