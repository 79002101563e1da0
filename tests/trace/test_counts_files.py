"""Counts on disk: they come back as they were, and bad files are refused by name."""

import pytest
import torch
from safetensors.torch import save_file

from modeval.errors import TraceError
from modeval.trace.counts_files import load_counts, save_counts
from modeval.types import RoutingCounts


@pytest.fixture
def counts():
    rule = torch.tensor([0, 1, 1])
    chosen = torch.tensor([[0, 1], [1, 2], [2, 0]])
    return RoutingCounts.of_choices(rule, chosen, rules=2, modules=3, block=rule, blocks=2)


def test_counts_come_back_as_they_were(counts, tmp_path):
    path = save_counts(tmp_path / "a.counts", counts)
    for name, tensor in load_counts(path).tensors().items():
        assert torch.equal(tensor, counts.tensors()[name])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.counts"]


def test_views_of_larger_tensors_can_be_written(counts, tmp_path):
    path = save_counts(tmp_path / "a.counts", counts.pooled())
    assert load_counts(path).mass.shape == (1, 2, 3)


def test_a_missing_folder_is_refused_and_leaves_nothing(counts, tmp_path):
    with pytest.raises(TraceError, match="Cannot write counts"):
        save_counts(tmp_path / "none" / "a.counts", counts)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TraceError, match="No counts at"):
        load_counts(tmp_path / "a.counts")


def test_a_truncated_file_is_refused(counts, tmp_path):
    path = save_counts(tmp_path / "a.counts", counts)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TraceError, match="damaged"):
        load_counts(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "holds no routing counts"),
        ({"format": "modeval-counts", "version": "99"}, "version '99'"),
        ({"format": "modeval-counts", "version": "1"}, "does not hold the tensors"),
    ],
)
def test_other_files_are_refused(header, message, tmp_path):
    path = tmp_path / "a.counts"
    save_file({"mass": torch.zeros(2)}, path, metadata=header)
    with pytest.raises(TraceError, match=message):
        load_counts(path)


def test_tensors_that_do_not_fit_together_are_refused(counts, tmp_path):
    path = tmp_path / "a.counts"
    tensors = {name: part.clone() for name, part in counts.tensors().items()}
    tensors["samples"] = torch.zeros(2, 5, dtype=torch.float64)
    save_file(tensors, path, metadata={"format": "modeval-counts", "version": "1"})
    with pytest.raises(TraceError, match="samples has shape"):
        load_counts(path)
