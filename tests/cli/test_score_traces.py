"""``modeval score`` of traces and of Hugging Face models, as its user types it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mixtral import make_model, write_texts
from scoring import card, refusal, run, values, write_run

from modeval.errors import ModevalError
from modeval.score.traces import Reading, score_trace
from modeval.trace.convert import convert
from modeval.trace.counts import SUFFIX, gather, survey
from modeval.trace.files import TraceWriter, open_trace
from modeval.trace.trace import Source, TraceHeader, make_chunk

pytest.importorskip("pyarrow", reason="traces are Parquet files")


def write_trace(
    path: Path,
    *,
    labels: int = 3,
    layers: int = 3,
    modules: int = 6,
    documents: int = 60,
    by_label: bool = True,
    mixed: bool = False,
    weighted: bool = True,
) -> Path:
    """Write routing in which each label prefers a module of its own, in later layers more so."""
    draw = np.random.default_rng(1)
    header = TraceHeader(
        layers=tuple(f"model.layers.{number}.gate" for number in range(layers)),
        modules=(modules,) * layers,
        choices=(2,) * layers,
        labels=tuple("abcdef"[:labels]),
        source=Source("an engine", "a model", "live"),
        weight_scale="renormalised" if weighted else "none",
        phase="mixed",
        padding="excluded",
        notes=("a warning of [its] recorder",),
    )
    document = np.repeat(np.arange(documents), 40)
    label = (np.arange(len(document)) if mixed else document) % max(labels, 1)
    with TraceWriter(path, header) as writer:
        for layer in range(layers):
            logits = draw.gumbel(size=(len(document), modules))
            logits[np.arange(len(document)), label] += 2 * layer * by_label
            chosen = logits.argsort(1)[:, ::-1][:, :2]
            share = np.exp(np.take_along_axis(logits, chosen, 1) / 4)
            writer.append(
                make_chunk(
                    layer=layer,
                    document=document,
                    label=label if labels else -1,
                    phase=np.where(np.arange(len(document)) % 4 == 0, 2, 1),
                    chosen=chosen,
                    weight=share / share.sum(1, keepdims=True) if weighted else None,
                )
            )
    return path


def models(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = card(path)["models"]
    return found


def findings(path: Path) -> list[str]:
    return [finding["word"] for finding in card(path)["findings"]]


def test_a_trace_is_scored_layer_by_layer(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "a.trace")
    output = run(trace, "--json", tmp_path / "card.json")
    [model] = models(tmp_path / "card.json")
    assert (model["origin"], model["title"], model["rules"]) == ("trace", "a", ["a", "b", "c"])
    assert model["data"]["documents"] == 60
    assert model["data"]["tokens"] == 2400
    assert model["data"]["rows"] == 7200
    words = findings(tmp_path / "card.json")
    assert words[0] == "blind"
    assert words[2] in ("partial", "specialist")
    scores = values(card(tmp_path / "card.json"), "mutual_information")
    assert [(entry["layer"], entry["over"]) for entry in scores] == [
        (None, "mean"),
        (0, "worst"),
        (0, None),
        (1, None),
        (2, None),
    ]
    for wanted in (
        "a · 3 layers of 6 experts, 2 chosen · 3 domains",
        "labels: a, b, c",
        "2,400 tokens of 60 documents",
        "prefill and decode",
        "a warning of [its] recorder",
        "permuted labels",
        "layer: model.layers.*.gate",
        "not specialised",
    ):
        assert wanted in " ".join(output.split()), wanted
    own = [line for line in output.splitlines() if str(tmp_path) not in line]  # a path is not cut
    assert max(map(len, own)) <= 80


def test_the_card_of_the_command_is_that_of_the_library(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "a.trace")
    run(trace, "--json", tmp_path / "card.json", "--quiet")
    found = survey(trace)
    reading = Reading(source=str(trace), name="a", rows=7200, documents=found.documents)
    [expected] = [
        score.value
        for score in score_trace(*gather(trace), reading, permutations=19).scores
        if (score.metric, score.layer, score.over) == ("alignment_score", 2, None)
    ]
    scores = values(card(tmp_path / "card.json"), "alignment_score")
    assert scores[-1]["value"] == pytest.approx(expected)


def test_traces_counts_and_runs_are_scored_together(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "a.trace", layers=1)
    convert(open_trace(trace), tmp_path / f"b{SUFFIX}", kind="counts")
    write_run(tmp_path / "run")
    output = run(tmp_path, "--json", tmp_path / "card.json", "--precision", "0.1")
    found = {model["title"]: model for model in models(tmp_path / "card.json")}
    assert set(found) == {"a", "b", "Modular-op"}
    scores = values(card(tmp_path / "card.json"), "collapse_avg")
    of_trace = {entry["model"]: entry["value"] for entry in scores if entry["seed"] is None}
    assert of_trace["a"] == of_trace["b"]
    assert found["b"]["data"]["documents"] is None
    assert "Modular-op" in output
    run(tmp_path, "--from", "trace", "--json", tmp_path / "card.json", "--quiet")
    assert {model["title"] for model in models(tmp_path / "card.json")} == {"a", "b"}
    run(tmp_path, "--only", "a.trace", "--json", tmp_path / "card.json", "--quiet")
    assert [model["title"] for model in models(tmp_path / "card.json")] == ["a"]


def test_many_layers_are_summed_up(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "deep.trace", layers=30, documents=12)
    output = run(trace, "--json", tmp_path / "card.json")
    for wanted in ("lowest alignment", "median", "highest", "worst", "▁", "█"):
        assert wanted in output, wanted
    assert "note: in 30 of 30 layers few samples: worth" in " ".join(output.split())
    assert len(output.splitlines()) < 80
    assert len(models(tmp_path / "card.json")[0]["layers"]) == 30


def test_a_trace_without_labels_tells_load_and_says_that_no_more_can_be_told(
    tmp_path: Path,
) -> None:
    trace = write_trace(tmp_path / "a.trace", labels=0, by_label=False)
    output = " ".join(run(trace, "--json", tmp_path / "card.json").split())
    assert "specialisation cannot" in output
    assert findings(tmp_path / "card.json") == ["unlabelled"] * 3
    assert not values(card(tmp_path / "card.json"), "mutual_information")


def test_view_prior_layers_and_phase_choose_what_is_scored(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "a.trace")
    out = tmp_path / "card.json"
    run(trace, "--view", "assignment", "--prior", "empirical", "--layers", "1-2", "--phase",
        "decode", "--json", out, "-q")  # fmt: skip
    [model] = models(out)
    assert (model["view"], model["prior"]) == ("assignment", "empirical")
    assert model["layers"] == ["model.layers.1.gate", "model.layers.2.gate"]
    assert model["data"]["phase"] == "decode"
    assert model["data"]["tokens"] == 600


def test_labels_that_change_within_documents_are_noticed(tmp_path: Path) -> None:
    write_trace(tmp_path / "a.trace", mixed=True)
    assert survey(tmp_path / "a.trace").mixed
    write_trace(tmp_path / "b.trace")
    assert not survey(tmp_path / "b.trace").mixed
    run(tmp_path / "a.trace", "--json", tmp_path / "card.json", "-q")
    assert models(tmp_path / "card.json")[0]["data"]["labels_within_documents"]


def test_an_incomplete_trace_is_scored_as_far_as_it_goes(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "a.trace")
    (trace / "complete.json").unlink()
    assert "the trace is incomplete" in " ".join(run(trace).split())


def damage_header(trace: Path) -> None:
    (trace / "header.json").write_text("{")


def damage_part(trace: Path) -> None:
    part = trace / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:500])


def empty(trace: Path) -> None:
    for path in trace.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_header, "header.json is not JSON"),
        (damage_part, "part-000000.parquet is damaged"),
        (empty, "No trace at"),
    ],
)
def test_a_damaged_trace_is_refused_alone_and_named_beside_others(
    harm: Any, message: str, tmp_path: Path
) -> None:
    trace = write_trace(tmp_path / "a.trace")
    harm(trace)
    assert message in refusal(trace, "--json", tmp_path / "card.json")
    assert not (tmp_path / "card.json").exists()
    other = write_trace(tmp_path / "b.trace")
    output = " ".join(run(trace, other, "--json", tmp_path / "card.json").split())
    assert f"failed: {trace}" in output
    [note] = [note for note in card(tmp_path / "card.json")["notes"] if "failed" in note]
    assert message in note


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--layers", "9"), "--layers 9: this trace has layers 0 to 2"),
        (("--view", "other"), "expected one of auto, weight, assignment"),
        (("--phase", "sleep"), "expected one of prefill, decode, train"),
        (("--phase", "train"), "No layer can be scored"),
        (("--only-model-seeds", "0"), "--only-model-seeds is for trained cohorts"),
        (("--data", "somewhere"), "a trace is recorded already"),
        (("--from", "run"), "holds neither at its top nor below it a run"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    flags: tuple[str, str], message: str, tmp_path: Path
) -> None:
    assert message in refusal(write_trace(tmp_path / "a.trace"), *flags)


def test_weights_that_were_not_recorded_are_not_scored(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "a.trace", weighted=False)
    assert "Use --view assignment" in refusal(trace, "--view", "weight")
    run(trace, "--json", tmp_path / "card.json", "-q")
    assert models(tmp_path / "card.json")[0]["view"] == "assignment"


def test_phases_of_counts_cannot_be_told_apart(tmp_path: Path) -> None:
    counts = tmp_path / f"a{SUFFIX}"
    convert(open_trace(write_trace(tmp_path / "a.trace")), counts, kind="counts")
    assert "rows cannot be told apart" in refusal(counts, "--phase", "decode")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert "a.parquet is a file" in refusal(tmp_path / "a.parquet")
    counts = tmp_path / f"a{SUFFIX}"
    counts.write_bytes(b"no tensors")
    assert "no whole safetensors file" in refusal(counts)


# --- models of Hugging Face ----------------------------------------------------------------------


def test_a_model_without_text_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    assert f"modeval score {tmp_path} --data FILE.jsonl" in refusal(tmp_path)


def test_a_hub_id_without_text_is_a_path_that_is_not_there() -> None:
    assert "needs --data as well" in refusal("someone/some-model")


def test_a_model_folder_and_text_are_recorded_and_scored(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model, texts = make_model(tmp_path / "model"), write_texts(tmp_path)
    out = tmp_path / "card.json"
    output = run(model, "--data", texts, "--label", "domain", "--json", out)
    [found] = models(out)
    assert found["rules"] == ["code", "law", "poems"]
    assert found["title"] == "model"
    assert (found["data"]["phase"], found["data"]["documents"]) == ("prefill", 36)
    assert "labels: code, law, poems" in " ".join(output.split())
    with pytest.raises(ModevalError, match="has no 'label'"):
        run(model, "--data", texts)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model, texts = make_model(tmp_path / "model"), write_texts(tmp_path)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert "cannot be loaded" in refusal(model, "--data", texts, "--label", "domain")


def test_an_empty_path_is_refused() -> None:
    assert "A path is empty" in refusal("")
