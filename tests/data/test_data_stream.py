"""Finite data as a stream: every sample once an epoch, resumable, each member on its own."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.data import Dataset, batches, in_order, write_dataset
from modeval.errors import DataError
from modeval.spec import DataSpec
from modeval.types import Batch

SAMPLES = 23


@pytest.fixture(scope="module", name="dataset")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("stream") / "data"
    return write_dataset(folder, DataSpec(rules=3), (0, 4, 9), samples=SAMPLES, shard_size=10)


def read(
    dataset: Dataset, seeds: list[tuple[int, int]], *, batch: int, steps: int, start: int = 0
) -> Batch:
    """Return some steps, one after another."""
    source = batches(dataset, seeds, batch=batch, start_step=start)
    parts = list(islice(source, steps))
    assert all(part.rule.shape == (len(seeds), batch) for part in parts)
    return Batch(
        torch.cat([part.inputs for part in parts], 1),
        torch.cat([part.rule for part in parts], 1),
        torch.cat([part.target for part in parts], 1),
    )


def test_each_epoch_has_every_sample_once_in_a_new_order(dataset):
    (whole,) = in_order(dataset, batch=SAMPLES)
    drawn = read(dataset, [(4, 0)], batch=SAMPLES, steps=3).target[0, :, 0]
    epochs = torch.split(drawn, SAMPLES)
    expected = whole.target[1, :, 0].sort().values
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, expected)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_inputs_rule_and_target_stay_together(dataset):
    (whole,) = in_order(dataset, batch=SAMPLES)
    rows = {
        tuple(inputs): (rule, target)
        for inputs, rule, target in zip(
            whole.inputs[2].tolist(), whole.rule[2].tolist(), whole.target[2].tolist(), strict=True
        )
    }
    drawn = read(dataset, [(9, 5)], batch=7, steps=5)
    for inputs, rule, target in zip(
        drawn.inputs[0].tolist(), drawn.rule[0].tolist(), drawn.target[0].tolist(), strict=True
    ):
        assert rows[tuple(inputs)] == (rule, target)


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 60), start=st.integers(0, 40), steps=st.integers(1, 5))
def test_a_stream_resumes_at_any_step(dataset, batch, start, steps):
    seeds = [(0, 0), (4, 1)]
    whole = read(dataset, seeds, batch=batch, steps=start + steps)
    resumed = read(dataset, seeds, batch=batch, steps=steps, start=start)
    assert torch.equal(resumed.inputs, whole.inputs[:, start * batch :])


def test_steps_may_be_read_several_at_a_time(dataset):
    seeds = [(0, 0), (4, 1)]
    one_by_one = read(dataset, seeds, batch=5, steps=12)
    by_four = read(dataset, seeds, batch=20, steps=3)
    assert torch.equal(one_by_one.target, by_four.target)


def test_a_member_reads_alone_what_it_reads_in_a_cohort(dataset):
    seeds = [(9, 0), (0, 0), (0, 1), (4, 0)]
    together = read(dataset, seeds, batch=9, steps=6)
    for member, pair in enumerate(seeds):
        alone = read(dataset, [pair], batch=9, steps=6)
        assert torch.equal(alone.inputs[0], together.inputs[member])
        assert torch.equal(alone.rule[0], together.rule[member])
    assert not torch.equal(together.inputs[1], together.inputs[2])


def test_a_task_that_the_data_set_lacks_is_named(dataset):
    with pytest.raises(DataError, match=r"no task seed 7: it holds 0, 4, 9"):
        next(batches(dataset, [(0, 0), (7, 0)], batch=4))


def test_a_batch_of_nothing_is_refused(dataset):
    with pytest.raises(ValueError, match="batch = 0"):
        next(batches(dataset, [(0, 0)], batch=0))


def test_a_data_set_outlives_its_opening(tmp_path: Path) -> None:
    source = batches(
        write_dataset(tmp_path / "data", DataSpec(rules=2), (0,), samples=4), [(0, 0)], batch=2
    )
    assert next(source).rule.shape == (1, 2)
