"""Folding a trace gives the counts that one pass over all rows at once gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeval.counting import kernel
from modeval.counting.count import count_choices
from modeval.errors import TraceError
from modeval.trace.counts import gather, load_counts, save_counts
from modeval.trace.files import TraceWriter
from modeval.trace.fold import document_block, fold, fold_groups
from modeval.trace.trace import TraceHeader, make_chunk
from modeval.types import RoutingCounts

pytest.importorskip("pyarrow", reason="traces are Parquet files")

BLOCKS = 8


@pytest.fixture(autouse=True, params=["torch", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold in both ways, whatever the number of rows."""
    if request.param == "kernel":
        request.getfixturevalue("compiler")
        kernel.load()
    monkeypatch.setattr(kernel, "ENOUGH", 1 if request.param == "kernel" else 1 << 62)


def header_of(modules: int, choices: int, layers: int = 3, scale: Any = "none") -> TraceHeader:
    return TraceHeader(
        layers=tuple(f"layers.{number}" for number in range(layers)),
        modules=(modules,) * layers,
        choices=(choices,) * layers,
        labels=("a", "b", "c"),
        weight_scale=scale,
    )


def rows_of(header: TraceHeader, rows: int, *, dropped: float = 0.0, blocked: bool = False) -> Any:
    draw = np.random.default_rng(rows)
    chosen = draw.random((rows, header.modules[0])).argsort(1)[:, : header.width]
    chosen[draw.random(chosen.shape) < dropped] = -1
    weight = np.where(chosen >= 0, draw.random(chosen.shape), 0)
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-9)
    layer = np.arange(rows) % len(header.layers)
    return make_chunk(
        document=draw.integers(-1, 40, rows),
        phase=draw.integers(0, 3, rows),
        label=draw.integers(-1, 3, rows),
        layer=np.sort(layer) if blocked else layer,
        chosen=chosen,
        weight=weight if header.weighted else None,
    )


def at_once(chunk: Any, header: TraceHeader, *, keep: Any = None) -> list[RoutingCounts]:
    found = []
    for layer in range(len(header.layers)):
        rows = (chunk.layer == layer) & (True if keep is None else keep)
        weighted = header.weight_scale in ("renormalised", "probability")
        found.append(
            count_choices(
                torch.from_numpy(chunk.label[rows]),
                torch.from_numpy(chunk.chosen[rows]),
                torch.from_numpy(chunk.weight[rows]).double() if weighted else None,
                rules=3,
                modules=header.modules[layer],
            )
        )
    return found


def write(path: Any, header: Any, chunk: Any, rows_per_part: Any = 97) -> Any:
    with TraceWriter(path, header, rows_per_part=rows_per_part) as writer:
        writer.append(chunk)
    return path


def assert_close(counts: RoutingCounts, expected: RoutingCounts) -> None:
    counts = counts.pooled()
    for name, tensor in expected.tensors().items():
        exact = name in ("selections", "samples", "coactivation")
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-6, "atol": 1e-5}
        torch.testing.assert_close(
            counts.tensors()[name], tensor, **tolerance, msg=f"{name} differs"
        )


@pytest.mark.parametrize("blocked", [False, True], ids=["mixed layers", "layer after layer"])
@pytest.mark.parametrize("dropped", [0.0, 0.3])
@pytest.mark.parametrize("scale", ["none", "renormalised", "selection score"])
@pytest.mark.parametrize(("modules", "choices"), [(6, 1), (8, 2), (16, 8), (200, 3)])
def test_a_fold_equals_counting_all_rows_at_once(  # noqa: PLR0917 - one for each axis
    tmp_path: Path, modules: Any, choices: Any, scale: Any, dropped: Any, blocked: Any
) -> None:
    header = header_of(modules, choices, scale=scale)
    chunk = rows_of(header, 400, dropped=dropped, blocked=blocked)
    counts = fold(write(tmp_path / "x.trace", header, chunk), blocks=BLOCKS)
    for layer, expected in enumerate(at_once(chunk, header)):
        assert_close(
            RoutingCounts(**{name: part[layer] for name, part in counts.tensors().items()}),
            expected,
        )


