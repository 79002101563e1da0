"""Flags from specifications: each field of a spec is one flag, written once, at the field.

Name, type, default, help and unit come from the dataclass (:mod:`modeval.spec.settings`), so a new
setting needs no line here. A field whose type is a union of dataclasses becomes a flag that chooses
among them and one flag for each of their settings: ``--gating gumbel --gating-temperature 0.5``.
"""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from typer.core import TyperCommand

from modeval.errors import SpecError
from modeval.spec import choices_of
from modeval.spec.checks import hints_of, suggestion
from modeval.spec.own import is_code
from modeval.spec.settings import default_of, descriptions, flag_of

COMMON = "Common"
OWN = "own"
"""A choice whose settings are a file of the user's."""
Given = dict[str, dict[str, Any]]
"""What flags said, by section; what was not given is absent."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a spec file whose settings are to be flags.

    Attributes:
        name: in the file.
        kind: its specification.
        panel: where help shows its flags.
    """

    name: str
    kind: type
    panel: str


@dataclass(frozen=True, slots=True)
class _Flag:
    """One flag and the place of its value in a section."""

    section: str
    path: tuple[str, ...]
    parameter: inspect.Parameter


class SettingsCommand(TyperCommand):
    """A command whose flags take several values with spaces between them as well as commas."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line, lists first made one word each."""
        lists = {
            name
            for parameter in self.params
            if str(getattr(parameter, "metavar", "")).endswith(",...")
            for name in parameter.opts
        }
        bare = all(parameter.param_type_name == "option" for parameter in self.params)
        return super().parse_args(ctx, joined(args, lists, together=bare))


def joined(
    words_given: Sequence[str], lists: Collection[str], *, together: bool = False
) -> list[str]:
    """Return the words of a command line with the values of lists joined by commas.

    A list of numbers ends where something else begins: an argument may follow it. ``together``
    says that no argument can follow: numbers after a number are told together with it.

    >>> joined(["--model", "modular", "gt-modular", "--milestones", "10,", "20", "-q"],
    ...        {"--model", "--milestones"})
    ['--model', 'modular,gt-modular', '--milestones', '10,20', '-q']
    """
    found: list[str] = []
    flag, single = "", False
    for word in words_given:
        if word.startswith("-"):
            flag, single = word if word in lists else "", word not in lists
        elif (together and single and _both(found[-1], word)) or (
            flag and found[-1] != flag and _is_number(found[-1]) == _is_number(word)
        ):
            found[-1] = f"{found[-1].rstrip(',')},{word}"
            continue
        found.append(word)
    return found


def _both(former: str, word: str) -> bool:
    """Tell whether a number follows a number."""
    return not former.startswith("-") and _is_number(former) and _is_number(word)


def _is_number(text: str) -> bool:
    return not re.sub(r"[\d.,eE+-]", "", text)


