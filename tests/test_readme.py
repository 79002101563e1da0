"""The manual is true: every command in it runs, in the order in which a reader meets them."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands(text):
    """Return what follows the prompt in the console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def test_the_manual_sets_up_in_two_commands(readme):
    assert "pip install . && modeval demo" in readme
    assert 'pip install -e ".[dev]" && pytest' in readme


def test_the_manual_has_examples(readme):
    assert len(commands(readme)) >= 10


@pytest.mark.slow
def test_every_command_of_the_manual_runs(readme, topics, tmp_path):
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
    }
    for command in commands("\n".join((readme, *topics.values()))):
        assert shlex.split(command)[0] in ("modeval", "python"), command
        needs_model = any(
            word in command for word in ("modeval record", "tiny.trace", "modeval ablate")
        )
        if needs_model and find_spec("transformers") is None:
            continue  # to run the model of fixtures/ takes an extra
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_every_python_example_of_the_manual_runs(readme, topics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n".join((readme, *topics.values()))
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(example, "the manual", "exec"), {})


def test_pictures_of_the_manual_are_there(readme):
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
