"""Names from outside in every format that the program writes: none acts, none breaks the form."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import report_cards
from rich.console import Console

from modeval.cli.console import PlainConsole
from modeval.errors import ScorecardError
from modeval.gate.gate import gate
from modeval.gate.policy import Policy, from_flags
from modeval.gate.verdicts import GateResult
from modeval.report import html
from modeval.report.paper.style import Style
from modeval.report.paper_figures import draw, save
from modeval.report.scorecard_views import entries
from modeval.report.table_formats import FORMATS, TABLES, tables_of
from modeval.report.terminal.comparison import render_comparison
from modeval.report.terminal.scores import render as render_scores
from modeval.report.trackers import open_metrics
from modeval.report.verdicts.formats import GATE_FORMATS
from modeval.report.verdicts.github import render_github
from modeval.report.verdicts.history import history_line
from modeval.report.verdicts.terminal import render_gate
from modeval.score.comparison.compare import compare
from modeval.score.scorecard import Scorecard

NAMES = {
    "clipboard": "\x1b]52;c;aGk=\x07x",
    "screen": "\x1b[2Jx",
    "c1": "\x9b31mx",
    "command": "x\n::stop-commands::x",
    "group": "::error::x",
    "return": "x\r::error::y",
    "separator": "x\u2028::error::z",
    "bidi": "\u202egnp.exe",
    "isolate": "\u2066x",
    "surrogate": "x\udc80",
    "null": "x\0y",
    "rich": "[red]x[/x]",
    "backslash": "x\\",
    "script": "<script>alert(1)</script>",
    "attribute": "\" onmouseover='x()' y=\"",
    "entity": "&lt;b&gt;]]>",
    "link": "![x](http://y.example/z)",
    "autolink": "http://y.example @user #1",
    "table": "a|b\n|---|",
    "fence": "```\n# x",
    "latex": "\\input{/etc/passwd}$x_1^2$%&#~",
    "formula": "=cmd|'/c x'!A1",
    "plus": "+1+1",
    "minus": "-1+1",
    "at": "@SUM(1)",
    "tab": "\t=1+1",
    "quotes": 'x"y\\"',
    "braces": "{{7*7}}{%x%}",
    "long": "x" * 3000,
}
ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@cache
def _trace() -> Scorecard:
    card: Scorecard = report_cards.trace(layers=2, documents=24)
    return card


def named(name: str) -> Scorecard:
    """Return a trace's scorecard with a name in every place that takes one."""
    card = _trace()
    [record] = card.models
    model = {key: name if isinstance(value, str) else value for key, value in record.model.items()}
    data = {key: name if isinstance(value, str) else value for key, value in record.data.items()}
    record = replace(
        record,
        title=name,
        rules=tuple(f"{name}{number}" for number, _ in enumerate(record.rules)),
        layers=tuple(f"{name}{number}" for number, _ in enumerate(record.layers)),
        model=model,
        data={**data, "task": "trace"},
        members=tuple(replace(each, source=name, note=name) for each in record.members),
        left_out=(),
    )
    named: Scorecard = replace(card, models=(record,), notes=(name,))
    return named


def judged(name: str) -> GateResult:
    flags = from_flags({"max": ["layers.each.collapse_worst=0.0001"], "min": ["v_measure=0.9999"]})
    return gate([(name, named(name))], Policy(requirements=flags, source=name))


def _json(text: str) -> None:
    json.loads(text)
    assert not ACTING.search(text)


def _xml(text: str) -> None:
    ET.fromstring(text)
    assert not ACTING.search(text)


def _markdown(text: str) -> None:
    assert not ACTING.search(text)
    plain = re.sub(r"\\.", "", re.sub(r"<!--.*?-->|`[^`\n]*`", "", text))
    assert not re.search(r"<script|\]\(http|(?<!\w)@user|!\[x", plain)
    rows = [line for line in plain.splitlines() if line.startswith("|")]
    for block in re.split(r"\n(?!\|)", plain):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1


def _latex(text: str) -> None:
    assert not ACTING.search(text)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    text = "\n".join(lines)
    names = re.sub(r"\$\\(downarrow|uparrow|pm|cdot)\$", "", text)
    assert "\\input" not in names
    assert not re.search(r"(?<!\\)[$#~^]", names)


