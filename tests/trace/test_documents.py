"""Documents kept beside counts: what is a unit, what is a copy, and that no order shows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeval.counting.units import Units
from modeval.score.clean import clean
from modeval.trace import documents, fold
from modeval.trace.convert import merge
from modeval.trace.counts import load_counts, save_counts
from modeval.trace.files import TraceWriter
from modeval.trace.fold import LayerGroup, fold_groups
from modeval.trace.trace import TraceChunk, TraceHeader, make_chunk

MODULES = (4, 6)


def header_of(labels: int = 3, *, tokens: bool = False) -> TraceHeader:
    return TraceHeader(
        layers=("a", "b"),
        modules=MODULES,
        choices=(2, 2),
        labels=tuple(f"label {number}" for number in range(labels)),
        weight_scale="none",
        token_ids=tokens,
    )


def rows_of(
    labels: list[list[int]], seed: int = 0, *, first: int = 0, tokens: bool = False
) -> TraceChunk:
    """Return random routing of documents, given the label of each of their positions."""
    draw = np.random.default_rng(seed)
    columns: dict[str, list[np.ndarray]] = {}
    for number, label in enumerate(labels):
        size = len(label)
        words = draw.integers(0, 50_000, size)
        for layer, modules in enumerate(MODULES):
            chosen = draw.random((size, modules)).argsort(1)[:, :2]
            parts = {
                "document": np.full(size, first + number),
                "position": np.arange(size),
                "label": np.array(label),
                "layer": np.full(size, layer),
                "chosen": chosen,
            }
            if tokens:
                parts["token"] = words
            for name, part in parts.items():
                columns.setdefault(name, []).append(part)
    return make_chunk(**{name: np.concatenate(parts) for name, parts in columns.items()})


def write(path: Path, header: TraceHeader, *chunks: TraceChunk) -> Path:
    with TraceWriter(path, header) as writer:
        for chunk in chunks:
            writer.append(chunk)
    return path


def units_of(path: Path) -> list[Units]:
    groups = fold_groups(path)
    assert all(group.units is not None for group in groups)
    return [group.units for group in groups if group.units is not None]


def assert_same(one: Units, two: Units) -> None:
    for name, part in one.tensors().items():
        assert torch.equal(part, two.tensors()[name]), name


def test_each_document_is_a_unit_and_units_add_up_to_the_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.trace", header_of(), rows_of([[0] * 9, [1] * 5, [1] * 7, [2]]))
    for group in fold_groups(path):
        units = group.units
        assert units is not None
        assert units.label.tolist() == [0, 1, 1, 2]
        assert sorted(units.samples[0].tolist()) == [1, 5, 7, 9]
        assert not units.mixed
        pooled = group.counts.pooled()
        for name, part in units.counts(group.counts.coactivation).tensors().items():
            torch.testing.assert_close(part, pooled.tensors()[name])


def test_numbers_of_documents_and_the_order_of_rows_and_files_do_not_show(tmp_path: Path) -> None:
    one, two = rows_of([[0] * 40, [1] * 30], 1), rows_of([[2] * 20, [1] * 50], 2, first=2)
    header = header_of()
    straight = units_of(write(tmp_path / "a.trace", header, one, two))
    turned = units_of(
        write(tmp_path / "b.trace", header, two, replace(one, document=one.document + 100))
    )
    shuffled = np.random.default_rng(0).permutation(len(one))
    mixed_up = units_of(write(tmp_path / "c.trace", header, two, one[shuffled]))
    for first, second, third in zip(straight, turned, mixed_up, strict=True):
        assert_same(first, second)
        assert_same(first, third)


@pytest.mark.parametrize("tokens", [False, True])
def test_copies_of_a_document_count_once_and_are_told(tmp_path: Path, *, tokens: bool) -> None:
    header = header_of(tokens=tokens)
    plain = write(
        tmp_path / "x.trace", header, rows_of([[0] * 90, [1] * 80, [2] * 99], tokens=tokens)
    )
    four = merge([plain, plain, plain, plain], tmp_path / "four.trace")
    once, more = units_of(plain), units_of(four.path)
    for first, second in zip(once, more, strict=True):
        assert first.repeated == 0
        assert second.repeated == 9
        assert_same(first, replace(second, copies=first.copies))


def test_copies_that_share_a_unit_with_others_are_said_not_to_be_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.trace", header_of(), rows_of([[0] * 9, [1] * 8, [2] * 7] * 10))

    def said() -> str:
        options: dict[str, Any] = {"view": "assignment", "prior": "uniform", "only": (0, 1)}
        return " ".join(clean(header_of(), fold_groups(path), **options).notes)

    assert "in groups" not in said()
    for module in (documents, fold):
        monkeypatch.setattr(module, "LIMIT", 15 * sum(MODULES))
    assert "30 documents are counted in groups" in said()


def test_short_and_undecided_documents_are_no_copies_because_they_look_alike(
    tmp_path: Path,
) -> None:
    chunk = rows_of([[0] * 3] * 50 + [[1] * 400] * 4, 3)
    chunk = replace(chunk, chosen=np.tile([[0, 1]], (len(chunk), 1)).astype(np.int16))
    path = write(tmp_path / "x.trace", header_of(2), chunk)
    for units in units_of(path):
        assert units.repeated == 0
        assert len(units) == 54


def test_where_labels_change_stretches_of_like_length_exchange_them(tmp_path: Path) -> None:
    labels = [[0] * 4 + [1] * 5 + [0] * 1 + [2] * 1 + [-1] * 3 + [2] * 6, [1] * 9]
    path = write(tmp_path / "x.trace", header_of(), rows_of(labels))
    for units in units_of(path):
        assert units.mixed
        found = sorted(
            zip(
                units.label.tolist(),
                units.samples[0].tolist(),
                units.stratum.tolist(),
                units.cluster.tolist(),
                strict=True,
            )
        )
        by_size = {(label, size): stratum for label, size, stratum, _ in found}
        assert set(by_size) == {(0, 4), (1, 5), (0, 1), (2, 7), (1, 9)}
        # lengths 4, 5 and (1 + gap + 6) are of one class; the single position is of its own
        assert by_size[0, 4] == by_size[1, 5]
        assert by_size[0, 1] != by_size[0, 4]
        assert by_size[1, 9] not in {by_size[0, 4], by_size[0, 1]}
        assert len({cluster for *_, cluster in found}) == 2


def test_labels_of_unknown_positions_are_kept_and_never_exchanged(tmp_path: Path) -> None:
    chunk = rows_of([[0] * 4 + [1] * 5, [1] * 3 + [0] * 4])
    path = write(
        tmp_path / "x.trace",
        header_of(2),
        replace(chunk, position=np.full_like(chunk.position, -1)),
    )
    for group in fold_groups(path):
        assert group.units is not None
        assert sorted(group.units.samples[0].tolist()) == [3, 4, 4, 5]
        assert len(group.units.stratum.unique()) == 4
        torch.testing.assert_close(group.units.counts().mass, group.counts.pooled().mass)


def test_rows_of_an_unknown_document_leave_counts_alone(tmp_path: Path) -> None:
    chunk = rows_of([[0] * 4, [1] * 5])
    chunk.document[3] = -1
    groups = fold_groups(write(tmp_path / "x.trace", header_of(2), chunk))
    assert [group.units for group in groups] == [None, None]
    assert sum(float(group.counts.samples.sum()) for group in groups) == 18


def test_above_the_limit_of_memory_documents_of_one_label_share_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [[0] * 30] * 61 + [[1] * 30] * 9
    header, one, two = header_of(2), rows_of(labels[:33], 1), rows_of(labels[33:], 2, first=33)
    monkeypatch.setattr("modeval.trace.fold.LIMIT", 20 * sum(MODULES))
    straight = write(tmp_path / "a.trace", header, one, two)
    turned = write(tmp_path / "b.trace", header, replace(two, document=two.document + 9), one)
    for group, other in zip(fold_groups(straight), fold_groups(turned), strict=True):
        units = group.units
        assert units is not None
        assert other.units is not None
        assert_same(units, other.units)
        assert sorted(units.documents.tolist()) == [1, 1] + [4] * 17
        assert units.stratum[units.documents == 1].unique().tolist() != (
            units.stratum[units.documents == 4].unique().tolist()
        )
        torch.testing.assert_close(units.counts().mass, group.counts.pooled().mass)


def test_counts_on_disk_keep_their_documents_and_older_ones_are_read(tmp_path: Path) -> None:
    header = header_of()
    groups = fold_groups(
        write(tmp_path / "x.trace", header, rows_of([[0] * 9, [1] * 5, [2] * 7, [2]]))
    )
    save_counts(tmp_path / "x.counts.safetensors", header, groups)
    for group, read in zip(groups, load_counts(tmp_path / "x.counts.safetensors")[1], strict=True):
        assert group.units is not None
        assert read.units is not None
        assert_same(group.units, read.units)
        assert read.units.rules == group.units.rules
    old = [LayerGroup(group.layers, group.counts) for group in groups]
    save_counts(tmp_path / "old.counts.safetensors", header, old)
    assert [group.units for group in load_counts(tmp_path / "old.counts.safetensors")[1]] == [
        None,
        None,
    ]
