"""Cohorts: the stream, the loop, checkpoints, resuming, and what may never reach another seed."""

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file

from modeval.errors import RunError
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec, seed_grid, to_toml
from modeval.train import files, loop, records, stream
from modeval.train.goal import losses as mean_losses

CPU = torch.device("cpu")


def spec(**train):
    settings = {
        "seeds": ((0, 0), (1, 0), (0, 7)),
        "steps": 12,
        "batch": 16,
        "validate_every": 4,
        "learning_rate": 1e-3,
    }
    return RunSpec(
        data=DataSpec(rules=2),
        model=ModelSpec(encoder=4, width=8),
        train=TrainSpec(**(settings | train)),
    )


def run(spec, folder, **options):
    return loop.train(spec, folder, device=CPU, engine="eager", **options)


def test_a_run_folder_holds_spec_log_and_weights(tmp_path):
    record = run(spec(), tmp_path / "run")
    assert record.status == "complete"
    assert record.step == 12
    assert records.read_run(tmp_path / "run") == spec()
    log = records.read_log(tmp_path / "run")
    assert [entry["step"] for entry in log] == [4, 8, 12]
    assert all(len(entry["loss"]) == 3 for entry in log)
    assert files.read_network(tmp_path / "run", "best").seeds == 3


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_removing_a_seed_changes_nothing_for_the_others(tmp_path, removed):
    everyone = spec()
    others = tuple(pair for index, pair in enumerate(everyone.train.seeds) if index != removed)
    run(everyone, tmp_path / "all")
    run(spec(seeds=others), tmp_path / "others")
    whole = load_file(tmp_path / "all" / "last.safetensors")
    part = load_file(tmp_path / "others" / "last.safetensors")
    kept = [index for index in range(3) if index != removed]
    for name, tensor in part.items():
        torch.testing.assert_close(tensor, whole[name][kept], rtol=1e-5, atol=1e-6)


def test_the_stream_is_a_function_of_seed_and_step():
    data = DataSpec(rules=3)
    place = stream.Stream(data, seed_grid(2, 1), 8, CPU)
    length = stream.chunk_steps(data, 8)
    source = stream.batches(place)
    drawn = [next(source) for _ in range(length + 3)]
    for step in (0, 5, length - 1, length, length + 2):
        again = next(stream.batches(place, start=step))
        assert torch.equal(again.inputs, drawn[step].inputs)
        assert torch.equal(again.rule, drawn[step].rule)
        assert torch.equal(again.target, drawn[step].target)
    alone = next(stream.batches(dataclasses.replace(place, seeds=place.seeds[1:])))
    assert torch.equal(alone.inputs[0], drawn[0].inputs[1])


def test_chunks_do_not_depend_on_the_size_of_the_cohort():
    data = DataSpec(task="sets", rules=32)
    assert stream.chunk_steps(data, 256) == 3
    assert stream.chunk_steps(DataSpec(), 256) == stream.CHUNK_STEPS


def test_validation_samples_are_not_training_samples():
    place = stream.Stream(DataSpec(rules=3), ((0, 0),), 8, CPU)
    training = next(stream.batches(place)).inputs
    assert not torch.equal(stream.validation_batch(place, 8).inputs, training)