def _csv(text: str) -> None:
    assert not ACTING.search(text)
    rows = [*csv.reader(io.StringIO(text))]
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        if not re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", cell):
            assert not cell.lstrip().startswith(("=", "+", "@", "-")), cell


def _commands(text: str) -> None:
    """Check lines that GitHub reads: each a command of ours, none of a name's."""
    assert not ACTING.search(text)
    for line in text.splitlines():
        assert re.match(r"::(error|warning|notice) ", line), line
        properties = line[2:].partition("::")[0]
        assert re.fullmatch(r"\w+ ((file|line|title)=[^:,]*,?)+", properties), line


def _screen(text: str) -> None:
    assert not ACTING.search(text)
    assert not re.search(r"^\s*::", text, re.MULTILINE)


class _Tags(HTMLParser):
    """Collects tags and attributes that act."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.found += [name for name, _ in attrs if name.startswith("on")]


def _page(text: str) -> None:
    assert not ACTING.search(text)
    tags = _Tags()
    tags.feed(text)
    own = _Tags()
    own.feed(html.render([_trace()], ["card.json"]))
    assert (tags.found, tags.scripts) == (own.found, own.scripts)


def _metrics(text: str) -> None:
    assert not ACTING.search(text)
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(
            r'modeval_score\{(\w+="(?:[^"\\]|\\["\\n])*",?)*\} \S+', line
        ), line


def _printed(parts: Any) -> str:
    file = io.StringIO()
    console: Console = PlainConsole(file=file, width=100)
    for part in parts:
        console.print(part)
    return file.getvalue()


def _terminal_scores(name: str) -> str:
    return _printed(render_scores(named(name), name))


def _terminal_comparison(name: str) -> str:
    cards = [named(name), named(name)]
    return _printed(render_comparison(compare([(name, card) for card in cards])))


def _history(name: str) -> str:
    return history_line(judged(name), date="2026-01-01", commit=name)


def _table(form: str, *names: str) -> Callable[[str], str]:
    def write(name: str) -> str:
        views = entries([named(name)], [name])
        return "".join(
            FORMATS[form](tables_of(table, views)) for table in names or ("glance", "layers")
        )

    return write


def _every_csv(name: str) -> str:
    views = entries([named(name)], [name])
    for table in TABLES:
        try:
            text = FORMATS["csv"](tables_of(table, views))
        except ScorecardError:  # a table that this card does not fill
            continue
        else:
            _csv(text)
    return FORMATS["csv"](tables_of("glance", views))


def _figure(name: str) -> str:
    view = entries([named(name)], [name])
    return save(draw("layers", view, Style()), "svg").decode()


WRITERS: dict[str, tuple[Callable[[str], str], Callable[[str], None]]] = {
    **{
        f"gate {form}": (
            lambda name, form=form: GATE_FORMATS[form].render(judged(name), 1),  # type: ignore[misc]
            {"junit": _xml, "markdown": _markdown, "comment": _markdown}.get(form, _json),
        )
        for form in GATE_FORMATS
    },
    "gate github": (lambda name: render_github(judged(name)), _commands),
    "gate history": (
        lambda name: history_line(judged(name), date="2026-01-01", commit=name),
        _json,
    ),
    "gate terminal": (lambda name: _printed(render_gate(judged(name))), _screen),
    "report md": (_table("md"), _markdown),
    "report latex": (_table("latex"), _latex),
    "report csv": (_every_csv, _csv),
    "report json": (
        lambda name: FORMATS["json"](tables_of("glance", entries([named(name)], [name]))),
        _json,
    ),
    "report html": (lambda name: html.render([named(name)], [name]), _page),
    "log openmetrics": (lambda name: open_metrics(named(name)), _metrics),
    "score terminal": (_terminal_scores, _screen),
    "compare terminal": (_terminal_comparison, _screen),
    "plot svg": (_figure, _xml),
}


SLOW = ("report html", "plot svg")
"""What takes a third of a second is tried on all names at once."""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_hostile_name_acts_nowhere_and_breaks_no_form(writer: str) -> None:
    write, check = WRITERS[writer]
    for name in (" ".join(NAMES.values()),) if writer in SLOW else NAMES.values():
        text = write(name)
        text.encode()
        check(text)
