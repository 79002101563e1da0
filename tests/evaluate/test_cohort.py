"""Evaluating cohorts: as precise as asked, no more samples than needed, seeds apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modeval.counting.count import count
from modeval.data.tasks import Coefficients, draw, stack_tasks
from modeval.errors import RunError
from modeval.evaluate import cohort
from modeval.evaluate.cohort import evaluate, half_width
from modeval.evaluate.near_boundary import push
from modeval.evaluate.runs import load_run
from modeval.evaluate.subject import Subject
from modeval.memory import keep_memory
from modeval.metrics import adaptation_from_marginals, conditional
from modeval.metrics.table import METRICS
from modeval.nn import create
from modeval.nn.routes import on_largest
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec, from_dict, without_unread
from modeval.spec.gatings import Gumbel, Linear, Switch
from modeval.tensors import write_tensors
from modeval.train import files, records

SMALL = {"encoder": 8, "width": 16}


def subject_of(data: DataSpec, model: ModelSpec, seeds: int = 1) -> Subject:
    return Subject(
        title="Modular",
        origin="run",
        data=data,
        model=model,
        objective_known=True,
        seeds=tuple((0, seed) for seed in range(seeds)),
        sources=("somewhere",) * seeds,
        faults=("",) * seeds,
        selection="last",
        network=create(data, model, range(seeds)),
    )


def data_of(task: str, **changes: object) -> DataSpec:
    small = {"task": task, "rules": 2, "dimension": 4, "length": 4, **changes}
    return from_dict(DataSpec, without_unread(DataSpec, small))


@pytest.mark.parametrize("scorer", ["none", "module", "shared", "rule", "oracle"])
@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_every_family_and_scorer_is_evaluated(task: str, scorer: str) -> None:
    data = data_of(task)
    modules = 1 if scorer == "none" else 0
    model = ModelSpec(scorer=scorer, modules=modules, **SMALL)  # type: ignore[arg-type]
    evaluation = evaluate(subject_of(data, model, seeds=2), precision=0.1)
    wanted = (
        [(None, 1.0), (None, 2.0)]
        if task == "binary"
        else [(n, f) for f in (1.0, 2.0) for n in data.tested_lengths]
    )
    found = [(loss.length, loss.factor) for loss in evaluation.losses]
    assert sorted(found, key=str) == sorted(wanted, key=str)
    assert (evaluation.counts is None) == (scorer == "none")
    if evaluation.counts is not None:
        assert evaluation.counts.conditional().shape == (2, 1, 2, 2)


def test_a_finer_precision_takes_more_samples_and_is_reached() -> None:
    subject = subject_of(data_of("binary"), ModelSpec(scorer="module", **SMALL))  # type: ignore[arg-type]
    assert subject.network is not None
    with torch.no_grad():
        subject.network.scorer.logit.weight.mul_(20)  # type: ignore[union-attr,operator]
    seen = []
    for precision in (0.05, 0.004):
        evaluation = evaluate(subject, precision=precision)
        assert evaluation.counts is not None
        assert evaluation.half_width is not None
        assert float(evaluation.half_width.max()) <= precision
        seen.append(float(evaluation.counts.samples.sum()))
        for loss in evaluation.losses:
            assert bool((loss.half_width() <= 4 * precision * loss.mean()).all())
    assert seen[1] > seen[0]


def test_the_half_width_of_independent_samples_is_that_of_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(1, 1, 64_000, 1, generator=generator)
    counts = count(
        torch.zeros(1, 1, 64_000, dtype=torch.int64),
        torch.cat((weight, 1 - weight), -1),
        rules=1,
        block=torch.arange(64_000) % cohort.BLOCKS,
        blocks=cohort.BLOCKS,
    )
    expected = 1.96 * (1 / 12 / 64_000) ** 0.5
    assert float(half_width(counts)) == pytest.approx(expected, rel=0.4)


def test_batches_of_an_evaluation_find_the_memory_of_those_before() -> None:
    keep_memory.cache_clear()
    evaluate(subject_of(data_of("binary"), ModelSpec(scorer="module", **SMALL)), precision=0.1)  # type: ignore[arg-type]
    assert keep_memory.cache_info().currsize == 1  # it was asked for; what that does: test_routed


def test_two_evaluations_give_the_same_numbers() -> None:
    subject = subject_of(data_of("binary"), ModelSpec(scorer="module", **SMALL))  # type: ignore[arg-type]
    first, second = (evaluate(subject, precision=0.05).counts for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first.mass, second.mass)


def test_oracle_routing_is_exactly_perfect_and_loses_nothing_when_hardened() -> None:
    subject = subject_of(data_of("binary"), ModelSpec(scorer="oracle", **SMALL))  # type: ignore[arg-type]
    evaluation = evaluate(subject, precision=0.05)
    assert evaluation.counts is not None
    assert torch.equal(evaluation.counts.conditional()[0, 0], torch.eye(2, dtype=torch.float64))
    assert float(evaluation.hardened["hard_gap"].mean()) == 0


def test_hardening_changes_nothing_where_routing_is_hard_already() -> None:
    logits = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0))
    for gating in (Switch(), Gumbel(), Linear()):
        weight = gating(logits)
        hard = on_largest(weight, 0)
        assert (hard != 0).sum(-1).max() == 1
        if gating.sparse:
            assert torch.equal(hard, weight)
    soft = on_largest(logits.softmax(-1), 0)
    assert torch.equal(soft, torch.nn.functional.one_hot(logits.argmax(-1), 3).float())


def test_hardened_routing_leaves_the_network_as_it_was() -> None:
    subject = subject_of(data_of("series"), ModelSpec(scorer="module", **SMALL))  # type: ignore[arg-type]
    assert subject.network is not None
    before = subject.network.gating
    evaluation = evaluate(subject, precision=0.1)
    assert subject.network.gating is before
    assert float(evaluation.hardened["hard_gap"].mean()) != 0


def test_a_broken_seed_neither_delays_nor_changes_the_others() -> None:
    data, model = data_of("binary"), ModelSpec(scorer="module", **SMALL)  # type: ignore[arg-type]
    whole, broken = subject_of(data, model, seeds=2), subject_of(data, model, seeds=2)
    assert broken.network is not None
    with torch.no_grad():
        for parameter in broken.network.parameters():
            parameter[1] = torch.nan
    faulty = replace(broken, faults=("", "its weights are not finite"))
    alone = replace(whole, faults=("", "left out"))
    first, second = evaluate(faulty, precision=0.05), evaluate(alone, precision=0.05)
    assert first.counts is not None
    assert second.counts is not None
    torch.testing.assert_close(first.counts.mass[0], second.counts.mass[0])
    assert not bool(first.losses[0].mean()[1].isfinite())


def test_regenerated_and_reweighted_adaptation_agree_where_both_are_exact() -> None:
    data = data_of("sets")
    subject = subject_of(data, ModelSpec(scorer="rule", **SMALL))  # type: ignore[arg-type]
    evaluation = evaluate(subject, precision=0.02)
    assert evaluation.shifted is None
    assert evaluation.counts is not None
    assert subject.network is not None
    bench = cohort._Bench(
        data=data,
        tasks=stack_tasks(data, [0]),
        network=subject.network,
        generators=[torch.Generator().manual_seed(0)],
        usable=torch.tensor([True]),
        precision=0.002,
    )
    with torch.inference_mode():
        shifted = cohort._shifted(bench)
    regenerated = adaptation_from_marginals(shifted.rules, shifted.modules)[0]
    reweighted = METRICS["adaptation_distance"].function(evaluation.counts.joint())[0, 0]
    assert float(regenerated) == pytest.approx(float(reweighted), abs=2e-3)
    assert conditional(evaluation.counts.joint()).shape == (1, 1, 2, 2)


def test_recurrent_losses_of_first_positions_are_those_of_short_series() -> None:
    data = data_of("series")
    subject = subject_of(data, ModelSpec(scorer="module", **SMALL))  # type: ignore[arg-type]
    losses = {(loss.length, loss.factor): loss for loss in evaluate(subject, precision=0.02).losses}
    short = subject_of(replace(data, length=10), ModelSpec(scorer="module", **SMALL))  # type: ignore[arg-type]
    [direct] = [
        loss
        for loss in evaluate(short, precision=0.02).losses
        if (loss.length, loss.factor) == (10, 1)
    ]
    slack = float(direct.half_width() + losses[10, 1.0].half_width()) * 1.5
    assert float(losses[10, 1.0].mean()) == pytest.approx(float(direct.mean()), abs=slack)


def test_samples_pushed_toward_the_boundary_keep_every_mean() -> None:
    data = DataSpec(task="binary", objective="classification", rules=3)
    tasks = stack_tasks(data, [0, 1])
    assert isinstance(tasks, Coefficients)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    batch = draw(replace(data, scale=2.0), tasks, generators, samples=200_000)
    moved, weight = push(batch, tasks, 2.0)
    assert torch.equal(moved.target, batch.target)
    assert weight.mean(1).tolist() == pytest.approx([1, 1], abs=0.01)
    square = (moved.inputs.square().sum(-1) * weight).mean(1)
    assert square.tolist() == pytest.approx([8, 8], rel=0.02)


def test_a_run_folder_is_read_with_its_failed_seeds_marked(tmp_path: Path) -> None:
    spec = RunSpec(
        data=data_of("binary"),
        model=ModelSpec(scorer="rule", **SMALL),  # type: ignore[arg-type]
        train=TrainSpec(seeds=((0, 0), (0, 1), (1, 0))),
    )
    network = create(spec.data, spec.model, [0, 1, 0])
    with torch.no_grad():
        network.decoder.hidden.bias[2] = torch.inf  # type: ignore[union-attr,operator]
    write_run(tmp_path / "run", spec, network, diverged=(None, 70, None))
    subject = load_run(tmp_path / "run", "last")
    assert subject.faults == (
        "",
        "its loss stopped being finite at step 70",
        "its weights are not finite",
    )
    assert subject.title == "Modular-op"
    assert records.find_runs(tmp_path) == [tmp_path / "run"]
    write_run(tmp_path / "other", spec, network, diverged=(None,))
    with pytest.raises(RunError, match="3 seeds"):
        load_run(tmp_path / "other", "last")


def write_run(
    folder: Path,
    spec: RunSpec,
    network: torch.nn.Module,
    *,
    diverged: tuple[int | None, ...] = (),
) -> None:
    files.start_folder(folder, spec)
    record = records.RunRecord(
        digest=spec.digest,
        status="complete",
        step=100,
        engine="eager",
        data="",
        diverged=diverged,
        versions={},
    )
    files.write_record(folder, record)
    write_tensors(folder / "last.safetensors", network.state_dict(), files.UNWRITTEN)
