"""The commands around traces: what they print, where, and how they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from modeval.cli.bench.trace import bench_trace_command
from modeval.cli.import_trace import import_command
from modeval.cli.trace import trace
from modeval.errors import ModevalError, SpecError, TraceError
from modeval.trace.counts import load_counts
from modeval.trace.files import open_trace

pytest.importorskip("pyarrow", reason="traces are Parquet files")

app = typer.Typer()
app.add_typer(trace, name="trace")
app.command("import")(import_command)
app.command("bench")(bench_trace_command)


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ModevalError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    text = "layer,chosen,label,document\n0,3 1,code,0\n1,2 0,code,0\n0,1 2,prose,1\n1,3 2,prose,1\n"
    (tmp_path / "rows.csv").write_text(text)
    return tmp_path / "rows.csv"


@pytest.fixture
def folder(rows: Path, tmp_path: Path) -> Path:
    run("import", rows, "--out", tmp_path / "x.trace", "--modules", 4, "--model", "tiny")
    return tmp_path / "x.trace"


def test_import_says_what_it_found_and_what_it_assumed(rows: Path, tmp_path: Path) -> None:
    result = run("import", rows, "--out", tmp_path / "y.trace")
    assert "4 rows of format csv" in result.stdout
    assert "code, prose" in result.stdout
    assert "--modules N" in " ".join(result.stderr.split())
    assert open_trace(tmp_path / "y.trace").rows == 4


def test_quiet_commands_print_notes_alone(rows: Path, folder: Path, tmp_path: Path) -> None:
    imported = run("import", rows, "--out", tmp_path / "y.trace", "--quiet")
    assert imported.stdout == ""
    assert "--modules N" in " ".join(imported.stderr.split())
    merged = run("trace", "merge", folder, folder, "--out", tmp_path / "z.trace", "-q")
    assert merged.stdout == ""
    assert "copies" in merged.stderr
    out = tmp_path / "x.csv"
    assert run("trace", "convert", folder, "--out", out, "-q").stdout == ""


def test_a_table_that_may_hold_choices_or_counts_is_asked_about_both(tmp_path: Path) -> None:
    table = tmp_path / "log.csv"
    table.write_text("document,label,layer,expert\n0,a,0,3\n0,a,1,2\n1,b,0,1\n1,b,1,0\n")
    with pytest.raises(TraceError, match="Where each row is one choice: --columns chosen=expert"):
        run("import", table, "--out", tmp_path / "x.trace")
    run("import", table, "--out", tmp_path / "x.trace", "--columns", "chosen=expert")
    assert open_trace(tmp_path / "x.trace").rows == 4


def test_import_lists_its_formats() -> None:
    names = {line.split()[0] for line in run("import", "--list").stdout.splitlines()}
    assert {"vllm", "sglang-stat", "megatron-trace", "olmoe-counts", "flame", "csv"} <= names


def test_import_without_a_source_says_what_to_type() -> None:
    with pytest.raises(SpecError, match="modeval import SOURCE"):
        run("import")


def test_labels_can_be_renamed_by_a_file(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"code": "Python"}')
    out = tmp_path / "y.trace"
    run("import", rows, "--out", out, "--labels", tmp_path / "labels.json")
    assert open_trace(out).header.labels == ("Python", "prose")
    (tmp_path / "labels.json").write_text('["code"]')
    with pytest.raises(SpecError, match="expected a JSON object"):
        run("import", rows, "--out", out, "--labels", tmp_path / "labels.json")


def test_info_describes_a_trace(folder: Path) -> None:
    result = run("trace", "info", folder)
    assert "4 in 1 part," in result.stdout
    assert "2: layers.0, layers.1" in result.stdout
    assert json.loads(run("trace", "info", folder, "--json").stdout)["modules"] == [4, 4]


def test_info_says_when_a_trace_is_only_a_prefix(folder: Path) -> None:
    (folder / "complete.json").unlink()
    assert "is incomplete" in " ".join(run("trace", "info", folder).stderr.split())


def test_head_prints_rows_with_names(folder: Path) -> None:
    lines = [
        json.loads(line) for line in run("trace", "head", folder, "--rows", 2).stdout.splitlines()
    ]
    assert lines == [
        {"layer": "layers.0", "chosen": [3, 1], "document": 0, "label": "code"},
        {"layer": "layers.1", "chosen": [2, 0], "document": 0, "label": "code"},
    ]


def test_merge_adds_the_rows_of_traces(folder: Path, tmp_path: Path) -> None:
    result = run("trace", "merge", folder, folder, "--out", tmp_path / "both.trace")
    assert "8 rows of 2 traces" in result.stdout
    assert open_trace(tmp_path / "both.trace").rows == 8


@pytest.mark.parametrize("kind", ["counts", "csv", "jsonl", "npz"])
def test_convert_writes_each_form(folder: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"out.{kind}"
    run("trace", "convert", folder, "--to", kind, "--out", out)
    assert out.stat().st_size > 0
    if kind == "counts":
        assert load_counts(out)[1][0].counts.samples.sum() == 4
    with pytest.raises(TraceError, match="exists"):
        run("trace", "convert", folder, "--to", kind, "--out", out)


def test_bench_reports_a_ratio() -> None:
    result = json.loads(run("bench", "--rows", 3000, "--repeats", 1, "--json").stdout)
    assert result["rows"] == 3000
    assert result["fold_to_scan"] > 0


def test_a_module_is_shown_by_label_and_in_context(tmp_path: Path) -> None:
    lines = [
        f'{{"layer": 0, "chosen": [{t % 2}], "label": "{"ab"[t // 4]}", "document": {t // 4}, '
        f'"position": {t % 4}, "token": {50 + t}}}'
        for t in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    run("import", tmp_path / "rows.jsonl", "--out", tmp_path / "x.trace", "--modules", 2)
    shown = run("trace", "show", tmp_path / "x.trace", "--module", "0:1")
    assert "4 tokens of 8 (50 %" in " ".join(shown.stdout.split())
    assert "50[51]52 53" in shown.stdout.replace(" [", "[").replace("] ", "]")
    assert "--tokenizer DIR" in " ".join(shown.stderr.split())
    (found,) = json.loads(
        run("trace", "show", tmp_path / "x.trace", "--module", "0:0", "--json").stdout
    )
    assert [label["tokens"] for label in found["labels"]] == [2, 2]
    with pytest.raises(SpecError, match="there is no layer 7"):
        run("trace", "show", tmp_path / "x.trace", "--module", "7:1")
