"""``modeval compare``: scorecards, traces, runs of checkpoints, and wrong requests."""

import json
import shlex
import shutil

import numpy as np
import pytest
from gate_cards import cohort_card, examples
from typer.testing import CliRunner

from modeval.cli import main as program
from modeval.score.stored.files import write_scorecard
from modeval.trace.files import TraceWriter
from modeval.trace.trace import TraceHeader, make_chunk

HEADER = TraceHeader(layers=("a", "b"), modules=(4, 4), choices=(1, 1), labels=("x", "y"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with scorecards and traces of three checkpoints."""
    monkeypatch.chdir(tmp_path)
    for name, shift in (("main.json", 0.0), ("scorecard.json", 0.1)):
        card = cohort_card({"alignment_score": [0.5 + shift, 0.6 + shift, 0.55 + shift]})
        other = cohort_card({"alignment_score": [0.2] * 3}, model="other")
        write_scorecard(tmp_path / name, card + other)
    rng = np.random.default_rng(0)
    tokens = 600
    document = np.arange(tokens) // 6
    label = document % 2
    for step, faithful in ((1000, 0.2), (2000, 0.8), (3000, 1.0)):
        chosen = np.where(rng.random(2 * tokens) < faithful, np.repeat(label, 2), rng.integers(4))
        with TraceWriter(tmp_path / f"step-{step}.trace", HEADER) as writer:
            writer.append(
                make_chunk(
                    layer=np.tile([0, 1], tokens),
                    document=np.repeat(document, 2),
                    position=np.repeat(np.arange(tokens) % 6, 2),
                    label=np.repeat(label, 2),
                    chosen=chosen[:, None],
                )
            )
    for name in ("full.trace", "int4.trace"):
        shutil.copytree(tmp_path / "step-3000.trace", tmp_path / name)
    return tmp_path


def run(command):
    return CliRunner().invoke(program.app, shlex.split(command))


def test_two_scorecards_stand_side_by_side(folder):
    result = run("compare main.json scorecard.json --model modular --json out.json")
    assert result.exit_code == 0, result.output
    assert "+0.100" in result.stdout
    assert "better" in result.stdout
    form = json.loads((folder / "out.json").read_text())
    [lineage] = form["lineages"]
    assert [column["label"] for column in lineage["columns"]] == ["main.json", "scorecard.json"]
    assert lineage["columns"][0]["measured"]["Task"].startswith("4 rules")


def test_checkpoints_have_a_course_and_a_saturation(folder):
    result = run("compare step-1000.trace step-2000.trace step-3000.trace --json out.json")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert any(bar in text for bar in "▁▂▃▄▅▆▇█")
    assert "Saturation:" in text
    [lineage] = json.loads((folder / "out.json").read_text())["lineages"]
    early, late = (found[0]["value"] for found in lineage["saturations"])
    assert early < late < 1
    values = next(
        row["values"]
        for row in lineage["rows"]
        if (row["metric"], row["over"]) == ("alignment_score", "mean")
    )
    assert values[0]["value"] < values[1]["value"] < values[2]["value"] == pytest.approx(1)


def test_the_examples_of_the_help_run(folder):
    found = examples("compare")
    assert len(found) >= 3
    for command in found:
        assert run(command).exit_code == 0, command


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compare main.json --model modular", "There is nothing to compare"),
        ("compare main.json none.json", "No scorecard at none.json"),
        ("compare main.json scorecard.json --model modula", "did you mean modular"),
        ("compare main.json scorecard.json --metric alignment", "did you mean alignment_score"),
        ("compare main.json scorecard.json --json .", "is a folder"),
        (
            "compare main.json step-1000.trace",
            "There is nothing to compare: step-1000.trace has no",
        ),
        ("compare main.json none.counts.safetensors", "There is nothing at none"),
    ],
)
def test_wrong_requests_say_what_to_type(folder, command, message):
    result = run(command)
    assert message in str(result.exception)


def test_two_builds_are_compared_token_by_token_and_can_be_gated(folder):
    asked = ["compare", "step-3000.trace", "step-2000.trace", "--agreement", "agreement.json"]
    done = run(" ".join(asked))
    assert done.exit_code == 0, done.output
    assert "step-2000 against step-3000" in done.stdout
    assert "go to other experts at one layer at least" in " ".join(done.stdout.split())
    gate = ["gate", "agreement.json", "--no-policy", "--min"]
    passed = CliRunner().invoke(program.app, [*gate, "layers.worst.agreement_shared=0.5"])
    assert passed.exit_code == 0, passed.output
    by_kind = [*gate, "agreement.layers.worst.shared=0.99", "--junit", "gate.xml"]
    failed = CliRunner().invoke(program.app, by_kind)
    assert failed.exit_code == 1, failed.output
    written = (folder / "gate.xml").read_text(encoding="utf-8")
    assert "agreement_shared" in written
    assert "<failure" in written
    assert run("report agreement.json --html agreement.html").exit_code == 0
    page = (folder / "agreement.html").read_text(encoding="utf-8")
    assert "Choices shared by two builds" in page
    assert "step-2000 against step-3000" in page


def test_what_a_build_shares_with_itself_stands_beside_what_another_shares(folder):
    asked = "compare step-3000.trace step-2000.trace --again full.trace --agreement agreement.json"
    done = run(asked)
    assert done.exit_code == 0, done.output
    assert "The first build recorded twice shares 100 %" in " ".join(done.stdout.split())
    card = json.loads((folder / "agreement.json").read_text())
    assert any("recorded twice shares 100.00%" in score["note"] for score in card["scores"])
    assert "--again goes with --agreement" in str(
        run("compare step-3000.trace step-2000.trace --again full.trace").exception
    )


def test_agreement_takes_two_traces(folder):
    done = CliRunner().invoke(
        program.app, ["compare", "step-3000.trace", "--agreement", "agreement.json"]
    )
    assert "compares two traces, not 1" in str(done.exception)
    assert not (folder / "agreement.json").exists()
