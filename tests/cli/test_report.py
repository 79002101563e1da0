"""modeval report and modeval plot: from files to the screen, a page, a figure."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import report_cards as cards
import typer
from gate_cards import examples
from rich.console import Console
from typer.testing import CliRunner

from modeval.cli import output, plot, report
from modeval.errors import ModevalError
from modeval.pipeline import plotting
from modeval.report.paper_figures import CURVES, KINDS
from modeval.report.table_formats import TABLES
from modeval.score.scorecard import Scorecard
from modeval.score.stored.files import write_scorecard
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec
from modeval.train import files, records

app = typer.Typer(rich_markup_mode="rich")
app.command("report")(report.report_command)
app.command("plot")(plot.plot_command)


def run(*arguments: object) -> str:
    """Run a command; errors that a user sees are raised."""
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, texts, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: object) -> str:
    with pytest.raises(ModevalError) as error:
        run(*arguments)
    return str(error.value)


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card.json"
    write_scorecard(path, cards.paper())
    return path


@pytest.fixture
def deep(tmp_path):
    path = tmp_path / "deep.json"
    write_scorecard(path, cards.trace())
    return path


def write_run(folder, losses, rules=2):
    """Write a run folder with a log."""
    spec = RunSpec(data=DataSpec(rules=rules), model=ModelSpec(), train=TrainSpec(seeds=((0, 0),)))
    files.start_folder(folder, spec)
    record = records.RunRecord(
        digest=spec.digest,
        status="complete",
        step=len(losses),
        engine="eager",
        data="",
        diverged=(None,),
        versions={},
    )
    files.write_record(folder, record)
    for step, loss in enumerate(losses, start=1):
        entry = {"step": step, "learning_rate": 0.1, "loss": [loss], "validation_loss": [loss]}
        files.append_log(folder, entry)


# --- report --------------------------------------------------------------------------------------


def test_a_saved_scorecard_is_printed_as_it_was_scored(card, deep):
    text = run("report", card)
    assert "2 rules · linear operations on two numbers · regression" in text
    assert "Alignment distance ↓" in text
    assert "OLMoE" in run("report", deep)


def test_several_scorecards_are_printed_under_their_names(card, deep):
    text = run("report", card, deep)
    assert text.index("card.json") < text.index("Alignment") < text.index("deep.json")
    assert run("report", card, "--quiet") == ""


def test_a_page_is_written_whole_and_the_same_each_time(card, deep, tmp_path):
    page = tmp_path / "report.html"
    assert "Wrote" in run("report", card, deep, "--html", page)
    first = page.read_bytes()
    assert first.startswith(b"<!doctype html>")
    assert first.rstrip().endswith(b"</html>")
    assert str(card).encode() in first
    assert run("report", card, deep, "--html", page, "--quiet") == ""
    assert page.read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"card.json", "deep.json", "report.html"}


def test_what_cannot_be_reported_is_refused(card, tmp_path):
    assert "modeval score RUN" in refusal("report", tmp_path / "none.json")
    assert f"modeval score {tmp_path}" in refusal("report", tmp_path)
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    assert "is not a scorecard" in refusal("report", tmp_path / "other.json")
    assert "is the scorecard itself" in refusal("report", card, "--html", card)
    assert "--html" in refusal("report", card, "--html", tmp_path)
    assert "is no folder" in refusal("report", card, "--html", card / "none" / "a.html")
    json.loads(card.read_text(encoding="utf-8"))  # it is still there


def test_a_scorecard_without_models_leaves_no_page(tmp_path):
    write_scorecard(tmp_path / "empty.json", Scorecard())
    message = refusal("report", tmp_path / "empty.json", "--html", tmp_path / "a.html")
    assert "no model to report on" in message
    assert not (tmp_path / "a.html").exists()


# --- plot ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures_are_written_by_their_suffix(card, suffix, tmp_path):
    out = tmp_path / f"figure.{suffix.upper()}"
    run("plot", "ranking", card, "--out", out, "--dpi", 60)
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert out.read_bytes().startswith(starts[suffix])


def test_every_kind_is_drawn_and_stands_in_the_help(card, deep, tmp_path):
    write_run(tmp_path / "run", [0.5, 0.2, 0.1])
    phased = tmp_path / "phased.json"
    write_scorecard(phased, cards.with_course(cards.paper()))
    text = re.sub(r"\s+", " ", CliRunner().invoke(app, ["plot", "--help"]).output)
    summaries = {name: kind.summary for name, kind in KINDS.items()} | {"curves": CURVES}
    for kind, summary in summaries.items():
        assert f"{kind} {summary}" in text
        source = {"curves": tmp_path / "run", "layers": deep, "course": phased}.get(kind, card)
        run("plot", kind, source, "--out", tmp_path / f"{kind}.svg", "--quiet")
        assert (tmp_path / f"{kind}.svg").stat().st_size > 2_000


def test_width_metric_and_model_choose_what_is_drawn(card, tmp_path):
    out = tmp_path / "a.svg"
    common = ("plot", "ranking", card, "--out", out, "--metric", "collapse_worst", "--quiet")
    run(*common, "--width", "double")
    assert 'width="504pt"' in out.read_text(encoding="utf-8")
    run(*common, "--width", "5")
    whole = out.read_text(encoding="utf-8")
    assert 'width="360pt"' in whole
    run(*common, "--width", "5", "--model", "modular-op*")
    assert len(out.read_text(encoding="utf-8")) < len(whole)


def test_curves_are_read_from_logs(tmp_path):
    write_run(tmp_path / "runs" / "a", [0.5, 0.2], rules=2)
    write_run(tmp_path / "runs" / "b", [0.6, 0.3], rules=4)
    first, second = plotting.read_curves([tmp_path / "runs"])
    assert (first.name, first.task) == ("Modular", "2 rules, binary, regression")
    assert second.values.tolist() == [[0.6, 0.3]]
    assert second.steps.tolist() == [1.0, 2.0]
    run("plot", "curves", tmp_path / "runs", "--out", tmp_path / "a.pdf", "--quiet")


def test_curves_of_routing_scores_are_drawn_where_a_run_has_them(tmp_path):
    for name, scores in (("routed", {"collapse_worst": [0.25]}), ("dense", {})):
        write_run(tmp_path / "runs" / name, [0.5, 0.2])
        log = tmp_path / "runs" / name / records.LOG
        entries = [json.loads(line) | scores for line in log.read_text().splitlines()]
        entries[-1] |= {"churn": [0.75]} if scores else {}
        log.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    collapse, churn = plotting.read_curves([tmp_path / "runs"], ["collapse_worst", "churn"])
    assert (collapse.metric, collapse.values.tolist()) == ("collapse_worst", [[0.25, 0.25]])
    assert (churn.steps.tolist(), churn.values.tolist()) == ([2.0], [[0.75]])
    out = tmp_path / "a.csv"
    asked = ("plot", "curves", tmp_path / "runs", "--metric", "collapse_worst")
    run(*asked, "--metric", "validation_loss", "--out", out, "--quiet")
    assert "Collapse (worst)" in out.read_text()
    run(*asked, "--metric", "churn", "--out", tmp_path / "a.svg", "--quiet")
    assert "Router churn" in (tmp_path / "a.svg").read_text()
    with pytest.raises(ModevalError, match=r"do not tell it.* Name one of .*collapse_worst"):
        run("plot", "curves", tmp_path / "runs", "--metric", "alignment_score", "--out", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rankng", "card.json", "--out", "a.pdf"), "Did you mean ranking?"),
        (("xyz", "card.json", "--out", "a.pdf"), "Expected one of ranking"),
        (("ranking", "card.json", "--out", "a.gif"), "Use --out a.pdf"),
        (("ranking", "card.json", "--out", "a"), "Use --out a.pdf"),
        (("ranking", "card.json", "--out", "a.pdf", "--width", "wide"), "--width single"),
        (("ranking", "card.json", "--out", "a.pdf", "--width", "nan"), "--width single"),
        (
            ("ranking", "card.json", "--out", "a.pdf", "--model", "zz"),
            "There are gt-modular-r2-x32",
        ),
        (("ranking", "card.json", "--out", "a.pdf", "--metric", "zz"), "there are"),
        (("ranking", ".", "--out", "a.pdf"), "modeval score . --json"),
        (("ranking", "none.json", "--out", "a.pdf"), "No scorecard at none.json"),
        (("curves", "card.json", "--out", "a.pdf"), "modeval plot curves . --out"),
        (("curves", ".", "--out", "a.pdf"), "holds no run of modeval train"),
        (("ranking", "card.json", "--out", "card.json/none/a.pdf"), "is no folder"),
        (("layers", "card.json", "--out", "a.pdf"), "several routed layers"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_left(
    arguments, message, card, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in refusal("plot", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


# --- standard output, folders and pipes ----------------------------------------------------------


def test_a_table_goes_to_standard_output_or_a_file_in_a_folder_that_is_made(card, tmp_path):
    text = run("report", card, "--format", "csv", "--table", "scores")
    assert text.startswith("table,Score,Model")
    out = tmp_path / "new" / "folder" / "scores.csv"
    assert "Wrote" in run("report", card, "--format", "csv", "--table", "scores", "--out", out)
    assert out.read_text(encoding="utf-8") == text
    assert run("report", card, "--format", "html", "--out", "-").startswith("<!doctype html>")
    assert not (tmp_path / "-").exists()


def test_a_pattern_means_the_same_for_a_report_and_a_figure(card, tmp_path):
    text = run("report", card, "--model", "modular-op*", "--format", "csv")
    assert "Modular-op" in text
    assert "GT-Modular" not in text
    for command in (("report", card), ("plot", "ranking", card, "--out", tmp_path / "a.svg")):
        assert "did you mean" in refusal(*command, "--model", "gt-modulr-r2-x32")


def test_the_text_of_a_report_can_be_written_too(deep, tmp_path):
    run("report", deep, "--out", tmp_path / "report.txt", "--quiet")
    assert "Next: " in (tmp_path / "report.txt").read_text(encoding="utf-8")


PIPED = """
import sys
from modeval.cli import main
sys.argv = ["modeval", *{arguments!r}]
main.run()
"""


@pytest.mark.slow
def test_a_reader_that_stops_early_changes_no_exit_code(card):
    arguments = ["report", str(card)]
    command = [sys.executable, "-c", PIPED.format(arguments=arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # nobody reads, as when head has had enough
        said = process.stderr.read()
        assert process.wait() == 0, said
    assert b"Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["report", "card.json"], ["compare", "card.json"]])
def test_scorecards_are_shown_without_torch(arguments, card, monkeypatch):
    monkeypatch.chdir(card.parent)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.argv = {['modeval', *arguments]!r}\n"
        "from modeval.cli.main import run\nrun()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Alignment" in done.stdout


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_printed_while_a_terminal_shows_a_bar_goes_through_it(terminal, monkeypatch):
    monkeypatch.setattr(Console, "is_terminal", terminal)
    with output.progress_bar() as bar:
        task = bar.add_task("Work", total=2, note="")
        assert output.stderr() is not bar.console  # not drawn before something is done
        bar.advance(task)
        assert (output.stderr() is bar.console) == terminal
    assert output.stderr() is not bar.console


def test_every_table_and_kind_stands_in_the_help():
    shown = re.sub(r"\s+", " ", CliRunner().invoke(app, ["report", "--help"]).output)
    assert all(f" {name} " in shown for name in TABLES)


@pytest.mark.parametrize("command", [line for line in examples("report") if "html" not in line])
def test_the_examples_of_the_help_run(command, card, monkeypatch):
    monkeypatch.chdir(card.parent)
    card.rename("scorecard.json")
    shutil.copy("scorecard.json", "main.json")
    run(*shlex.split(command))