def with_settings(*sections: Section) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put the flags of sections in the place of a command's parameter ``settings``.

    The command receives there what was given, as :data:`Given`.
    """
    flags = [flag for section in sections for flag in _flags(section)]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command, eval_str=True)
        parameters = [
            part
            for name, parameter in own.parameters.items()
            for part in ([flag.parameter for flag in flags] if name == "settings" else [parameter])
        ]

        @functools.wraps(command)
        def run(**values: Any) -> Any:
            given: Given = {section.name: {} for section in sections}
            for flag in flags:
                value = values.pop(flag.parameter.name)
                if value is not None:
                    _put(given[flag.section], flag.path, value)
            return command(**values, settings=given)

        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _put(table: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table[path[-1]] = value


# --- from fields to flags ------------------------------------------------------------------------


def _flags(section: Section) -> Iterator[_Flag]:
    for field in fields(section.kind):
        hint = hints_of(section.kind)[field.name]
        texts = descriptions(section.kind)
        if not field.metadata.get("flag", True):
            continue
        choices = choices_of(hint)
        if not choices:
            yield from _plain_flag(section, (field.name,), field, hint, texts.get(field.name, ""))
            continue
        usual = getattr(default_of(field), "kind", "")
        yield _flag(
            section,
            (field.name, "kind"),
            name=field.name,
            parse=one_of(flag_of(field.name), tuple(choices), own=OWN in choices),
            metavar=_metavar(choices),
            text=_help(_listing(texts.get(field.name, ""), choices), usual),
            complete=completing(tuple(choices)),
        )
        yield from _flags_of_choices(section, field.name, choices)


def _flags_of_choices(section: Section, name: str, choices: Mapping[str, type]) -> Iterator[_Flag]:
    """Yield a flag for each setting of the members of a union; members may share a setting."""
    readers: dict[str, list[str]] = {}
    for kind, member in choices.items():
        for field in fields(member):
            readers.setdefault(field.name, []).append(kind)
    for setting, kinds in readers.items():
        member = choices[kinds[0]]
        field = next(each for each in fields(member) if each.name == setting)
        hint = hints_of(member)[setting]
        text = _said({kind: descriptions(choices[kind]).get(setting, "") for kind in kinds})
        usual = _usual({kind: getattr(choices[kind](), setting) for kind in kinds})
        if setting != "kind" and field.metadata.get("flag", True):
            yield from _plain_flag(section, (name, setting), field, hint, text, usual=usual)


def _said(texts: Mapping[str, str]) -> str:
    """Return what each choice says of a setting, once where several say the same."""
    readers: dict[str, list[str]] = {}
    for kind, text in texts.items():
        readers.setdefault(text, []).append(kind)
    return " ".join(f"{text} ({', '.join(kinds)})" for text, kinds in readers.items())


def _usual(defaults: Mapping[str, Any]) -> str:
    """Return the default of a setting that several choices have: one, or that of each."""
    if len(set(defaults.values())) == 1:
        return str(next(iter(defaults.values())))
    return ", ".join(f"{value} for {kind}" for kind, value in defaults.items())


def _plain_flag(
    section: Section,
    path: tuple[str, ...],
    field: Field[Any],
    hint: Any,
    text: str,
    *,
    usual: str | None = None,
) -> Iterator[_Flag]:
    """Yield the flag of a setting without settings of its own; none for lists of tables."""
    flag = flag_of("_".join(path))
    kind = _without_none(hint)
    default = default_of(field)
    usual = ("" if default in (MISSING, None, ()) else str(default)) if usual is None else usual
    plain = _help(text, usual)
    unit = field.metadata.get("unit", "")
    aliases: tuple[str, ...] = field.metadata.get("aliases", ())
    make = functools.partial(
        _flag,
        section,
        path,
        name="_".join(path),
        aliases=aliases,
        common=field.metadata.get("common", False),
    )
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        yield make(
            parse=one_of(flag, choices, own=OWN in choices),
            metavar=_metavar(choices),
            text=_help(_listing(text, choices), usual),
            complete=completing(choices),
        )
    elif typing.get_origin(kind) is tuple and typing.get_args(kind)[0] in _NUMBERS:
        number = typing.get_args(kind)[0]
        yield make(
            parse=several(flag, number), metavar=f"{(unit or 'number').upper()},...", text=plain
        )
    elif kind is bool:
        yield make(parse=None, metavar=None, text=plain)
    elif kind in _NUMBERS:
        yield make(
            parse=number_of(flag, kind), metavar=(unit or _NUMBERS[kind]).upper(), text=plain
        )
    elif kind is str:
        yield make(parse=str, metavar="TEXT", text=plain)


_NUMBERS = {int: "n", float: "x"}


def _flag(
    section: Section,
    path: tuple[str, ...],
    *,
    name: str,
    parse: Callable[[str], Any] | None,
    metavar: str | None,
    text: str,
    aliases: tuple[str, ...] = (),
    common: bool = False,
    complete: Callable[[str], list[str]] | None = None,
) -> _Flag:
    declarations = (flag_of(name), *aliases) if parse else ()
    option = typer.Option(
        *declarations,
        parser=parse,
        metavar=metavar,
        help=text,
        show_default=False,
        rich_help_panel=COMMON if common else section.panel,
        autocompletion=complete,
    )
    parameter = inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None if parse else bool | None, option],
    )
    return _Flag(section.name, path, parameter)


LONG = 36  # characters, beyond which a column of choices would be cut in the middle of words


def _metavar(choices: Iterable[str]) -> str:
    listed = "|".join(choices)
    return listed if len(listed) <= LONG else "NAME"


def _listing(text: str, choices: Collection[str]) -> str:
    """Return a description that names all choices, where they are too many to stand before it."""
    if len("|".join(choices)) <= LONG:
        return text
    named = all(f"``{choice}``" in text for choice in choices)
    return text if named else f"{text} One of {', '.join(choices)}."


def _help(text: str, usual: str) -> str:
    """Return a field's description as help; a name of a choice at its head stays as it is typed."""
    named = text.startswith("``")
    plain = text.replace("``", "")
    sentence = escape(plain if named else plain[:1].upper() + plain[1:])
    return f"{sentence} [dim]{escape(f'[default: {usual}]')}[/]" if usual else sentence


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