@pytest.mark.parametrize("stop", [4, 6, 11])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, stop):
    run(spec(), tmp_path / "whole")

    def interrupt(progress):
        if progress.step == stop:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunError, match="--resume"):
        run(spec(), tmp_path / "cut", watch=interrupt)
    run(spec(), tmp_path / "cut", resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        whole, cut = (load_file(tmp_path / folder / name) for folder in ("whole", "cut"))
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
    logs = [(tmp_path / folder / records.LOG).read_text() for folder in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_series_are_trained_with_the_clip_of_the_reference_unless_another_is_asked_for(tmp_path):
    """Large inputs, so that norms exceed 1 at once; the first steps of usual ones do not."""
    series, model = DataSpec(task="series", rules=2, dimension=4, scale=20.0), spec().model
    weights = {}
    for name, clip in (("default", None), ("reference", 1.0), ("none", 0.0)):
        train = TrainSpec(steps=30, batch=16, learning_rate=0.1, clip=clip)
        run(RunSpec(data=series, model=model, train=train), tmp_path / name)
        weights[name] = load_file(tmp_path / name / "last.safetensors")
    for key, value in weights["default"].items():
        assert torch.equal(value, weights["reference"][key])
    assert any(not torch.equal(v, weights["none"][k]) for k, v in weights["default"].items())


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_any_number_of_rules_is_trained_at_the_usual_width(tmp_path, task):
    odd = RunSpec(data=DataSpec(task=task, rules=3), train=TrainSpec(steps=1, batch=4))
    assert run(odd, tmp_path / "run").status == "complete"


def test_the_best_of_a_classifier_is_that_of_most_hits_when_asked_for(tmp_path):
    """The reference chooses by accuracy; loss and accuracy do not agree on every validation."""
    for best_by in ("loss", "accuracy"):
        asked = RunSpec(
            data=DataSpec(rules=2, objective="classification"),
            model=spec().model,
            train=TrainSpec(
                learning_rate=0.1, steps=40, batch=16, validate_every=1, best_by=best_by
            ),
        )
        run(asked, tmp_path / best_by)
    assert hits(tmp_path / "accuracy") >= hits(tmp_path / "loss")
    assert hits(tmp_path / "accuracy") != hits(tmp_path / "loss")


def hits(folder):
    """Return the mean accuracy of the best checkpoint on the samples it was chosen on."""
    run_spec = records.read_run(folder)
    place = stream.Stream(run_spec.data, run_spec.train.seeds, run_spec.train.batch, CPU)
    batch = stream.validation_batch(place, stream.VALIDATION_SAMPLES)
    network = files.read_network(folder, "best")
    with torch.no_grad():
        prediction = network(batch.inputs, batch.rule).prediction
    return float(((prediction >= 0) == (batch.target > 0)).float().mean())


def test_the_best_weights_are_kept_for_each_seed_on_its_own(tmp_path):
    run(spec(learning_rate=0.5, steps=20, validate_every=1), tmp_path / "run")
    log = records.read_log(tmp_path / "run")
    losses = torch.tensor([entry["validation_loss"] for entry in log])
    assert len(set(losses.argmin(0).tolist())) > 1, "the seeds should differ in their best step"
    network = files.read_network(tmp_path / "run", "best")
    place = stream.Stream(spec().data, spec().train.seeds, 16, CPU)
    batch = stream.validation_batch(place, stream.VALIDATION_SAMPLES)
    found = mean_losses(network(batch.inputs, batch.rule).prediction, batch.target, "regression")
    torch.testing.assert_close(found.detach(), losses.amin(0), rtol=1e-5, atol=1e-6)


def test_a_seed_that_diverges_is_marked_and_leaves_the_others_unharmed(tmp_path, monkeypatch):
    run(spec(), tmp_path / "sound")
    create = loop.create

    def poisoned(*arguments):
        network = create(*arguments)
        with torch.no_grad():
            network.decoder.readout.bias[1] = torch.nan
        return network

    monkeypatch.setattr(loop, "create", poisoned)
    record = run(spec(), tmp_path / "poisoned")
    assert record.diverged == (None, 4, None)
    assert records.read_log(tmp_path / "poisoned")[-1]["loss"][1] is None
    sound, other = (
        load_file(tmp_path / folder / "last.safetensors") for folder in ("sound", "poisoned")
    )
    for name, tensor in sound.items():
        torch.testing.assert_close(tensor[[0, 2]], other[name][[0, 2]], rtol=1e-6, atol=1e-7)


def test_learning_rates_follow_their_schedule():
    halved = TrainSpec(schedule="steps", milestones=(10, 20), learning_rate=0.8)
    assert [loop.learning_rate(halved, step) for step in (0, 9, 10, 20)] == [0.8, 0.8, 0.4, 0.2]
    cosine = TrainSpec(schedule="cosine", steps=100, learning_rate=0.8)
    assert loop.learning_rate(cosine, 0) == pytest.approx(0.8)
    assert loop.learning_rate(cosine, 50) == pytest.approx(0.4)
    assert loop.learning_rate(TrainSpec(), 5_000) == TrainSpec().learning_rate


def test_folders_that_are_not_this_run_are_refused(tmp_path):
    with pytest.raises(RunError, match="Drop --resume"):
        run(spec(), tmp_path / "none", resume=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not a run of modeval"):
        run(spec(), tmp_path / "foreign")
    run(spec(), tmp_path / "run")
    with pytest.raises(RunError, match=r"train\.steps is 12 there and 13 here.* --resume for more"):
        run(spec(steps=13), tmp_path / "run")
    with pytest.raises(RunError, match=r"train\.steps is 12 there and 11 here"):
        run(spec(steps=11), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match=r"train\.batch is 16 there and 8 here"):
        run(spec(batch=8), tmp_path / "run", resume=True)
    assert (tmp_path / "foreign" / "thesis.tex").read_text() == "years of work"


def test_a_full_disk_is_one_clear_error_and_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save, calls = safetensors.torch.save_file, []

    def full(content, path, metadata):
        calls.append(path)
        if len(calls) == 4:  # the first file of the second checkpoint
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(content, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(RunError, match="the disk is full"):
        run(spec(), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors", "last.safetensors", "log.jsonl", "run.json", "spec.toml",
        "state.safetensors",
    ]  # fmt: skip
    monkeypatch.setattr(safetensors.torch, "save_file", save)
    run(spec(), folder, resume=True)
    run(spec(), tmp_path / "whole")
    cut, whole = (load_file(path / "last.safetensors") for path in (folder, tmp_path / "whole"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "last.safetensors").write_bytes(b"short"), "damaged or cut"),
        (lambda folder: (folder / "last.safetensors").unlink(), "though the run is complete"),
        (lambda folder: (folder / "run.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "run.json").write_text('{"format": 99}'), "format 99"),
        (
            lambda folder: (folder / "spec.toml").write_text(to_toml(RunSpec())),
            "changed after the run began",
        ),
    ],
)
def test_damaged_runs_are_refused_with_the_file_and_the_reason(tmp_path, damage, message):
    folder = tmp_path / "run"
    run(spec(), folder)
    damage(folder)
    with pytest.raises(RunError, match=message):
        files.read_network(folder)


def test_the_record_is_plain_json(tmp_path):
    run(spec(), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["format"] == records.FORMAT
    assert record["diverged"] == [None, None, None]
