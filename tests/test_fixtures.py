"""The small trained model of fixtures/: did its experts specialise, and can it be recorded?"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeval.score.scorecard import Score
from modeval.score.traces import Reading, score_trace
from modeval.trace.counts import SUFFIX, gather

FIXTURES = Path(__file__).parents[1] / "fixtures"
SCRIPT = FIXTURES / "make_tiny_moe.py"


def told(name: str) -> tuple[tuple[str, ...], Score]:
    """Return the verdicts, and the information told in the mean over layers."""
    header, groups = gather(FIXTURES / f"{name}{SUFFIX}")
    card = score_trace(header, groups, Reading(source=name, name=name))
    score = card.find(name, "homogeneity", over="mean")
    assert score is not None
    return tuple(finding.word for finding in card.findings), score


def test_training_made_the_experts_specialise_more_than_chance_and_more_than_nothing() -> None:
    (words, trained), (_, untrained) = told("tiny-moe"), told("tiny-moe-untrained")
    assert set(words) == {"faint"}
    assert trained.low is not None
    assert trained.null_high is not None
    assert untrained.high is not None
    assert trained.low > trained.null_high
    assert trained.low > untrained.high
    assert trained.p_value == pytest.approx(0.001)
    assert trained.value is not None
    assert trained.value < 0.1


def test_the_model_is_small() -> None:
    assert sum(path.stat().st_size for path in (FIXTURES / "tiny-moe").iterdir()) < 2e6


def texts(folder: Path) -> Path:
    command = [sys.executable, str(SCRIPT), "texts", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "test.jsonl"


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_texts_are_cut_from_what_is_installed(tmp_path: Path) -> None:
    held_out = rows_of(texts(tmp_path))
    assert {row["domain"] for row in held_out} == {"code", "docs", "headers", "manual"}
    trained = {row["name"] for row in rows_of(tmp_path / "train.jsonl")}
    assert not trained & {row["name"] for row in held_out}


@pytest.mark.slow
def test_the_model_has_learned_and_is_recorded(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from modeval.record.corpus import read_documents  # noqa: PLC0415
    from modeval.record.hugging_face import load, record_documents  # noqa: PLC0415

    model = load(str(FIXTURES / "tiny-moe"), dtype="float32", quiet=True)
    documents = list(read_documents([texts(tmp_path)], label="domain"))
    network: Any = model.model
    tokens = torch.tensor([model.tokenize(documents[0].text)[:128]])
    with torch.inference_mode():
        loss = network(input_ids=tokens, labels=tokens).loss
    assert loss.item() < 3.5  # of 6.2 for a guess among 512 tokens
    recording = record_documents(model, documents, max_tokens=20_000)
    reading = Reading(source="tiny", name="tiny")
    card = score_trace(recording.header(), recording.groups(), reading)
    assert {finding.word for finding in card.findings} == {"faint"}
