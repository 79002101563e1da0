"""The manual: every topic can be read, every page is whole, a wrong name is one error."""

import re

import pytest
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.cli.manual.topics import topic, topic_names
from modeval.errors import ModevalError, SpecError


@pytest.mark.parametrize("name", topic_names())
def test_a_topic_has_a_title_and_a_text(name):
    page = topic(name)
    assert page.text.startswith(f"# {page.title}\n")
    assert len(page.text) > 100


def test_a_topic_that_is_not_there_names_a_near_one():
    with pytest.raises(SpecError, match="did you mean policies"):
        topic("policys")


def test_the_list_of_topics_names_them_all():
    done = CliRunner().invoke(app, ["help"])
    assert done.exit_code == 0
    assert all(name in done.stdout for name in topic_names())


def test_a_topic_is_printed_as_it_is_where_no_terminal_reads_it():
    done = CliRunner().invoke(app, ["help", "words"])
    assert done.stdout.strip() == topic("words").text.strip()


def test_a_file_is_no_place_for_the_reference_or_for_a_folder_of_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    for command in (
        ["docs", "--out", str(tmp_path / "taken")],
        ["metrics", "--json", str(tmp_path / "taken" / "metrics.json")],
    ):
        assert isinstance(CliRunner().invoke(app, command).exception, ModevalError)
    assert (tmp_path / "taken").read_text() == ""


def test_the_reference_is_one_page_that_loads_nothing(tmp_path):
    done = CliRunner().invoke(app, ["docs", "--out", str(tmp_path / "reference")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', page.split("<main>")[0])
    assert "<script" not in page
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert anchors
    assert all(f'id="{anchor}"' in page for anchor in anchors)
    for words in ("modeval train", "modeval trace merge", "Alignment distance", "modeval.record"):
        assert words in page
