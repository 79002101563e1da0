"""The program as a whole: help, versions, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modeval import __version__
from modeval.cli import main as program
from modeval.cli.commands import COMMANDS as PROGRAM
from modeval.errors import RunError

COMMANDS = [
    ["demo"],
    ["generate"],
    ["train"],
    ["score"],
    ["structure"],
    ["ablate"],
    ["compare"],
    ["gate"],
    ["sweep"],
    ["sweep", "plan"],
    ["sweep", "run"],
    ["sweep", "status"],
    ["sweep", "collect"],
    ["sweep", "submit"],
    ["record"],
    ["import"],
    ["trace"],
    ["trace", "info"],
    ["trace", "head"],
    ["trace", "merge"],
    ["trace", "convert"],
    ["report"],
    ["plot"],
    ["findings"],
    ["log"],
    ["metrics"],
    ["systems"],
    ["help"],
    ["docs"],
    ["bench"],
    ["bench", "train"],
    ["bench", "metrics"],
    ["bench", "matching"],
    ["bench", "record"],
    ["bench", "trace"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_explains_itself(command):
    result = CliRunner().invoke(program.app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_stands_in_the_manual(command, readme, topics):
    assert f"modeval {' '.join(command)}" in "\n".join((readme, *topics.values()))


def test_every_command_is_tested():
    assert {*PROGRAM} == {command[0] for command in COMMANDS}


@pytest.mark.parametrize("name", PROGRAM)
def test_the_list_of_commands_says_what_their_own_help_says(name):
    command = PROGRAM[name].load(name)
    assert command.name == name
    assert (command.help or "").split("\n\n")[0] == PROGRAM[name].about


def test_the_version_is_that_of_the_distribution():
    result = CliRunner().invoke(program.app, ["--version"])
    assert result.stdout.strip() == f"modeval {__version__}"


def test_no_arguments_show_the_help_and_unknown_commands_exit_with_two():
    program_name = [sys.executable, "-m", "modeval.cli.main"]
    wrong = subprocess.run([*program_name, "scroe"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "scroe" in wrong.stderr


def exit_code_of(monkeypatch, capsys, raised):
    def fail():
        raise raised

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(SystemExit) as caught:
        program.run()
    return caught.value.code, capsys.readouterr().err


def test_a_users_error_is_one_paragraph_and_code_two(monkeypatch, capsys):
    code, shown = exit_code_of(monkeypatch, capsys, RunError("rules = [0]: expected more."))
    assert code == 2
    assert shown == "error: rules = [0]: expected more.\n"


@pytest.mark.parametrize("words", ["score {}", "report {}", "import {} --out x", "gate {}"])
def test_a_path_that_the_system_refuses_is_a_users_error(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["modeval", *words.format("x" * 5_000).split()])
    with pytest.raises(SystemExit) as stopped:
        program.run()
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "file name too long" in said
    assert "Traceback" not in said


def test_a_program_without_standard_output_runs(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "argv", ["modeval", "metrics"])
    with pytest.raises(SystemExit) as stopped:
        program.run()
    assert stopped.value.code == 0


def test_a_bug_shows_its_traceback_and_code_four(monkeypatch, capsys):
    code, shown = exit_code_of(monkeypatch, capsys, ZeroDivisionError("ours"))
    assert code == 4
    assert "Traceback" in shown
    assert "bug of modeval" in shown


@pytest.mark.parametrize(
    "command", [["metrics"], ["train", "--help"], ["train", "--out", "x", "--dry-run"], ["--help"]]
)
def test_a_reader_that_leaves_early_changes_no_exit_code(command, tmp_path):
    """As ``| head`` does: the command ends with its own code, and without a traceback."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "modeval", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(program.__file__).parents[2])},
    )
    os.close(write)
    words = [line for line in done.stderr.splitlines() if not line.startswith(b"working (")]
    assert (done.returncode, words) == (0, [])  # a busy machine says that it works


def test_a_package_that_a_light_installation_leaves_out_is_named_without_a_traceback(
    monkeypatch, capsys
):
    def without_torch():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(program, "app", without_torch)
    with pytest.raises(SystemExit) as stopped:
        program.run()
    assert stopped.value.code == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "pip install torch" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "words",
    [
        ["score", "nothing"],
        ["structure", "nothing"],
        ["train", "--out", "x", "--model", "moduler"],
    ],
)
def test_an_error_is_all_that_is_said_when_nothing_was_begun(words, monkeypatch, capsys, tmp_path):
    """No empty line and no bar at zero stands before it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["modeval", *words])
    with pytest.raises(SystemExit) as ended:
        program.run()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err.startswith("error: ")
    assert said.out == ""


def test_a_file_in_the_place_of_the_kind_of_a_figure_is_named(tmp_path):
    from modeval.pipeline.plotting import unknown_kind  # noqa: PLC0415 - loads figures

    card = tmp_path / "four.json"
    card.touch()
    assert f"the kind of the figure comes first: modeval plot KIND {card}" in unknown_kind(
        str(card)
    )
    assert unknown_kind("colapse") == "colapse: there is no such figure. Did you mean collapse?"


def test_ctrl_c_ends_in_one_line_and_the_code_of_shells(monkeypatch, capsys):
    def pressed():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["modeval", "systems"])
    for app in (pressed, lambda: sys.exit(130)):
        monkeypatch.setattr(program, "app", app)
        with pytest.raises(SystemExit) as caught:
            program.run()
        assert caught.value.code == 130
        assert capsys.readouterr().err == "Stopped by Ctrl-C. Nothing is left half-written.\n"
