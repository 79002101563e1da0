r"""Text from outside (labels, names, titles, ids, paths), made harmless where it is printed.

Whoever names a label, a model or a file may put anything into the name: markup of the library that
draws tables, escape sequences that act on the terminal, a line that GitHub takes for a command, a
link of Markdown. Each reader has its function here; nothing from outside is printed without one:

    markup of rich              ``for_rich(label)``
    a terminal, ``Text``        ``visible(label)``
    Markdown                    ``for_markdown(label)``
    GitHub annotations          ``for_github(message)``, ``for_github_property(title)``
    JSON                        the library that writes it, then ``for_json(text)``
    HTML, XML                   the library that writes them; ``visible`` first; a notebook's table:
                                ``html_table(titles, rows)``

The consoles of ``cli/output.py`` are a second net below: what slips through acts on no terminal.
"""

import html
import re
from collections.abc import Iterable

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_BEYOND_SPACES = rf"\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff"
_ACTING = re.compile(rf"[\x00-\x1f{_BEYOND_SPACES}]")
_ACTING_BUT_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{_BEYOND_SPACES}]")
_COMMAND = re.compile(r"^([^\S\n]*):(?=:)", re.MULTILINE)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+|~!&^$@-])")


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return text whose characters all show and none acts: the others become their escapes.

    Acting are control characters (of terminals: ESC, bell, carriage return), the ends of lines,
    what turns the direction of writing, and halves of surrogate pairs, which no encoding has.

    Args:
        text: anything.
        lines: keep newlines and tabs, for text of several lines that is our own.

    >>> print(visible("code\n::error::no \x1b[2J"))
    code\n::error::no \x1b[2J
    """
    acting = _ACTING_BUT_LINES if lines else _ACTING
    return acting.sub(_escaped, text)


def html_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table for a notebook; nothing in a cell acts.

    >>> html_table(["a"], [["<b>"]])
    '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """

    def line(tag: str, cells: Iterable[str]) -> str:
        return "".join(f"<{tag}>{html.escape(visible(cell))}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{line('th', titles)}</tr></thead><tbody>{body}</tbody></table>"


def for_rich(text: str, *, lines: bool = False) -> str:
    r"""Return text as rich's markup shows it: no style, no tag, nothing that acts.

    >>> print(for_rich("[/x] [red]"))
    \[/x] \[red]
    """
    from rich.markup import escape  # noqa: PLC0415 - not needed by readers of pages

    return escape(visible(text, lines=lines))


def for_markdown(text: str) -> str:
    r"""Return text as Markdown shows it: no markup, no link, one line, fit for a table's cell.

    >>> print(for_markdown("a|b ![x](http://y)"))
    a\|b \!\[x\]\(http://y\)
    """
    return _MARKDOWN.sub(r"\\\1", visible(text))


def for_json(written: str) -> str:
    r"""Return JSON whose text acts on no terminal: what would is written as an escape of JSON.

    The value that a reader gets is the same. It takes what ``json.dumps`` gave.

    >>> print(for_json('{"a": "\x9b31m"}'))
    {"a": "\u009b31m"}
    """
    return _ACTING_BUT_LINES.sub(lambda match: f"\\u{ord(match[0]):04x}", written)


def for_github(message: str) -> str:
    r"""Return the message of a GitHub workflow command; its lines stay lines.

    Source: GitHub Docs, Workflow commands for GitHub Actions (escaping).

    >>> for_github("100 %\nmore")
    '100 %25%0Amore'
    """
    text = visible(message, lines=True)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def for_github_property(text: str) -> str:
    r"""Return a property of a GitHub workflow command, which ends at a colon or a comma.

    >>> for_github_property("a: b, c")
    'a%3A b%2C c'
    """
    return for_github(visible(text)).replace(":", "%3A").replace(",", "%2C")


def no_commands(text: str) -> str:
    r"""Return lines of output of which GitHub takes none for a workflow command.

    >>> no_commands("::stop-commands::x"), no_commands("a::b")
    (': :stop-commands::x', 'a::b')
    """
    return _COMMAND.sub(r"\1: ", text).replace("##[", "# #[")


def brief(value: object, length: int = 60) -> str:
    """Return a value for a message: its form in Python, which is never made longer than shown.

    >>> brief([[0] * 1000] * 1000, 30)
    '[[0, 0, 0, 0, 0, 0, ...], [...'
    """
    import reprlib  # noqa: PLC0415 - for messages only

    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 3, length, length, length
    try:
        text = visible(short.repr(value))
    except ValueError:  # a number of more digits than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 3]}..."


def shortened(message: str, run: int = 600, whole: int = 4000) -> str:
    """Return a message for people: no word of it fills a screen, and neither does all of it.

    >>> shortened(f"{'x' * 5000} is no name.", run=20)
    'xxxxxxxx...xxxxxxxxx is no name.'
    """
    text = re.sub(rf"\S{{{run + 1},}}", lambda word: _without_middle(word[0], run), message)
    return _without_middle(text, whole)


def _without_middle(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    before = (length - 3) // 2
    return f"{text[:before]}...{text[before + 3 - length :]}"


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts layers.2 before layers.10.

    >>> sorted(["layers.10", "layers.2"], key=natural)
    ['layers.2', 'layers.10']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def kind_of(name: str) -> str:
    """Return what a layer has in common with others of its kind: its name without its number.

    >>> kind_of("model.layers.12.mlp.gate")
    'model.layers.*.mlp.gate'
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name, count=1)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
