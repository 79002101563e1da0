"""``modeval demo`` on a smaller scale: what it leaves, says and refuses."""

import shlex

import pytest
from typer.testing import CliRunner

from modeval.cli import demo
from modeval.cli.main import app
from modeval.errors import DependencyError, RunError
from modeval.report import html


@pytest.fixture
def small(monkeypatch):
    for name, value in (("STEPS", 20), ("TASK_SEEDS", 2), ("MODEL_SEEDS", 1), ("PRECISION", 0.1)):
        monkeypatch.setattr(demo, name, value)


def run(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)], env={"COLUMNS": "120"})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_demo_leaves_a_page_and_commands_that_run(tmp_path):
    result = run("--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    page = tmp_path / "demo" / "report.html"
    assert str(page) in result.stdout
    assert "<html" in page.read_text(encoding="utf-8")
    commands = [line for line in result.stdout.splitlines() if line.startswith("  modeval ")]
    assert len(commands) == 4
    for command in commands[:3]:
        again = CliRunner().invoke(app, shlex.split(command)[1:])
        assert again.exit_code == 0, again.output


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_without_what_the_page_needs_the_demo_says_how_to_get_it(tmp_path, monkeypatch):
    def absent(*_):
        raise DependencyError('pip install "modeval-cli[report]"')

    monkeypatch.setattr(html, "render", absent)
    result = run("--out", tmp_path / "demo", "--quiet")
    assert result.exit_code == 0, result.output
    assert 'No page was written: pip install "modeval-cli[report]"' in result.stdout


def test_the_demo_replaces_nothing_but_a_demo(tmp_path):
    (tmp_path / "thesis.tex").touch()
    result = run("--out", tmp_path)
    assert isinstance(result.exception, RunError)
    assert "something else than a demo" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
