"""Cohorts that memory does not hold at once are trained in parts: the same run comes of it."""

import pytest
import torch
from safetensors.torch import load_file

from modeval.errors import RunError
from modeval.nn import create
from modeval.spec import MODELS, DataSpec, ModelSpec, RunSpec, TrainSpec, seed_grid
from modeval.spec.gatings import Base
from modeval.train import files, footprint, loop, parts, records, stream
from modeval.train.stream import Stream, batches

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SEEDS = seed_grid(5, 1)


def spec(seeds=SEEDS, **model):
    return RunSpec(
        data=DataSpec(rules=2),
        model=ModelSpec(encoder=4, width=8, **model),
        train=TrainSpec(seeds=seeds, steps=8, batch=16, validate_every=4, learning_rate=1e-2),
    )


def run(folder, *, asked=None, **options):
    settings = {"device": CPU, "engine": "eager"} | options
    return loop.train(asked or spec(), folder, **settings)


@pytest.fixture
def room(monkeypatch):
    """Return what lets memory hold so many seeds at once."""
    size = footprint.seed_bytes(spec().data, spec().model, 16, stream.VALIDATION_SAMPLES)

    def hold(seeds):
        free = int((seeds + 0.5) * size / parts.SHARE)
        monkeypatch.setattr(footprint, "free_bytes", lambda _device: free)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 10 * free))

    return hold


def assert_same_run(one, two, *, exactly):
    assert records.read_run(one) == records.read_run(two)
    assert records.read_record(one).digest == records.read_record(two).digest
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-4, "atol": 1e-5}
    for name in (*files.WEIGHTS, files.STATE):
        left, right = load_file(one / name), load_file(two / name)
        assert left.keys() == right.keys()
        for key, tensor in left.items():
            torch.testing.assert_close(tensor, right[key], **tolerance)


@pytest.mark.parametrize("held", [1, 2, 3])
def test_a_run_in_parts_is_the_run_of_the_whole_cohort_to_the_last_bit(
    tmp_path, room, kernels, held
):
    whole, divided = tmp_path / "whole", tmp_path / "parts"
    run(whole, engine="fused")
    room(held)
    told = []
    run(divided, engine="fused", watch=told.append)
    assert_same_run(whole, divided, exactly=True)
    assert [item["step"] for item in records.read_log(divided)] == [4, 8]
    assert records.read_log(divided) == records.read_log(whole)
    notes = list(dict.fromkeys(progress.part for progress in told))
    assert len(notes) == -(-5 // held)
    assert notes[0].endswith("of 5: memory holds no more at once")


class DeathError(Exception):
    """Ends a run in its midst."""


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_a_run_in_parts_that_dies_anywhere_goes_on(tmp_path, room, monkeypatch, at):
    room(2)
    whole, cut, seen = tmp_path / "whole", tmp_path / "cut", []
    run(whole)
    append = files.append_log

    def die(folder, entry):
        seen.append(entry)
        if len(seen) == at:
            raise DeathError
        append(folder, entry)

    monkeypatch.setattr(files, "append_log", die)
    with pytest.raises(DeathError):
        run(cut)
    held = records.read_run(cut)  # as a user resumes who names nothing but the folder
    run(cut, asked=held, resume=True)
    assert_same_run(whole, cut, exactly=True)


def test_seeds_that_are_added_come_in_parts_too(tmp_path, room):
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    run(whole)
    run(grown, asked=spec(SEEDS[:1]))
    room(2)
    told = []
    run(grown, resume=True, watch=told.append)
    assert_same_run(whole, grown, exactly=False)
    assert {progress.part[:16] for progress in told} == {"seeds 1 to 2 of ", "seeds 3 to 4 of "}


def test_what_is_in_the_way_is_refused_before_anything_is_written(tmp_path, room):
    room(2)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run of modeval"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_memory_of_a_gpu_is_the_one_that_counts_there(room, monkeypatch):
    room(2)
    monkeypatch.undo()
    free = 7 * footprint.seed_bytes(spec().data, spec().model, 16, 640) / parts.SHARE
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (int(free) + 9, 10**12))
    sizes = [len(part.seeds) for part in parts.parts(spec(), seed_grid(20, 1), GPU, 640)]
    assert sizes == [7, 7, 6]
    assert parts.seeds_that_fit(spec(), 20, CPU, 640) == 20


def test_a_network_of_unknown_size_is_trained_as_a_whole(room):
    room(1)
    assert parts.seeds_that_fit(spec(gating=Base()), 5, CPU, 64) == 5


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_what_a_validation_holds_is_what_it_holds_with_real_samples(task):
    data, model = DataSpec(task=task, rules=3), ModelSpec(**MODELS["modular"], encoder=8, width=24)
    network = create(data, model, (1, 2))
    batch = next(batches(Stream(data, ((1, 1), (2, 2)), 40, CPU)))
    inputs, rule = batch.inputs.clone(), batch.rule.clone()  # not views of all that was drawn
    with torch.no_grad(), footprint._Held() as held:
        network(inputs, rule)
    expected = footprint.validation_bytes(data, model, 40)
    assert 2 * expected == pytest.approx(held.most, rel=0.1)


@pytest.mark.parametrize(
    ("limit", "left"), [("1000", 600), ("300", 0), ("max", None), (None, None)]
)
def test_the_limit_of_a_container_is_kept(tmp_path, limit, left):
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("400\n")
    assert footprint._left_to_container(tmp_path) == left
