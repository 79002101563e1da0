"""Names from outside never act: not on terminals, not on rich, not on GitHub, not in Markdown."""

import io
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.markup import render
from rich.text import Text

from modeval.cli.console import PlainConsole
from modeval.text import (
    brief,
    for_github,
    for_github_property,
    for_markdown,
    for_rich,
    no_commands,
    visible,
)

HOSTILE = (
    "\x1b]52;c;aGk=\x07",
    "\x1b[2J",
    "a\n::stop-commands::x",
    "\u202egnp.exe",
    "[/x]",
    r"\[/x]",
    "[red]x",
    "x\r::error::y",
    "\x9b31m",
    "\u2028::error::z",
    "\udc80",
)
ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800-\udfff]")


@settings(deadline=None)
@given(st.text())
def test_visible_text_never_acts_and_is_stable(text):
    shown = visible(text)
    assert not ACTING.search(shown)
    assert "\n" not in shown
    assert visible(shown) == shown
    shown.encode()


@settings(deadline=None)
@given(st.text(alphabet="[]\\/ab=@", max_size=12))
def test_rich_shows_a_name_as_it_is(text):
    shown = render(f"{for_rich(text)} [b]z[/b]").plain  # a last backslash may be doubled
    assert shown.replace("\\", "") == f"{text} z".replace("\\", "")


@settings(deadline=None)
@given(st.text())
def test_a_name_is_one_line_of_github_and_of_markdown(text):
    assert "\n" not in for_github_property(text)
    assert ":" not in for_github_property(text)
    assert "\n" not in for_github(text)
    assert "\n" not in for_markdown(text)
    assert not re.search(r"(?<!\\)[\[\]|<]", re.sub(r"\\\\", "", for_markdown(text)))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("wrap", [Text, for_rich, lambda text: [text]])
def test_a_console_is_a_net_below_all(text, wrap):
    file = io.StringIO()
    PlainConsole(file=file, width=40).print(wrap(text))
    printed = file.getvalue()
    assert not ACTING.search(printed)
    assert not re.search(r"^\s*::", printed, re.MULTILINE)


def test_a_line_that_is_a_command_is_none_any_more():
    assert no_commands("  ::error::x") == "  : :error::x"
    assert no_commands("x ##[error]") == "x # #[error]"
    assert no_commands("time 10::20") == "time 10::20"


def test_a_value_in_a_message_is_never_made_longer_than_shown():
    nested: list = []
    for _ in range(60):
        nested = [nested, nested]
    assert len(brief(nested)) <= 60
    assert len(brief("x" * 10_000_000)) <= 60
    assert brief(10**5000) == "a int"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "ascii"])
def test_streams_that_lack_a_character_print_another(encoding):
    code = (
        "from modeval.cli.console import fit_streams; from modeval.cli.output import stdout\n"
        "fit_streams(); print('a → π █ ▁ 日'); stdout().print('x → y')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={"PYTHONIOENCODING": encoding, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.decode(encoding).splitlines()[1] == "x -> y"
