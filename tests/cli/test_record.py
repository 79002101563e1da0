"""``modeval record`` as its user types it, on a tiny model made here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from mixtral import make_model, write_texts
from typer.testing import CliRunner

from modeval.cli.bench.record import bench_record_command
from modeval.cli.record import record_command
from modeval.errors import CheckpointError, DataError, SpecError, TraceError
from modeval.trace.files import open_trace
from modeval.trace.fold import fold

transformers = pytest.importorskip("transformers")

app = typer.Typer()
app.command("record")(record_command)
app.command("bench")(bench_record_command)


def modeval(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failure(*arguments) -> BaseException:
    result: Any = modeval(*arguments)
    assert result.exception is not None, result.output
    error: BaseException = result.exception
    return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = make_model(tmp_path_factory.mktemp("model"))
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made: Path = write_texts(tmp_path)
    return made


def test_a_model_folder_and_labelled_text_make_a_trace(folder, data, tmp_path: Path) -> None:
    out = tmp_path / "a.trace"
    result = modeval(
        "record", folder, "--data", data, "--label", "domain", "--out", out, "--batch-tokens", 32
    )
    assert result.exit_code == 0, result.output
    assert "2 routers expected, 2 hooked, 2 recorded" in result.output
    assert f"modeval score {out}" in result.output.replace("\n", "")
    trace = open_trace(out)
    assert trace.complete
    assert trace.header.labels == ("code", "law", "poems")
    assert trace.header.layers == ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
    assert trace.header.padding == "excluded"
    assert trace.header.token_ids
    words = sum(2 * (1 + number % 5) for number in range(12))
    assert fold(trace).samples.sum(1).tolist() == [[words] * 3] * 2


def test_a_bound_on_tokens_and_generation(folder, data, tmp_path: Path) -> None:
    out = tmp_path / "b.trace"
    result = modeval(
        "record",
        folder,
        "-d",
        data,
        "--label",
        "domain",
        "-o",
        out,
        "--max-tokens",
        40,
        "--generate",
        3,
        "--dtype",
        "bfloat16",
        "--quiet",
    )
    assert result.exit_code == 0, result.output
    assert result.output == ""
    assert fold(out, phase="prefill").samples[0].sum() == 40
    assert fold(out, phase="decode").samples[0].sum() > 0


def test_mistakes_are_named(folder, data, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "c.trace"]
    error = failure("record", tmp_path / "none", "-d", data, "--label", "domain", *out)
    assert isinstance(error, CheckpointError)
    assert "cannot be loaded" in str(error)
    error = failure("record", folder, "-d", data, *out)
    assert isinstance(error, DataError)
    assert "has no 'label'" in str(error)
    error = failure("record", folder, "-d", data, "--label", "domain", "--dtype", "int3", *out)
    assert isinstance(error, SpecError)
    assert "--dtype 'int3': expected one of auto" in str(error)


def test_half_a_character_in_the_text_is_named(folder, tmp_path: Path) -> None:
    data = tmp_path / "s.jsonl"
    data.write_text('{"text": "fine", "label": "b"}\n{"text": "bad \\ud800 x", "label": "a"}\n')
    error = failure("record", folder, "-d", data, "-o", tmp_path / "s.trace")
    assert isinstance(error, DataError)
    assert "row 2: 'text' holds '\\ud800', half of a character, at 4" in str(error)
    assert not (tmp_path / "s.trace").exists()


def test_weights_that_were_drawn_at_random_refuse_the_recording(
    folder, data, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = load_file(broken / "model.safetensors")
    lost = next(name for name in weights if "gate" in name)
    del weights[lost]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    error = failure(
        "record", broken, "-d", data, "--label", "domain", "-o", tmp_path / "r.trace", "-q"
    )
    assert isinstance(error, CheckpointError)
    assert "lacks 1 of its weights, and they were drawn at random: model.layers." in str(error)


def test_code_that_comes_with_a_model_is_not_run_unasked(folder, data, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    shutil.copytree(folder, remote)
    config = json.loads((remote / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config["model_type"] = "evil"
    (remote / "config.json").write_text(json.dumps(config))
    (remote / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\n")
    error = failure(
        "record", remote, "-d", data, "--label", "domain", "-o", tmp_path / "r.trace", "-q"
    )
    assert isinstance(error, CheckpointError)
    assert "--trust-remote-code" in str(error)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_no_numbers_are_named(folder, data, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = load_file(broken / "model.safetensors")
    gate = next(name for name in weights if "1" in name and "gate.weight" in name)
    weights[gate].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    error = failure(
        "record", broken, "-d", data, "--label", "domain", "-o", tmp_path / "n.trace", "-q"
    )
    assert isinstance(error, TraceError)
    assert "Router model.layers.1.mlp.gate gave weights that are no numbers" in str(error)


@pytest.mark.slow
def test_the_measurement_of_the_cost_prints_ratios() -> None:
    small = ["--layers", 1, "--hidden", 64, "--modules", 4, "--rounds", 1, "--passes", 1]
    result = modeval("bench", *small, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.output)
    assert set(measured["ratio"]) == {"recorded", "router_logits"}
    assert modeval("bench", *small).exit_code == 0