def test_probabilities_are_divided_by_their_sum(tmp_path: Path) -> None:
    header = header_of(4, 2, layers=1, scale="probability")
    chunk = make_chunk(layer=0, label=0, chosen=[[0, 1]], weight=[[0.3, 0.1]])
    counts = fold(write(tmp_path / "x.trace", header, chunk), blocks=1)
    torch.testing.assert_close(
        counts.mass[0, 0, 0], torch.tensor([0.75, 0.25, 0, 0], dtype=torch.float64)
    )
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert counts.entropy[0, 0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_one_row_without_a_label_counts_nowhere(tmp_path: Path) -> None:
    header = header_of(4, 2, layers=1)
    counts = fold(write(tmp_path / "x.trace", header, make_chunk(layer=0, chosen=[[0, 1]])))
    assert all(not tensor.any() for tensor in counts.tensors().values())


def test_one_phase_can_be_counted_alone(tmp_path: Path) -> None:
    header = header_of(8, 2)
    chunk = rows_of(header, 300)
    counts = fold(write(tmp_path / "x.trace", header, chunk), blocks=BLOCKS, phase="decode")
    for layer, expected in enumerate(at_once(chunk, header, keep=chunk.phase == 2)):
        assert_close(
            RoutingCounts(**{name: part[layer] for name, part in counts.tensors().items()}),
            expected,
        )
    with pytest.raises(TraceError, match="No phase is named 'warm'"):
        fold(tmp_path / "x.trace", phase="warm")


def test_layers_of_different_sizes_are_groups_not_padding(tmp_path: Path) -> None:
    header = replace(header_of(8, 2), modules=(8, 4, 8))
    chunk = make_chunk(layer=[0, 1, 2], label=0, chosen=[[7, 0], [3, 0], [1, 0]])
    path = write(tmp_path / "x.trace", header, chunk)
    groups = fold_groups(path, blocks=2)
    assert [group.layers for group in groups] == [(0, 2), (1,)]
    assert [group.counts.mass.shape[-1] for group in groups] == [8, 4]
    with pytest.raises(TraceError, match="different numbers of modules"):
        fold(path)


def test_a_trace_without_labels_counts_as_one_rule(tmp_path: Path) -> None:
    header = replace(header_of(4, 1, layers=1), labels=())
    chunk = make_chunk(layer=0, chosen=[[0], [0], [3]])
    counts = fold(write(tmp_path / "x.trace", header, chunk), blocks=1)
    assert counts.selections[0, 0].tolist() == [[2, 0, 0, 1]]


def test_the_fold_of_an_empty_trace_is_zero(tmp_path: Path) -> None:
    header = header_of(4, 1)
    with TraceWriter(tmp_path / "x.trace", header):
        pass
    assert fold(tmp_path / "x.trace").samples.sum() == 0


def test_documents_spread_over_blocks_and_unknown_ones_stay_together() -> None:
    block = document_block(torch.arange(64_000), 64)
    share = torch.bincount(block, minlength=64) / 1000
    assert share.min() > 0.85
    assert share.max() < 1.15
    assert document_block(torch.tensor([-1, -1]), 64).tolist() == [0, 0]


def test_folding_leaves_the_number_of_threads_alone(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    fold(write(tmp_path / "x.trace", header_of(4, 1), rows_of(header_of(4, 1), 20)))
    assert torch.get_num_threads() == before


def test_weights_that_are_scores_are_refused(tmp_path: Path) -> None:
    header = header_of(4, 2, layers=1, scale="selection score")
    chunk = make_chunk(layer=0, label=0, chosen=[[0, 1]], weight=[[-3.0, 2.0]])
    path = write(tmp_path / "x.trace", header, chunk)
    assert fold(path, blocks=1).mass.sum() == 1  # 1/K each: scores are no shares


def columns_of(**columns: Any) -> Any:
    """Return rows as a file that nobody checked might hold them."""
    rows = {"document": [0, 0], "label": [0, 1], "layer": [0, 1], "chosen": [[0, 1], [2, 3]]}
    rows["position"] = [0, 1]
    kinds = {"document": "i8", "label": "i4", "layer": "i2", "chosen": "i2", "weight": "f4"}
    kinds["position"] = "i4"
    return [{name: np.array(value, kinds[name]) for name, value in {**rows, **columns}.items()}]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"chosen": [[0, 1], [2, 4]]}, "chosen 4 in row 0 is out of range: expected -1 to 3"),
        ({"chosen": [[0, -2], [2, 3]]}, "chosen -2 in row 0 is out of range: expected -1 to 3"),
        ({"layer": [0, 2]}, "layer 2 in row 1 is out of range: expected 0 to 1"),
        ({"layer": [-1, 0]}, "layer -1 in row 0 is out of range: expected 0 to 1"),
        ({"label": [0, 3]}, "label 3 in row 1 is out of range: expected -1 to 2"),
        ({"weight": [[-0.5, 1.5], [1, 0]]}, "negative or not a number"),
        ({"weight": [[0.5, 0.5], [np.nan, 0]]}, "negative or not a number"),
        ({"weight": [[0.5, 0.5], [np.inf, 0]]}, "negative or not a number"),
    ],
)
def test_numbers_that_no_writer_would_write_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: Any, reason: str
) -> None:
    header = header_of(4, 2, layers=2, scale="renormalised")
    path = write(tmp_path / "x.trace", header, rows_of(header, 20))
    rows = columns_of(**{"weight": [[1, 0], [1, 0]], **columns})
    monkeypatch.setattr("modeval.trace.fold.read_columns", lambda *_: iter(rows))
    with pytest.raises(TraceError, match=reason):
        fold(path)


