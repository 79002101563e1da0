"""``modeval train`` as its user types it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.cli.train import plan
from modeval.errors import SpecError
from modeval.spec import RunSpec, from_dict, load_toml
from modeval.train import files

SMALL = ["--rules", "2", "--encoder", "4", "--width", "8", "--batch", "16", "--engine", "eager"]


def modeval(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failure(*arguments):
    """Return the message of the error that a command ends with."""
    result = modeval(*arguments)
    assert result.exception is not None, result.output
    return str(result.exception)


def test_several_models_get_a_folder_each(tmp_path):
    result = modeval("train", "--out", tmp_path / "four", "--model", "all", *SMALL, "--steps", 3)
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "four").iterdir())
    assert names == ["gt-modular", "modular", "modular-op", "monolithic"]
    assert files.read_run(tmp_path / "four" / "monolithic").model.modules == 1


def test_flags_win_over_the_spec_file_and_the_resolved_spec_repeats_the_run(tmp_path):
    file = tmp_path / "spec.toml"
    file.write_text("[data]\nrules = 2\n[model]\nencoder = 4\nwidth = 8\n[train]\nsteps = 99\n")
    command = ["train", "--spec", file, "--steps", 2, "--seeds", 2, "--engine", "eager"]
    assert modeval(*command, "--out", tmp_path / "a").exit_code == 0
    resolved = tmp_path / "a" / "spec.toml"
    again = modeval("train", "--spec", resolved, "--out", tmp_path / "b", "--engine", "eager")
    assert again.exit_code == 0, again.output
    assert files.read_run(tmp_path / "b") == files.read_run(tmp_path / "a")
    assert files.read_run(tmp_path / "a").train.steps == 2
    first, second = (load_file(tmp_path / run / "last.safetensors") for run in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_dry_run_prints_a_spec_that_reads_back(tmp_path):
    result = modeval("train", "--out", tmp_path / "x", "--dry-run", "--rules", 8, "--seeds", 25)
    path = tmp_path / "printed.toml"
    path.write_text(result.stdout)
    spec = from_dict(RunSpec, load_toml(path))
    assert len(spec.train.seeds) == 25
    assert spec.train.seeds[:6] == ((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (0, 1))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "binar"], 'Did you mean "binary"?'),
        (["--model", "modula"], "expected one of monolithic"),
        (["--width", "3"], "leaves no unit for each of 4 modules"),
        (["--rules", "0"], "rules = 0"),
        (["--steps", "-1"], "steps = -1"),
        (["--model", "gt-modular", "--modules", "8"], "one module for each of the 4 rules"),
        (["--operation", "named", "--rules", "8"], "named operations"),
        (["--task", "sets", "--width", "7"], "leaves nothing for each of 2 heads"),
        (["--rule-probabilities", "0.5,0.6,0.1,0.1"], "sum to 1.3"),
        (["--rule-probabilities", "a,b"], "expected numbers"),
        (["--device", "tpu"], "expected auto, cpu, cuda"),
        (["--engine", "warp"], "expected one of auto"),
        (["--seeds", "7", "--task-seeds", "2", "--model-seeds", "3"], "Give two of the three"),
        (["--spec", "absent.toml"], "No spec file"),
        (["--milestones", "5"], "schedule constant does not read it"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(tmp_path, arguments, message):
    assert message in failure("train", "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_unknown_settings_in_a_file_are_refused_by_name():
    with pytest.raises(SpecError, match="Did you mean learning_rate"):
        plan({"train": {"learningrate": 1.0}}, ["modular"], None)


def test_an_error_is_one_paragraph_and_exit_code_two(tmp_path):
    command = [sys.executable, "-m", "modeval.cli.main", "train", "--out", tmp_path, "--rules", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: rules = 0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    arguments = [*SMALL, "--seeds", "3", "--steps", "400", "--validate-every", "20"]
    program = [sys.executable, "-m", "modeval.cli.main", "train", "--quiet", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*program, "--out", tmp_path / "whole"], check=True, env=environment)
    cut = tmp_path / "cut"
    victim = subprocess.Popen([*program, "--out", cut], env=environment)
    deadline = time.monotonic() + 120
    while not (cut / "state.safetensors").exists():
        assert time.monotonic() < deadline
        assert victim.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert files.read_record(cut).status == "running"
    assert files.read_record(cut).step < 400
    again = [*program[:5], "--out", cut, "--resume"]  # the folder knows the settings
    subprocess.run(again, check=True, env=environment)
    for name in ("last.safetensors", "best.safetensors"):
        whole, resumed = (load_file(folder / name) for folder in (tmp_path / "whole", cut))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (cut / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def test_what_came_of_each_run_as_json(tmp_path):
    command = ["train", "--out", tmp_path / "two", "--model", "modular", "--model", "gt-modular"]
    result = modeval(*command, *SMALL, "--steps", 3, "--seeds", 2, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert [first["name"], second["name"]] == ["modular", "gt-modular"]
    assert first["folder"] == str(tmp_path / "two" / "modular")
    assert (first["status"], first["step"], first["diverged"]) == ("complete", 3, [None, None])
    assert first["seeds"] == [{"task": 0, "model": 0}, {"task": 1, "model": 0}]


def test_resuming_takes_the_settings_from_the_folder_and_refuses_others(tmp_path):
    run = tmp_path / "run"
    assert modeval("train", "--out", run, *SMALL, "--steps", 3, "--seeds", 2).exit_code == 0
    assert "complete already" in failure("train", "--out", run, "--resume")
    assert "holds another run" in failure("train", "--out", run, "--resume", "--steps", 9)
    assert "Nothing to resume" in failure("train", "--out", tmp_path / "no", "--resume")


def test_resuming_a_run_on_a_data_folder_asks_for_that_folder(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    small = ["--rules", 2, "--samples", 64]
    assert modeval("generate", data, "--task", "binary", *small).exit_code == 0
    made = modeval("train", "--out", run, "--data", data, *SMALL[2:], "--steps", 3)
    assert made.exit_code == 0, made.output
    assert "with --data" in failure("train", "--out", run, "--resume")
    assert "complete already" in failure("train", "--out", run, "--data", data, "--resume")
