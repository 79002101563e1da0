"""Builds of one model, as users have them: quantised, with its experts permuted, and shifted."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modeval.record.corpus import Document
from modeval.record.hugging_face import load, record_documents
from modeval.score.comparison.agreement import Agreement, agreement
from modeval.trace.files import TraceWriter, concatenate, read_trace

ROOT = Path(__file__).parents[2]
TINY = ROOT / "fixtures" / "tiny-moe"
pytest.importorskip("transformers")
pytest.importorskip("pyarrow", reason="traces are Parquet files")


@pytest.fixture(scope="module")
def texts() -> list[Document]:
    """Return texts of this Python: modules of its library and their docstrings."""
    sys.path.insert(0, str(ROOT / "fixtures"))
    import make_tiny_moe  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    sys.path.pop(0)
    found = []
    for label, _, text in make_tiny_moe.documents():
        found.append(Document(text[len(text) // 4 :][:1200], label))
        if len(found) == 60:
            return found
    return found


def record(texts: list[Document], path: Path, change=lambda model: None) -> Path:
    loaded = load(str(TINY), dtype="float32", quiet=True)
    with torch.no_grad():
        change(loaded.model)
    record_documents(loaded, texts, trace=path, length=128)
    return path


@pytest.fixture(scope="module")
def full(texts, tmp_path_factory) -> Path:
    return record(texts, tmp_path_factory.mktemp("builds") / "full.trace")


def quantise(model) -> None:
    """Round each row of each matrix to 15 levels, as simple 4-bit formats do."""
    for name, part in model.named_parameters():
        if part.ndim >= 2 and "embed" not in name:
            step = part.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 7
            part.data = (part / step).round() * step


def permute(model) -> None:
    """Number the experts of each layer anew: the model computes what it did."""
    draw = torch.Generator().manual_seed(0)
    for layer in model.get_submodule("model.layers"):
        order = torch.randperm(8, generator=draw)
        for part in (layer.mlp.gate.weight, layer.mlp.experts.gate_up_proj):
            part.data = part.data[order]
        layer.mlp.experts.down_proj.data = layer.mlp.experts.down_proj.data[order]


def shares(agreement: Agreement, name: str) -> list[float]:
    return [layer.measured[name].value for layer in agreement.layers]


def test_a_build_of_4_bits_keeps_most_choices_and_moves_many_tokens(texts, full, tmp_path) -> None:
    """On all 225 texts: 93.9 % kept, 91.3 % in the last layer, 39.1 % of tokens differ."""
    other = record(texts, tmp_path / "int4.trace", quantise)
    found = agreement(full, other)
    assert np.mean(shares(found, "agreement_shared")) == pytest.approx(0.94, abs=0.015)
    assert max(shares(found, "agreement_shared")) == shares(found, "agreement_shared")[0]
    assert found.different.value == pytest.approx(0.388, abs=0.05)
    (_, one), (_, two) = read_trace(full), read_trace(other)
    mine, its = concatenate(list(one)), concatenate(list(two))
    moved = (np.sort(mine.chosen, 1) != np.sort(its.chosen, 1)).any(1)
    keys = set(zip(mine.document[moved].tolist(), mine.position[moved].tolist(), strict=True))
    assert len(keys) / found.tokens == pytest.approx(found.different.value)
    assert not any("renumbered" in note for note in found.notes)


def test_a_build_whose_experts_are_permuted_is_the_same_once_they_are_renumbered(
    texts, full, tmp_path
) -> None:
    found = agreement(full, record(texts, tmp_path / "permuted.trace", permute))
    assert max(shares(found, "agreement_shared")) < 0.7
    assert shares(found, "agreement_matched") == pytest.approx([1, 1, 1, 1])
    assert sum("the same modules in another order" in note for note in found.notes) == 4


def test_positions_that_count_from_one_are_aligned_by_token_ids_and_that_is_said(
    full, tmp_path
) -> None:
    header, chunks = read_trace(full)
    rows = concatenate(list(chunks))
    for shift, word in ((1, "higher"), (-1, "lower")):
        kept = rows[(rows.position + shift >= 0)]
        moved = replace(kept, position=kept.position + np.int32(shift))
        path = tmp_path / f"shifted{shift}.trace"
        with TraceWriter(path, header) as writer:
            writer.append(moved)
        found = agreement(full, path)
        assert shares(found, "agreement_shared") == [1, 1, 1, 1]
        assert word in found.notes[0]
        assert "aligned by token ids" in found.notes[0]


def test_the_same_build_twice_is_the_ceiling(full) -> None:
    found = agreement(full, full, again=full)
    assert [layer.ceiling for layer in found.layers] == [
        layer.measured["agreement_shared"] for layer in found.layers
    ]
