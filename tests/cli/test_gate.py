"""``modeval gate``: exit codes, files, flags against policy files, and wrong requests."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from gate_cards import cohort_card, examples, trace_card
from typer.testing import CliRunner

from modeval.cli import main as program
from modeval.cli.exits import Exit
from modeval.cli.gate import exit_code
from modeval.errors import ModevalError
from modeval.gate.gate import gate
from modeval.gate.policy import from_table
from modeval.score.stored.files import write_scorecard

runner = CliRunner()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with scorecards, which commands run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    good = {"collapse_worst": [0.1, 0.2, 0.15], "alignment_score": [0.8, 0.7, 0.9]}
    write_scorecard(tmp_path / "good.json", cohort_card(good, p_value=0.005))
    write_scorecard(tmp_path / "main.json", cohort_card(good))
    bad = {"collapse_worst": [0.6, 0.7, 0.51], "alignment_score": [0.2, 0.11, 0.3]}
    write_scorecard(tmp_path / "bad.json", cohort_card(bad))
    write_scorecard(tmp_path / "trace.json", trace_card({"collapse_worst": [0.1, 0.5]}))
    return tmp_path


def run(command):
    return runner.invoke(program.app, shlex.split(command))


def code_of(command):
    result = run(command)
    if isinstance(result.exception, ModevalError):
        return Exit.USER_ERROR  # what the entry point makes of it
    return result.exit_code


NARROW = "--max collapse_worst=0.16 --on bound"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("gate good.json --max collapse_worst=0.2", Exit.OK),
        ("gate bad.json --max collapse_worst=0.2", Exit.GATE_FAILED),
        ("gate good.json bad.json --max collapse_worst=0.2", Exit.GATE_FAILED),
        (f"gate good.json {NARROW}", Exit.INCONCLUSIVE),
        (f"gate good.json {NARROW} --inconclusive 3", Exit.INCONCLUSIVE),
        (f"gate good.json {NARROW} --inconclusive pass", Exit.OK),
        (f"gate good.json {NARROW} --inconclusive fail", Exit.GATE_FAILED),
        (f"gate good.json bad.json {NARROW} --inconclusive pass", Exit.GATE_FAILED),
        ("gate good.json --min v_measure=0.2", Exit.USER_ERROR),
        ("gate bad.json --min v_measure=0.2 --max collapse_worst=0.2", Exit.USER_ERROR),
        ("gate good.json --min collapse_worst=0.2", Exit.USER_ERROR),
        ("gate good.json --max colapse_worst=0.2", Exit.USER_ERROR),
        ("gate good.json", Exit.USER_ERROR),
        ("gate none.json --max collapse_worst=0.2", Exit.USER_ERROR),
        ("gate", Exit.USER_ERROR),
        ("gate good.json --maximum collapse_worst=0.2", Exit.USER_ERROR),
        ("gate bad.json --baseline good.json --max-drop alignment_score=0.05", Exit.GATE_FAILED),
        ("gate good.json --baseline main.json --max-drop alignment_score=0", Exit.OK),
        ("gate good.json --baseline good.json --max-drop alignment_score=0", Exit.USER_ERROR),
        ("gate good.json --baseline trace.json --max-drop alignment_score=0", Exit.USER_ERROR),
        ("gate good.json --significant alignment_score", Exit.OK),
        ("gate trace.json --max layers.worst.collapse_worst=0.2", Exit.GATE_FAILED),
        ("gate trace.json --max layers.0.collapse_worst=0.2", Exit.OK),
    ],
)
def test_exit_codes_are_those_of_the_manual(folder, command, code):
    assert code_of(command) == code


def test_a_bug_of_ours_ends_with_four(monkeypatch, capsys):
    def broken():
        raise RuntimeError("ours")

    monkeypatch.setattr(program, "app", broken)
    with pytest.raises(SystemExit) as caught:
        program.run()
    assert caught.value.code == Exit.INTERNAL_ERROR
    assert "internal error" in capsys.readouterr().err


@pytest.mark.parametrize("inconclusive", ["pass", "fail", "3"])
def test_what_cannot_be_checked_never_passes(inconclusive):
    card = cohort_card({"collapse_worst": [None, None]})
    table = {"max": {"collapse_worst": 0.99}, "inconclusive": inconclusive}
    assert exit_code(gate([("card.json", card)], from_table(table, "x"))) == Exit.USER_ERROR


def test_the_manual_lists_every_exit_code(readme):
    table = readme.split("| exit code | meaning |")[1].split("\n\n")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [*Exit]


# --- files ---------------------------------------------------------------------------------------


def test_all_formats_are_written_in_one_run(folder):
    result = run(
        "gate good.json bad.json --max collapse_worst=0.2 --json g.json --junit g.xml "
        "--markdown g.md --sarif g.sarif --github"
    )
    assert result.exit_code == Exit.GATE_FAILED
    assert json.loads((folder / "g.json").read_text())["exit_code"] == Exit.GATE_FAILED
    assert (folder / "g.xml").read_text().startswith("<?xml")
    assert (folder / "g.md").read_text().startswith("## Gate failed: 1 failed, 1 passed")
    assert json.loads((folder / "g.sarif").read_text())["version"] == "2.1.0"
    assert result.stdout.count("\n::error ") == 1
    assert "Gate failed: 1 failed, 1 passed" in result.stdout


def test_quiet_says_why_it_failed_in_one_line(folder):
    result = run("gate bad.json --max collapse_worst=0.2 -q")
    assert result.stdout == ""
    assert result.stderr == (
        "Gate failed: 1 failed. collapse_worst <= 0.2: Modular: 0.6033 is above 0.2\n"
    )
    lines = run("gate bad.json --max collapse_worst=0.2 -q --github").stdout.splitlines()
    assert [line[:8] for line in lines] == ["::error ", "::notice"]
    passed = run("gate good.json --max collapse_worst=0.2 -q")
    assert passed.output == ""


def test_a_hyphen_is_standard_output_and_verdicts_for_people_go_aside(folder):
    result = run("gate good.json --max collapse_worst=0.2 --json -")
    assert json.loads(result.stdout)["outcome"] == "pass"
    assert "Gate passed" in result.stderr
    assert not (folder / "-").exists()


def test_an_empty_name_asks_for_nothing_and_folders_are_made(folder):
    result = run("gate good.json --max collapse_worst=0.2 --markdown '' --badge out/new/badge.json")
    assert result.exit_code == Exit.OK
    assert "--markdown names no file" in result.stderr
    assert json.loads((folder / "out/new/badge.json").read_text())["message"] == "1 passed"


def test_a_history_grows_by_a_line_with_each_run(folder, monkeypatch):
    monkeypatch.setenv("CI_COMMIT_SHA", "abc123")
    for _ in range(2):
        run("gate good.json --max collapse_worst=0.2 --history out/history.jsonl -q")
    lines = (folder / "out/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["commit"] for line in lines] == ["abc123", "abc123"]
    assert json.loads(lines[0])["values"][0]["value"] == pytest.approx(0.15)


def test_annotations_name_the_line_of_the_policy(folder):
    (folder / "gate.toml").write_text("# limits\n[max]\ncollapse_avg = 0.9\ncollapse_worst = 0.2\n")
    result = run("gate bad.json --policy gate.toml --github")
    assert "::error file=gate.toml,line=4,title=" in result.stdout


def test_a_gate_loads_no_torch(folder):
    code = (
        "import sys; from modeval.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: sys.exit(10 * ('torch' in sys.modules) + int(end.code or 0))"
    )
    command = "gate trace.json --max collapse_worst=0.6 --json g.json --junit g.xml --markdown g.md"
    more = (
        "--sarif g.sarif --gitlab q.json --badge b.json --comment c.md --history h.jsonl --github"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(command), *shlex.split(more)], check=False
    )
    assert done.returncode == Exit.OK


def test_markdown_is_added_to_the_summary_of_a_build_and_replaces_any_other_file(
    folder, monkeypatch
):
    for name in ("summary.md", "other.md"):
        (folder / name).write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    for name in ("summary.md", "other.md"):
        assert run(f"gate good.json --max collapse_worst=0.2 --markdown {name}").exit_code == 0
    assert (folder / "summary.md").read_text().startswith("before\n## Gate passed")
    assert (folder / "other.md").read_text().startswith("## Gate passed")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--json good.json/g.json", "Cannot write good.json/g.json: not a directory"),
        ("--junit .", "is a folder, and --junit needs the name of a file: --junit gate.xml"),
        ("--json g --junit g", "--json and --junit both name g"),
    ],
)
def test_places_that_cannot_be_written_are_refused_first(folder, flags, message):
    result = run(f"gate none.json --max collapse_worst=0.2 {flags}")
    assert message in str(result.exception)


# --- policies ------------------------------------------------------------------------------------


def test_flags_win_over_the_policy_and_add_to_it(folder):
    (folder / "gate.toml").write_text("max.collapse_worst = 0.1\nmin.alignment_score = 0.5\n")
    assert code_of("gate good.json --policy gate.toml") == Exit.GATE_FAILED
    assert code_of("gate good.json --policy gate.toml --max collapse_worst=0.3") == Exit.OK
    result = run("gate good.json --policy gate.toml --max collapse_worst=0.3")
    assert "Gate passed: 2 passed" in result.stdout
    assert "Policy: gate.toml" in result.stdout


def test_the_policy_of_pyproject_is_found(folder):
    path = folder / "pyproject.toml"
    path.write_text("[project]\nname = 'x'\n")
    assert code_of("gate good.json") == Exit.USER_ERROR
    path.write_text(
        '[tool.modeval.gate]\nbaseline = "main.json"\nmax_drop.alignment_score = 0.05\n'
    )
    assert code_of("gate good.json") == Exit.OK
    assert code_of("gate bad.json") == Exit.GATE_FAILED
    assert code_of("gate bad.json --no-policy --max collapse_worst=0.9") == Exit.OK
    assert code_of("gate bad.json --no-policy --policy x.toml") == Exit.USER_ERROR


def test_on_of_the_flags_holds_for_all(folder):
    (folder / "gate.toml").write_text("max.collapse_worst = 0.16\n")
    assert code_of("gate good.json --policy gate.toml") == Exit.OK
    assert code_of("gate good.json --policy gate.toml --on bound") == Exit.INCONCLUSIVE
    assert code_of("gate good.json --policy gate.toml --on both") == Exit.USER_ERROR


def test_models_are_named_by_pattern(folder):
    card = cohort_card({"collapse_worst": [0.1] * 3}, model="gt-modular") + cohort_card(
        {"in_distribution_loss": [0.1] * 3}, model="monolithic"
    )
    write_scorecard(folder / "both.json", card)
    assert code_of("gate both.json --max collapse_worst=0.2") == Exit.USER_ERROR
    assert code_of("gate both.json --max collapse_worst=0.2 --model 'gt-*'") == Exit.OK
    result = run("gate both.json --max collapse_worst=0.2 --model other")
    assert "There are gt-modular, monolithic" in str(result.exception)


def test_failed_seeds_are_left_out_on_purpose_only(folder):
    card = cohort_card({"collapse_worst": [None, 0.1, 0.1]}, failed=1)
    write_scorecard(folder / "failed.json", card)
    assert code_of("gate failed.json --max collapse_worst=0.2") == Exit.USER_ERROR
    command = "gate failed.json --max collapse_worst=0.2 --failed-seeds"
    assert code_of(f"{command} ignore") == Exit.OK
    assert code_of(f"{command} drop") == Exit.USER_ERROR


def test_a_damaged_scorecard_is_one_message(folder):
    text = (folder / "good.json").read_text()
    (folder / "cut.json").write_text(text[: len(text) // 2])
    done = subprocess.run(
        [sys.executable, "-m", "modeval.cli.main", "gate", "cut.json", "--max", "load_cv=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.USER_ERROR
    said = [line for line in done.stderr.splitlines() if not line.startswith("working (")]
    assert said[0].startswith("error: cut.json cannot be read as JSON")
    assert "Traceback" not in done.stderr


# --- a real trace --------------------------------------------------------------------------------

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.slow
def test_a_router_that_lost_its_training_fails_against_the_trained_one(folder):
    for name in ("tiny-moe", "tiny-moe-untrained"):
        source = FIXTURES / f"{name}.counts.safetensors"
        assert run(f"score {source} --json {name}.json -q").exit_code == Exit.OK
    check = "--max-drop alignment_score=0.02 --max-drop layers.each.v_measure=0.01"
    named = f"--baseline-model tiny-moe {check}"
    lost = run(f"gate tiny-moe-untrained.json --baseline tiny-moe.json {named} --json g.json")
    assert lost.exit_code == Exit.GATE_FAILED, lost.output
    found = json.loads((folder / "g.json").read_text())["verdicts"]
    assert {verdict["outcome"] for verdict in found} == {"fail"}
    assert [verdict["layer_name"] for verdict in found[1:]] == [
        f"model.layers.{layer}.mlp.gate" for layer in range(4)
    ]
    (folder / "main.json").write_bytes((folder / "tiny-moe.json").read_bytes())
    assert code_of(f"gate tiny-moe.json --baseline main.json {check}") == Exit.OK
    assert code_of("gate tiny-moe.json --significant mutual_information") == Exit.OK
    assert code_of("gate tiny-moe.json --max modules.worst.share=0.5") == Exit.OK
    assert code_of("gate tiny-moe.json --max modules.worst.share=0.2") == Exit.GATE_FAILED


def test_a_baseline_of_an_earlier_version_can_be_kept(folder):
    form = json.loads((folder / "main.json").read_text())
    for score in form["scores"]:
        del score["error"], score["p_value"], score["chance_permuted"]
    for model in form["models"]:
        del model["left_out"], model["warnings"]
    del form["findings"]
    (folder / "main.json").write_text(json.dumps(form))
    command = "gate good.json --baseline main.json --max-drop alignment_score=0.05"
    assert code_of(command) == Exit.OK


# --- help ----------------------------------------------------------------------------------------


def test_the_examples_of_the_help_run(folder):
    values = {
        "collapse_avg": [0.01] * 5,
        "collapse_worst": [0.02] * 5,
        "alignment_score": [0.9] * 5,
    }
    card = cohort_card(values, model="gt-modular", p_value=0.005)
    for name in ("scorecard.json", "main.json"):
        write_scorecard(Path(name), card)
    Path("gate.toml").write_text("max.collapse_worst = 0.2\n")
    found = examples("gate")
    assert len(found) >= 5
    for command in found:
        assert code_of(command) == Exit.OK, command
