"""``modeval train`` as its user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.cli.training.train import plan
from modeval.errors import SpecError
from modeval.spec import RunSpec, from_dict, load_toml
from modeval.train import files, records

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
    assert records.read_run(tmp_path / "four" / "monolithic").model.modules == 1


def test_flags_win_over_the_spec_file_and_the_resolved_spec_repeats_the_run(tmp_path):
    file = tmp_path / "spec.toml"
    file.write_text("[data]\nrules = 2\n[model]\nencoder = 4\nwidth = 8\n[train]\nsteps = 99\n")
    command = ["train", "--spec", file, "--steps", 2, "--seeds", 2, "--engine", "eager"]
    assert modeval(*command, "--out", tmp_path / "a").exit_code == 0
    resolved = tmp_path / "a" / "spec.toml"
    again = modeval("train", "--spec", resolved, "--out", tmp_path / "b", "--engine", "eager")
    assert again.exit_code == 0, again.output
    assert records.read_run(tmp_path / "b") == records.read_run(tmp_path / "a")
    assert records.read_run(tmp_path / "a").train.steps == 2
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
    assert records.read_record(cut).status == "running"
    assert records.read_record(cut).step < 400
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


def test_the_same_command_twice_trains_once(tmp_path):
    command = ["train", "--out", tmp_path / "run", *SMALL, "--steps", 3, "--seeds", 2]
    assert modeval(*command).exit_code == 0
    before = (tmp_path / "run" / "state.safetensors").stat().st_mtime_ns
    for again in (
        command,
        [*command, "--resume"],
        ["train", "--out", tmp_path / "run", "--resume"],
    ):
        result = modeval(*again)
        assert result.exit_code == 0, result.output
        assert "is complete already: nothing was trained" in " ".join(result.output.split())
    assert (tmp_path / "run" / "state.safetensors").stat().st_mtime_ns == before


def test_a_run_goes_on_for_longer_and_with_more_seeds(tmp_path):
    run = tmp_path / "run"
    assert modeval("train", "--out", run, *SMALL, "--steps", 3, "--seeds", 2).exit_code == 0
    longer = modeval("train", "--out", run, "--resume", "--steps", 5, "--seeds", 3, "--json", "-q")
    assert longer.exit_code == 0, longer.output
    [record] = json.loads(longer.stdout)
    assert (record["step"], record["status"], len(record["seeds"])) == (5, "complete", 3)
    assert files.read_network(run).seeds == 3
    result = modeval("train", "--out", run, *SMALL, "--steps", 9, "--seeds", 3, "--resume")
    assert result.exit_code == 0, result.output
    assert records.read_record(run).step == 9


def test_several_runs_go_on_together(tmp_path):
    two = ["train", "--out", tmp_path / "two", "--model", "modular", "gt-modular"]
    assert modeval(*two, *SMALL, "--steps", 3).exit_code == 0
    assert modeval("train", "--out", tmp_path / "two", "--resume", "--steps", 4).exit_code == 0
    steps = [records.read_record(folder).step for folder in records.find_runs(tmp_path)]
    assert steps == [4, 4]


def test_what_differs_from_a_run_is_named_by_setting(tmp_path):
    run = tmp_path / "run"
    assert modeval("train", "--out", run, *SMALL, "--steps", 3, "--seeds", 2).exit_code == 0
    for arguments, message in (
        (["--resume", "--batch", 8], "train.batch is 16 there and 8 here"),
        (["--resume", "--steps", 2], "train.steps is 3 there and 2 here"),
        (["--resume", "--lr", 1], "train.learning_rate is 0.0001 there and 1.0 here"),
        (["--resume", "--seeds", 1], "train.seeds is [[0, 0], [1, 0]] there and [[0, 0]] here"),
        ([*SMALL, "--steps", 9, "--seeds", 2], "or add --resume for more"),
    ):
        assert message in failure("train", "--out", run, *arguments)
    assert "Nothing to resume" in failure("train", "--out", tmp_path / "no", "--resume")


def test_missing_parents_of_a_run_are_made(tmp_path):
    out = tmp_path / "a" / "b" / "run"
    assert modeval("train", "--out", out, *SMALL, "--steps", 1).exit_code == 0
    assert records.read_record(out).status == "complete"
    (tmp_path / "file").touch()
    assert "Cannot make" in failure("train", "--out", tmp_path / "file" / "run", *SMALL)


def test_a_flag_that_denies_the_name_of_the_model_is_refused(tmp_path):
    message = failure("train", "--out", tmp_path / "x", "--model", "modular-op", "--scorer", "none")
    assert "--model modular-op stands for scorer rule, and --scorer says none" in message


def test_models_are_named_by_commas_spaces_or_again(tmp_path):
    for names in (["modular,gt-modular"], ["modular", "gt-modular"], ["modular gt-modular"]):
        result = modeval("train", "--out", tmp_path / "x", "--model", *names, *SMALL, "--steps", 1)
        assert result.exit_code == 0, result.output
        assert len(records.find_runs(tmp_path / "x")) == 2


def test_resuming_a_run_on_a_data_folder_asks_for_that_folder(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    small = ["--rules", 2, "--samples", 64]
    assert modeval("generate", data, "--task", "binary", *small).exit_code == 0
    made = modeval("train", "--out", run, "--data", data, *SMALL[2:], "--steps", 3)
    assert made.exit_code == 0, made.output
    assert "with --data" in failure("train", "--out", run, "--resume")
    again = modeval("train", "--out", run, "--data", data, "--resume", "--steps", 5)
    assert again.exit_code == 0, again.output
    assert records.read_record(run).step == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "fast"], "--learning-rate fast: expected a number"),
        (["--seeds", "1,2,3"], "it counts, --seeds 3 stands for the seeds 0, 1 and 2"),
        (["--rules", "2,4"], "--rules 2,4: expected a whole number"),
        (["--model", "moduler"], 'Did you mean "modular"?'),
        (["--engine", "fusde"], 'Did you mean "fused"?'),
        (["--task", "sets", "--operation", "named"], "Drop --operation, or use --task binary"),
        (["--task", "series", "--search", "product"], "Drop --search, or use --task sets"),
        (["--heads", "4"], "Drop --heads, or use --task sets"),
        (["--best-by", "accuracy"], "or use --objective classification"),
    ],
)
def test_what_new_users_mistype_ends_with_what_to_type(tmp_path, arguments, message):
    assert message in failure("train", "--out", tmp_path / "run", *arguments)


@pytest.mark.parametrize("name", ["train", "generate"])
def test_the_reference_clip_is_said_where_users_look(name, readme):
    help_text = " ".join(modeval(name, "--help").stdout.replace("│", " ").split())
    assert ("1 for series, none for other tasks" in help_text) == (name == "train")
    assert "clip the gradient of each seed at norm 1" in " ".join(readme.split())


def test_progress_on_a_terminal_names_each_model_once(tmp_path):
    """Lines printed beside a live bar must go through its own console, or it is drawn again."""
    small = ["--rules", "2", "--encoder", "4", "--width", "8", "--engine", "eager", "--steps", "3"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "modeval",
            "train",
            "--out",
            tmp_path / "x",
            "--model",
            "all",
            *small,
        ],
        capture_output=True,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "FORCE_COLOR": "1"},
    )
    shown = on_a_terminal(done.stderr.decode())
    for title in ("Monolithic", "Modular-op", "GT-Modular"):
        assert shown.count(title) == 1
    assert shown.count("Wrote ") == 4


def on_a_terminal(stream):
    """Return what stands on a terminal in the end: what is drawn goes over what was there."""
    lines, row = [""], 0
    for part in re.split(r"(\n|\r|\x1b\[[\d;?]*[A-Za-z])", stream):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith(("\x1b", "\r")):
            lines[row] += part
    return "\n".join(lines)


def test_remedies_and_rates_are_flags_that_every_phase_of_a_regime_takes(tmp_path):
    words = ("--regime", "sequential", "--rules", "2", "--steps", "10", "--tilt", "3")
    more = ("--remedy", "balance=0.1", "--remedy", "logits", "--rate", "routers=10")
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path), *words, *more, "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("# phase-")]
    assert len(lines) == 2
    for line in lines:
        assert "rate of routers x 10, remedy balance x 0.1, remedy logits x 0.01" in line
    assert "before: tilt module 0" in lines[0]
    wrong = CliRunner().invoke(app, ["train", "--out", str(tmp_path), "--rate", "routers"])
    assert "as --rate routers=0.1" in str(wrong.exception) + wrong.output
