"""The manual's way from a checkpoint to a red build, line by line as a pipeline runs it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from junitparser import JUnitXml

from modeval.cli.exits import Exit
from modeval.gate.policy import from_table

ROOT = Path(__file__).parents[1]


def block(readme, heading, language):
    """Return the first block of a language after a heading."""
    after = readme.split(f"{heading}\n", 1)[1]
    found = re.search(rf"```{language}\n(.*?)```", after, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_recipe_ends_with_a_red_build_that_says_why(readme, tmp_path):
    recipe = block(readme, "## In CI", "sh")
    assert len(recipe.splitlines()) <= 10
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", recipe],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.GATE_FAILED, done.stdout + done.stderr
    assert "Gate failed: 1 failed, 1 passed" in done.stdout
    assert "beyond the margin and beyond the noise" in done.stdout
    read = JUnitXml.fromstring((tmp_path / "gate.xml").read_bytes())
    assert (read.tests, read.failures) == (2, 1)
    assert "❌ fail | `alignment_score drop <= 0.05`" in (tmp_path / "gate.md").read_text()


def test_the_policy_of_the_manual_is_one(topics):
    page = topics["policies"]
    table = tomllib.loads(block(page, page.splitlines()[0], "toml"))["tool"]["modeval"]["gate"]
    assert [str(each) for each in from_table(table, "pyproject.toml").requirements] == [
        "collapse_worst <= 0.2",
        "collapse_worst <= 0.8",
        "layers.worst.dead_fraction <= 0",
        "alignment_score >= 0.6",
        "alignment_score beats chance",
        "alignment_score beats hashed routing",
    ]


def test_the_light_installation_asks_for_no_newer_versions_than_the_package():
    folder = ROOT / ".github" / "actions" / "gate"
    light = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = [line for line in light if line and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(named) <= set(project["dependencies"])
    assert 'modeval" gate' in (folder / "action.yml").read_text(encoding="utf-8")


def test_the_hook_runs_the_gate():
    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    assert "id: modeval-gate" in hooks
    assert "entry: modeval gate" in hooks
    [pattern] = re.findall(r"^  files: (.*)$", hooks, re.MULTILINE)
    assert re.search(pattern, "cards/scorecard-main.json")
    assert not re.search(pattern, "package.json")
