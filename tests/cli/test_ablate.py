"""``modeval ablate``: the command as users type it."""

import json
from pathlib import Path

import pytest
from mixtral import make_model, write_texts  # type: ignore[import-not-found, unused-ignore]
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.errors import ModevalError


def ablate(*words: str):
    return CliRunner().invoke(app, ["ablate", *words])


@pytest.mark.slow
def test_a_model_is_ablated_in_one_command(tmp_path: Path) -> None:
    model, texts = make_model(tmp_path / "model"), write_texts(tmp_path)
    out, file = tmp_path / "out", tmp_path / "ablation.json"
    words = [str(model), "--data", str(texts), "--label", "domain", "--keep", "0.5", "--alone"]
    done = ablate(*words, "--by", "reap,routed", "--out", str(out), "--json", str(file))
    assert done.exit_code == 0, done.output
    for word in ("loss change", "worst", "needs most", "foreseen by"):
        assert word in done.output
    form = json.loads(file.read_text())
    (found,) = form["ablations"]
    assert found["labels"] == ["code", "law", "poems"]
    assert [kept["score"] for kept in found["kept"]] == ["reap", "routed"]
    assert len(found["random"][0]["changes"]) == 20
    assert len(found["alone"]) == 8
    assert form == json.loads((out / "result.json").read_text())
    values = {score["metric"]: score["value"] for score in form["scores"]}
    assert values["keep_50_by_reap"] == found["kept"][0]["change"]["value"]
    assert {path.name for path in (out / "lists").iterdir()} == {
        "keep-0.5-by-reap.jsonl",
        "keep-0.5-by-routed.jsonl",
    }
    again = ablate(*words, "--by", "reap,routed", "--out", str(out), "--json", "-", "--quiet")
    assert json.loads(again.stdout) == form


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", "half"], "expected shares between 0 and 1"),
        (["--by", "raep"], "did you mean reap"),
        (["--within", "0"], "expected a margin above 0"),
        (["--keep", ""], "Nothing to remove"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(words, message) -> None:
    refused = ablate("no-model", "--data", "no-texts.jsonl", *words)
    assert isinstance(refused.exception, ModevalError)
    assert message in str(refused.exception)