def test_both_ways_of_folding_give_the_same_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = header_of(16, 8, scale="probability")
    path = write(tmp_path / "x.trace", header, rows_of(header, 2000, dropped=0.1))
    found = fold(path, blocks=BLOCKS)
    monkeypatch.setattr(kernel, "ENOUGH", 1 << 62)
    for name, tensor in fold(path, blocks=BLOCKS).tensors().items():
        exact = name in ("selections", "samples", "coactivation")
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(found.tensors()[name], tensor, **tolerance)


def test_counters_that_fill_up_are_moved_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = header_of(16, 8)
    path = write(tmp_path / "x.trace", header, rows_of(header, 2000))
    found = fold(path, blocks=BLOCKS)
    monkeypatch.setattr(kernel, "COUNTABLE", 64 * 150)  # every second part of 97 rows
    for name, tensor in fold(path, blocks=BLOCKS).tensors().items():
        assert torch.equal(found.tensors()[name], tensor)


def test_counts_come_back_from_their_file(tmp_path: Path) -> None:
    header = replace(header_of(8, 2), modules=(8, 4, 8))
    chunk = make_chunk(layer=[0, 1, 2], label=0, chosen=[[7, 0], [3, 0], [1, 0]])
    path = write(tmp_path / "x.trace", header, chunk)
    groups = fold_groups(path)
    save_counts(tmp_path / "x.counts.safetensors", header, groups)
    found, again = gather(tmp_path / "x.counts.safetensors")
    assert found == header
    assert gather(path)[0] == header
    for left, right in zip(groups, again, strict=True):
        assert left.layers == right.layers
        for name, tensor in left.counts.tensors().items():
            assert torch.equal(tensor, right.counts.tensors()[name])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "no whole safetensors file"),
        (lambda data: b"hello", "no whole safetensors file"),
        (lambda data: data.replace(b"0.mass", b"0.mess"), "checksum differs"),
        (lambda data: data.replace(b'\\"version\\": 1', b'\\"version\\": 7'), "checksum differs"),
    ],
    ids=["cut", "not safetensors", "tensor renamed", "another version"],
)
def test_damaged_counts_are_refused(tmp_path: Path, damage: Any, reason: str) -> None:
    path = write(tmp_path / "x.trace", header_of(4, 1), rows_of(header_of(4, 1), 20))
    file = tmp_path / "x.counts.safetensors"
    save_counts(file, header_of(4, 1), fold_groups(path))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(TraceError, match=reason):
        load_counts(file)
