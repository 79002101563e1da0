"""Runs that go on for longer or with more seeds: what comes of it, and what a kill leaves."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file

from modeval import native
from modeval.errors import RunError
from modeval.spec import DataSpec, ModelSpec, Phase, RunSpec, TrainSpec, seed_grid
from modeval.spec.gatings import EpsilonGreedy, Gumbel, TopK
from modeval.train import extend, files, loop, records

CPU = torch.device("cpu")


def spec(**train):
    settings = {
        "seeds": seed_grid(2, 1),
        "steps": 12,
        "batch": 16,
        "validate_every": 4,
        "learning_rate": 1e-2,
    }
    return RunSpec(
        data=DataSpec(rules=2),
        model=ModelSpec(encoder=4, width=8),
        train=TrainSpec(**(settings | train)),
    )


def run(spec, folder, *, engine="eager", **options):
    return loop.train(spec, folder, device=CPU, engine=engine, **options)


def assert_same(one, two, *, exactly=True):
    for name in files.WEIGHTS:
        left, right = load_file(one / name), load_file(two / name)
        for key, tensor in left.items():
            if exactly:
                assert torch.equal(tensor, right[key])
            else:
                torch.testing.assert_close(tensor, right[key], rtol=1e-4, atol=1e-5)


def contents(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "train", [{}, {"schedule": "steps", "milestones": (6, 15)}], ids=["constant", "steps"]
)
def test_more_steps_give_the_bits_of_a_run_of_so_many(tmp_path, train):
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    run(spec(steps=20, **train), whole)
    run(spec(**train), longer)
    record = run(spec(steps=20, **train), longer, resume=True)
    assert (record.status, record.step) == ("complete", 20)
    assert_same(whole, longer)
    assert (whole / records.LOG).read_text() == (longer / records.LOG).read_text()
    assert records.read_run(longer) == spec(steps=20, **train)
    assert records.read_record(longer).digest == records.read_record(whole).digest


def test_a_longer_run_keeps_its_validations_where_nothing_else_is_said(tmp_path):
    begun = spec(validate_every=None, steps=20)
    run(begun, tmp_path / "run")
    run(spec(validate_every=None, steps=40), tmp_path / "run", resume=True)
    assert records.read_run(tmp_path / "run").validate_every == 2
    assert len(records.read_log(tmp_path / "run")) == 20


def test_a_rate_that_falls_to_the_last_step_cannot_be_prolonged(tmp_path):
    run(spec(schedule="cosine"), tmp_path / "run")
    with pytest.raises(RunError, match="a longer run is another one"):
        run(spec(schedule="cosine", steps=20), tmp_path / "run", resume=True)
    assert records.read_record(tmp_path / "run").status == "complete"


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_more_seeds_give_the_cohort_of_so_many(tmp_path, engine):
    if engine == "fused" and not any(map(shutil.which, native.COMPILERS)):
        pytest.skip("no C++ compiler")
    whole, more = tmp_path / "whole", tmp_path / "more"
    seeds = seed_grid(3, 2)
    run(spec(seeds=seeds), whole, engine=engine)
    run(spec(seeds=((1, 1), (0, 0))), more, engine=engine)
    record = run(spec(seeds=seeds), more, engine=engine, resume=True)
    assert (record.status, record.diverged) == ("complete", (None,) * 6)
    assert_same(whole, more, exactly=engine == "fused")
    assert contents(more) == contents(whole)
    assert records.read_run(more) == spec(seeds=seeds)
    for one, two in zip(records.read_log(whole), records.read_log(more), strict=True):
        assert one["step"] == two["step"]
        assert one["validation_loss"] == pytest.approx(two["validation_loss"], rel=1e-4)
    assert files.read_network(more, "best").seeds == 6


def test_steps_and_seeds_may_grow_together_and_go_on_growing(tmp_path):
    folder = tmp_path / "run"
    run(spec(), folder)
    run(spec(steps=16, seeds=seed_grid(3, 1)), folder, resume=True)
    run(spec(steps=20, seeds=seed_grid(4, 1)), folder, resume=True)
    run(spec(steps=20, seeds=seed_grid(4, 1)), tmp_path / "whole")
    assert_same(tmp_path / "whole", folder, exactly=False)
    assert len(records.read_record(folder).former) == 4


def test_seeds_that_would_be_lost_are_named(tmp_path):
    run(spec(), tmp_path / "run")
    with pytest.raises(RunError, match=r"not among those asked for: \(task 1, model 0\)"):
        run(spec(seeds=((0, 0), (5, 0))), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("gating", "changes"),
    [
        (Gumbel(), True),
        (Gumbel(start=0.5, temperature=0.5), False),
        (EpsilonGreedy(), True),
        (EpsilonGreedy(epsilon=0.1, end=0.1), False),
        (TopK(k=2), False),
    ],
)
def test_a_gating_that_is_annealed_cannot_be_prolonged(tmp_path, gating, changes):
    begun, longer = (
        dataclasses.replace(
            spec(steps=steps), model=dataclasses.replace(spec().model, gating=gating)
        )
        for steps in (12, 16)
    )
    run(begun, tmp_path / "run")
    if changes:
        with pytest.raises(RunError, match="a gating that changes until its last step"):
            run(longer, tmp_path / "run", resume=True)
        return
    run(longer, tmp_path / "run", resume=True)
    run(longer, tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_the_last_of_several_phases_goes_on(tmp_path):
    begun, longer = (
        spec(steps=steps, phases=(Phase(steps=6, rules=(0,)), Phase())) for steps in (12, 16)
    )
    run(begun, tmp_path / "run")
    run(longer, tmp_path / "run", resume=True)
    run(longer, tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "run")
    more = dataclasses.replace(
        longer, train=dataclasses.replace(longer.train, seeds=seed_grid(3, 1))
    )
    run(more, tmp_path / "run", resume=True)
    assert files.read_network(tmp_path / "run").seeds == 3


class KilledError(Exception):
    """Stands for the end of the process."""


WRITES = ["write_record", "write_text", "write_checkpoint"]


@pytest.mark.parametrize("survived", range(9))
def test_a_kill_while_seeds_are_joined_loses_nothing(tmp_path, monkeypatch, survived):
    """Each write of the join in turn is the last one that happens."""
    folder, seeds = tmp_path / "run", seed_grid(3, 1)
    run(spec(), folder)
    begun = extend.join

    def killed(place):
        left = [survived]

        def wrapped(real):
            def write(*arguments, **options):
                if left[0] == 0:
                    raise KilledError
                left[0] -= 1
                return real(*arguments, **options)

            return write

        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(files, name, wrapped(getattr(files, name)))
            return begun(place)

    monkeypatch.setattr(extend, "join", killed)
    died = False
    try:
        run(spec(seeds=seeds), folder, resume=True)
    except KilledError:
        died = True
    assert died == (survived < 9)
    monkeypatch.setattr(extend, "join", begun)
    record = run(records.read_run(folder), folder, resume=True)
    assert record.status == "complete"
    run(spec(seeds=seeds), tmp_path / "whole")
    assert records.read_run(folder) == spec(seeds=seeds)
    assert_same(tmp_path / "whole", folder, exactly=False)
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_stop_while_new_seeds_are_trained_is_gone_on_with(tmp_path):
    folder, seeds = tmp_path / "run", seed_grid(3, 1)
    run(spec(), folder)

    def stop(progress):
        if progress.step >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec(seeds=seeds), folder, resume=True, watch=stop)
    assert records.find_runs(tmp_path) == [folder]
    assert files.read_network(folder).seeds == 2
    with pytest.raises(RunError, match="about to get other seeds"):
        run(spec(seeds=seed_grid(4, 1)), folder, resume=True)
    run(spec(), folder, resume=True)
    assert files.read_network(folder).seeds == 3


def test_a_run_on_another_step_is_not_joined(tmp_path):
    folder = tmp_path / "run"
    run(spec(), folder)
    wanted = dataclasses.replace(spec(seeds=seed_grid(3, 1)))
    extend.begin_adding(wanted, folder)
    run(spec(steps=4, seeds=((2, 0),)), folder / files.ADDING)
    with pytest.raises(RunError, match="at step 12, the new ones at step 4"):
        extend.join(folder)
    shutil.rmtree(folder / files.ADDING)