# --- values --------------------------------------------------------------------------------------


def one_of(flag: str, choices: Sequence[str], *, own: bool = False) -> Callable[[str], str]:
    """Return a reader of one of several names, which suggests the nearest to another.

    Args:
        flag: what is read.
        choices: the names.
        own: whether something in a Python file may stand in the place of a name.
    """

    def read(text: str) -> str:
        if own and is_code(text):
            return text
        if text not in choices or (own and text == OWN):
            raise SpecError(
                f"{flag} {text}: expected one of {', '.join(choices)}.{suggestion(text, choices)}"
            )
        return text

    return read


def completing(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what a shell asks for the names that begin as what was typed.

    >>> completing(("sets", "series"))("se")
    ['sets', 'series']
    """

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def number_of(flag: str, kind: type[int | float]) -> Callable[[str], int | float]:
    """Return a reader of one number."""
    expected, example = ("a whole number", "8") if kind is int else ("a number", "0.5")

    def read(text: str) -> int | float:
        try:
            return kind(text)
        except ValueError:
            several = " For several values plan a sweep: modeval sweep plan --help."
            one = several if "," in text else ""
            raise SpecError(
                f"{flag} {text}: expected {expected}, as {flag} {example}.{one}"
            ) from None

    return read


def count_of(flag: str) -> Callable[[str], int]:
    """Return a reader of a number of things, at least one."""
    read_number = number_of(flag, int)

    def read(text: str) -> int:
        if "," in text:
            raise SpecError(
                f"{flag} {text}: it counts, {flag} 3 stands for the seeds 0, 1 and 2. Other seeds "
                "go into a spec file: [train] seeds = [[0, 0], [5, 0]], as (task seed, model seed)."
            )
        count = int(read_number(text))
        if count < 1:
            raise SpecError(f"{flag} = {count}: expected 1 or more.")
        return count

    return read


def several(flag: str, kind: type[int | float]) -> Callable[[str], list[int | float]]:
    """Return a reader of numbers between commas or spaces.

    >>> several("--milestones", int)("1000, 2000 3000")
    [1000, 2000, 3000]
    """
    expected = "whole numbers, as 1000,2000" if kind is int else "numbers, as 0.5,0.3,0.2"

    def read(text: str) -> list[int | float]:
        try:
            return [kind(part) for part in words(text)]
        except ValueError:
            raise SpecError(f"{flag} {text!r}: expected {expected}.") from None

    return read


def words(text: str) -> list[str]:
    """Return what stands between commas or spaces.

    >>> words("modular, gt-modular  monolithic")
    ['modular', 'gt-modular', 'monolithic']
    """
    return text.replace(",", " ").split()
