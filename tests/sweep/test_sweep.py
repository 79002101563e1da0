"""Sweeps: nothing done twice, nothing lost, one failure stops nothing else."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from modeval import atomic
from modeval.errors import CheckpointError, CodeError, RunError, SpecError, StoppedError
from modeval.score.scorecard import Member, ModelRecord, Score, Scorecard, to_dict_form, together
from modeval.score.stored.files import scorecard_text, write_scorecard
from modeval.sweep.collect import collect
from modeval.sweep.cost import expected_seconds
from modeval.sweep.plan import (
    plan,
    read_sweep,
    share,
    state_of,
    take_code,
    with_seconds,
    write_sweep,
)
from modeval.sweep.run import Worker, failures, work

GRID = {"models": ["modular", "gt-modular"], "data": {"rules": [2, 4, 8]}}


def card(name):
    record = ModelRecord(
        id=name,
        title=name,
        origin="run",
        selection="last",
        data={"task": "binary", "rules": 2, "objective": "regression"},
        model={},
        digest="0",
        modules=2,
        members=(Member(seed=(0, 0), source=name),),
    )
    scores = tuple(
        Score(model=name, metric="hard_gap", seed=seed, value=1.0) for seed in (None, (0, 0))
    )
    return Scorecard(models=(record,), scores=scores)


def planned(folder):
    sweep = plan(GRID, folder)
    write_sweep(sweep)
    return read_sweep(folder)


def hands(done, *, fails=(), pause=0.0):
    """Return a worker that notes what it trains."""

    def train(cohort, folder, resume):
        done.append((cohort.name, resume))
        time.sleep(pause)
        if cohort.number in fails:
            raise CheckpointError(f"cohort {cohort.number} will not be trained")
        folder.mkdir(parents=True, exist_ok=True)

    def score(folder, path):
        write_scorecard(path, card(folder.name))

    return Worker(train=train, score=score)


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    sweep = with_seconds(plan(GRID, tmp_path), [1.5] * 6)
    write_sweep(sweep)
    assert read_sweep(tmp_path) == sweep


def test_a_larger_grid_keeps_numbers_and_results_of_the_smaller_one(tmp_path):
    before = planned(tmp_path)
    work(before, hands([]))
    wider = plan({**GRID, "data": {"rules": [16, 8, 4, 2]}}, tmp_path)
    write_sweep(wider)
    assert wider.cohorts[:6] == before.cohorts
    done = []
    outcome = work(read_sweep(tmp_path), hands(done))
    assert (outcome.before, outcome.done) == (6, 2)
    assert all("r16" in name for name, _ in done)


def test_a_failed_cohort_is_marked_and_stops_nothing_until_it_is_tried_again(tmp_path):
    sweep = planned(tmp_path)
    outcome = work(sweep, hands([], fails=(2,)))
    assert (outcome.done, outcome.failed) == (5, 1)
    assert state_of(sweep, sweep.cohorts[1]) == "failed"
    assert list(failures(sweep, sweep.cohorts).values()) == ["cohort 2 will not be trained"]
    assert work(sweep, hands([])).before == 6
    assert work(sweep, hands([]), retry=True).done == 1
    assert failures(sweep, sweep.cohorts) == {}


def test_a_failure_that_nobody_foresaw_stops_nothing_either(tmp_path):
    sweep = planned(tmp_path)

    def train(cohort, folder, _resume):
        if cohort.number == 2:
            raise RuntimeError("out of memory\nand a long story")
        folder.mkdir()

    outcome = work(sweep, replace(hands([]), train=train))
    assert (outcome.done, outcome.failed) == (5, 1)
    assert list(failures(sweep, sweep.cohorts).values()) == ["RuntimeError: out of memory"]


def test_what_a_dead_worker_held_is_done_before_the_living_one_ends(tmp_path):
    sweep = planned(tmp_path)
    done, held = [], contextlib.ExitStack()
    claim = sweep.claim(sweep.cohorts[0])
    claim.mkdir()
    held.enter_context(atomic.locked(claim))

    def train(cohort, folder, resume):
        if cohort.number == 4:
            held.close()  # its owner dies
        hands(done).train(cohort, folder, resume)

    outcome = work(sweep, replace(hands(done), train=train))
    assert (outcome.done, outcome.elsewhere) == (6, 0)
    assert done[-1][0] == sweep.cohorts[0].name


def test_a_stop_is_no_failure_and_the_cohort_goes_on_where_it_was(tmp_path):
    sweep = planned(tmp_path)

    def stop(_cohort, folder, _resume):
        folder.mkdir()
        raise StoppedError("Stopped after step 1 of 2")

    with pytest.raises(StoppedError):
        work(sweep, replace(hands([]), train=stop))
    assert state_of(sweep, sweep.cohorts[0]) == "stopped"
    done = []
    work(sweep, hands(done))
    assert done[0] == (sweep.cohorts[0].name, True)


def test_two_workers_never_do_one_cohort_twice_though_others_look_on(tmp_path):
    sweep = planned(tmp_path)
    done, looking = [], threading.Event()

    def look():
        while not looking.is_set():
            for cohort in sweep.cohorts:
                state_of(sweep, cohort)

    watcher = threading.Thread(target=look)
    watcher.start()
    workers = [threading.Thread(target=work, args=(sweep, hands(done, pause=0.02))) for _ in "ab"]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    looking.set()
    watcher.join()
    names = [name for name, _ in done]
    assert len(names) == len(set(names))
    left = work(sweep, hands(done))
    assert left.before + left.done == 6
    assert len(done) == 6


def _hold(folder, ready):
    sweep = read_sweep(folder)

    def hang(_cohort, run_folder, _resume):
        run_folder.mkdir()
        ready.set()
        time.sleep(60)

    work(sweep, replace(hands([]), train=hang))


@pytest.mark.slow
def test_the_claim_of_a_killed_worker_dies_with_it(tmp_path):
    sweep = planned(tmp_path)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_hold, args=(tmp_path, ready))
    worker.start()
    assert ready.wait(60)
    assert state_of(sweep, sweep.cohorts[0]) == "running"
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert state_of(sweep, sweep.cohorts[0]) == "stopped"
    assert work(sweep, hands([])).done == 6


def test_shards_are_disjoint_and_whole(tmp_path):
    cohorts = planned(tmp_path).cohorts
    parts = [share(cohorts, number, 4) for number in range(1, 5)]
    assert sorted((c for part in parts for c in part), key=lambda c: c.number) == list(cohorts)


def test_collecting_names_what_is_missing_and_needs_something(tmp_path):
    sweep = planned(tmp_path)
    with pytest.raises(RunError, match="modeval sweep run"):
        collect(sweep)
    work(sweep, hands([], fails=(3,)))
    collected = collect(sweep)
    assert len(collected.card.models) == 5
    assert [name.rsplit(" ", 1)[1] for name in collected.missing] == ["(failed)"]
    assert "1 of 6 cohorts" in collected.card.notes[0]


def test_putting_together_is_the_sum_in_order():
    cards = [card(f"model-{number}") for number in range(7)]
    assert [m.id for m in together(cards).models] == [c.models[0].id for c in cards]
    with pytest.raises(ValueError, match="nothing"):
        together([])


def test_models_that_share_a_name_get_a_number_and_keep_their_scores():
    one = card("a")
    both = together([one, card("b"), one, one])
    assert [model.id for model in both.models] == ["a", "b", "a-2", "a-3"]
    assert [score.model for score in both.scores] == [
        "a",
        "a",
        "b",
        "b",
        "a-2",
        "a-2",
        "a-3",
        "a-3",
    ]
    assert both == one + card("b") + one + one


def test_a_file_of_many_scores_is_what_json_itself_would_write(tmp_path):
    odd = replace(card("a").scores[1], note='"seed": null, "ü"\n\\', value=1e-300)
    made = replace(card("a"), scores=(*card("a").scores, odd))
    for each in (made, replace(made, scores=())):
        form = to_dict_form(each)
        plain = json.dumps(form, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        assert scorecard_text(each) == plain
    with pytest.raises(ValueError, match="JSON compliant"):
        scorecard_text(replace(made, scores=(replace(odd, value=float("nan")),)))


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 2}', "\x00"])
def test_a_damaged_list_is_one_error(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(RunError):
        read_sweep(tmp_path)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    planned(tmp_path)
    form = json.loads((tmp_path / "sweep.json").read_text())
    form["cohorts"][0]["name"] = "../../elsewhere"
    (tmp_path / "sweep.json").write_text(json.dumps(form))
    with pytest.raises(RunError, match="no name of a cohort"):
        read_sweep(tmp_path)


def test_a_folder_of_something_else_is_no_place_for_a_sweep(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(SpecError, match="Choose another --out"):
        plan(GRID, tmp_path)
    with pytest.raises(SpecError, match="Choose another --out"):
        plan(GRID, tmp_path / "thesis.tex")


def test_expected_times_are_exact_where_a_shape_was_tried_and_between_where_not(tmp_path):
    runs = [cohort.spec for cohort in plan(GRID, tmp_path).cohorts]
    tried = []

    def speed(run, seconds):
        tried.append((run, seconds))
        return 100 / run.data.rules

    told = []
    seconds = expected_seconds(
        runs, speed=speed, size=lambda run: run.data.rules, trials=4, announce=told.append
    )
    assert told == [4]
    assert len(tried) == 4  # the smallest and the largest of two families
    for run, expected in zip(runs, seconds, strict=True):
        assert expected == pytest.approx(run.train.steps * run.data.rules / 100)


def test_of_many_families_one_of_each_kind_is_tried_and_all_get_a_time(tmp_path):
    names = ["modular", "gt-modular", "modular-op", "low-rank-per-rule"]
    runs = [cohort.spec for cohort in plan({"models": names}, tmp_path).cohorts]
    tried = []

    def speed(run, seconds):
        tried.append(run.name)
        return 10.0

    found = expected_seconds(runs, speed=speed, size=lambda _run: 1, trials=3)
    assert len(tried) == 2
    assert found == pytest.approx([run.train.steps / 10 for run in runs])


def test_a_sweep_keeps_the_code_of_its_grid_and_runs_it_with_consent_alone(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("import torch\n\ndef gate(logits):\n    return torch.softmax(logits, -1)\n")
    folder = tmp_path / "sweep"
    grid = {**GRID, "models": ["modular"], "model": {"gating": ["soft", f"{mine}:gate"]}}
    write_sweep(plan(grid, folder))
    mine.write_text(mine.read_text() + "# another text\n")
    write_sweep(plan(grid, folder))  # makes other cohorts of it
    sweep = read_sweep(folder)
    assert len(sweep.cohorts) == 9
    with pytest.raises(CodeError, match="--trust-code"):
        take_code(sweep, trust=False)
    take_code(sweep, trust=True)
    kept = sorted((folder / "code").glob("*/mine.py"))
    assert len(kept) == 2
    kept[0].write_text("")
    with pytest.raises(CodeError, match="was changed"):
        take_code(sweep, trust=True)


def test_where_a_lock_keeps_nobody_out_workers_are_told_to_take_shards(tmp_path, monkeypatch):
    sweep = planned(tmp_path)
    monkeypatch.setattr(atomic, "_lock", lambda _handle: True)
    with pytest.raises(RunError, match=r"grants a lock to everybody.*--shard 1/4"):
        work(sweep, hands([]))
    assert work(sweep, hands([]), shard=(1, 2)).done == 3


@pytest.mark.parametrize("told", ["nolock", "local_lock=all", "localflock"])
def test_locks_that_other_machines_do_not_see_are_told_from_the_mount(tmp_path, monkeypatch, told):
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(atomic, "MOUNTS", mounts)
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/b {tmp_path.resolve()} nfs4 rw,{told} 0 0\n")
    assert told in atomic.why_unlocked(tmp_path)
    mounts.write_text(f"/dev/a / ext4 rw,{told} 0 0\nserver:/b {tmp_path.resolve()} nfs4 rw 0 0\n")
    assert not atomic.why_unlocked(tmp_path)
    mounts.unlink()
    assert not atomic.why_unlocked(tmp_path)
