"""Named regimes: what each promises holds to the bit, or in the mean over seeds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.prune import l1_unstructured

from modeval.errors import RunError, SpecError
from modeval.evaluate.runs import load_run
from modeval.metrics.course import backward_transfer, forgetting
from modeval.nn import create
from modeval.score.entries import Members
from modeval.score.over_time import over_time
from modeval.spec import DataSpec, RunSpec, choices_of, from_dict, load_toml, to_toml
from modeval.spec.phases import SAM, SGD, Claim, Phase, Prune, Rewind, Tilt
from modeval.spec.regimes import Regime
from modeval.spec.systems import named
from modeval.train import files, records
from modeval.train.actions import KEPT, PRUNED, Scene, act
from modeval.train.learners import GROUPS
from modeval.train.learners import named as names_of
from modeval.train.loop import Progress, train
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches, validation_batch
from modeval.train.teachers import winning_modules

CPU = torch.device("cpu")
REGIMES = choices_of(Regime)


def spec_of(
    regime: str, *, steps: int = 24, rules: int = 3, seeds: int = 2, **more: Any
) -> RunSpec:
    kind: Any = REGIMES[regime]
    name = more.pop("name", kind.model)
    settings = {"encoder": 6, "width": 12, **more.pop("model", {})}
    training = {
        "seeds": [[seed, seed] for seed in range(seeds)],
        "steps": steps,
        "batch": 32,
        "learning_rate": 1e-2,
        "validate_every": 5,
        "regime": {"kind": regime, **more.pop("settings", {})},
        **more,
    }
    model, told = named(name, settings, training)
    return from_dict(RunSpec, {"data": {"rules": rules}, "model": model, "train": told})


def trained(spec: RunSpec, folder: Path) -> dict[str, torch.Tensor]:
    train(spec, folder, device=CPU, engine="eager")
    return files.read_network(folder).state_dict()


def answers(folder: Path, selection: str, rule: int) -> torch.Tensor:
    """Return what a run says of samples of one rule, by the weights that are named."""
    network, spec = files.read_network(folder, selection), records.read_run(folder)
    batch = next(batches(Stream(spec.data, spec.train.seeds, 64, CPU, phase=99, rules=(rule,))))
    with torch.no_grad():
        prediction: torch.Tensor = network(batch.inputs, batch.rule).prediction
    return prediction


def rule_losses(folder: Path) -> list[torch.Tensor]:
    """Return the validation loss of each rule ``(S, R)`` after each phase."""
    ends = [end for _, end, _ in records.read_run(folder).stretches]
    log = {entry["step"]: torch.tensor(entry["rule_loss"]) for entry in records.read_log(folder)}
    return [log[end] for end in ends]


class Death(Exception):  # noqa: N818 - what a crash looks like
    """A process that ends."""


BRED: dict[str, Any] = {"gating": {"population": 4, "trial": 3}}
"""Settings of the models of regimes, so that short runs show what long ones do."""


@pytest.mark.parametrize(
    ("regime", "more"),
    [
        *((regime, {}) for regime in ("replay", "packnet", "supsup", "lottery", "fusion")),
        ("merged", {}),
        ("pathnet", {"model": BRED}),
        ("sequential", {"name": "routing-network"}),  # a reward of late is part of the state
        ("sequential", {"model": {"gating": {"kind": "balanced-top-k"}}}),
    ],
)
def test_a_regime_that_dies_twice_in_each_phase_comes_to_the_same_bits(
    tmp_path: Path, regime: str, more: dict[str, Any]
) -> None:
    spec = spec_of(regime, seeds=1, rules=2, **more)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trained(spec, whole)
    for _, end, _ in spec.stretches:
        for stop in (end - 1, end):  # a death within the phase, then one at its end

            def watch(progress: Progress, stop: int = stop) -> None:
                if progress.step >= stop:
                    raise Death

            with pytest.raises(Death):
                train(
                    spec, cut, device=CPU, engine="eager", watch=watch, resume=records.is_run(cut)
                )
    train(spec, cut, device=CPU, engine="eager", resume=True)
    assert records.read_log(cut) == records.read_log(whole)
    for selection in ("last", "best", *(f"phase-{n + 1}" for n in range(len(spec.phases)))):
        one, two = (files.read_network(folder, selection).state_dict() for folder in (cut, whole))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_is_written_and_read_back_and_shares_its_steps_out(
    tmp_path: Path, regime: str
) -> None:
    spec = spec_of(regime)
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(spec))
    assert from_dict(RunSpec, load_toml(path)) == spec
    assert [end - first for first, end, _ in spec.stretches][-1] > 0
    assert spec.stretches[-1][1] == spec.train.steps


@pytest.mark.parametrize("regime", ["separate", "progressive", "packnet", "supsup", "pathnet"])
def test_what_protects_modules_forgets_nothing_to_the_bit(tmp_path: Path, regime: str) -> None:
    spec = spec_of(regime, steps=40, model=BRED if regime == "pathnet" else {})
    trained(spec, tmp_path / "run")
    after = {phase.rules: f"phase-{number}" for number, phase in enumerate(spec.phases, 1)}
    for (rule,), selection in after.items():
        first, last = (answers(tmp_path / "run", each, rule) for each in (selection, "last"))
        assert torch.equal(first, last)
    losses = rule_losses(tmp_path / "run")
    assert bool((losses[-1] < losses[0]).any()), "later phases learned something"


def test_naive_training_forgets_rules_that_conflict_and_replay_forgets_less(tmp_path: Path) -> None:
    forgotten = {}
    for regime in ("sequential", "replay", "rehearsal"):
        spec = spec_of(regime, steps=300, rules=2, seeds=4, name="monolithic")
        trained(spec, tmp_path / regime)
        first, last = rule_losses(tmp_path / regime)
        forgotten[regime] = float((last - first)[:, 0].mean())
    assert forgotten["sequential"] > 0.3
    assert forgotten["replay"] < forgotten["sequential"] / 2
    assert forgotten["rehearsal"] < forgotten["sequential"] / 2


@pytest.mark.parametrize("regime", ["post-hoc", "joint-then-post-hoc", "fusion"])
def test_what_comes_later_leaves_what_was_there_as_it_was(tmp_path: Path, regime: str) -> None:
    spec = spec_of(regime, steps=60, rules=4, model={"width": 24})
    last = trained(spec, tmp_path / "run")
    network = files.read_network(tmp_path / "run", "phase-1")
    learned = spec.phases[1].learns[0]
    for name, value in network.named_parameters():
        assert torch.equal(last[name], value) or name in names_of(network, learned), name
    if regime != "fusion":  # its routers mix all modules for all rules
        first, end = (answers(tmp_path / "run", each, 0) for each in ("phase-1", "last"))
        assert torch.equal(first, end)
        before, after = rule_losses(tmp_path / "run")
        assert bool((after[:, 2:].mean(1) < before[:, 2:].mean(1)).all())


def test_a_winning_ticket_trains_to_the_dense_loss_and_a_random_one_of_its_size_does_not(
    tmp_path: Path,
) -> None:
    loss = {}
    for ticket in ("winning", "random"):
        spec = spec_of(
            "lottery", rules=2, seeds=5, steps=750, validate_every=750,
            model={"width": 24, "encoder": 8}, settings={"rounds": 2, "ticket": ticket},
        )  # fmt: skip
        trained(spec, tmp_path / ticket)
        told = [entry["validation_loss"] for entry in records.read_log(tmp_path / ticket)]
        loss["dense"], loss[ticket] = torch.tensor(told[0]), torch.tensor(told[-1])

    def ends(values: torch.Tensor) -> tuple[float, float]:
        half = 2.776 * float(values.std()) / 5**0.5  # of Student's t for 5 seeds
        return float(values.mean()) - half, float(values.mean()) + half

    low, _ = ends(loss["random"] - loss["winning"])
    _, high = ends(loss["winning"] - loss["dense"])
    assert low > 0.2
    assert high < 0.1


def test_a_buffer_holds_so_many_samples_of_earlier_rules_and_no_others() -> None:
    stream = Stream(
        DataSpec(rules=4), ((0, 0), (1, 5)), 32, CPU, 1, rules=(3,), replay=0.5, earlier=(0, 2),
        buffer=10,
    )  # fmt: skip
    source = batches(stream)
    kept = [next(source) for _ in range(40)]
    rules = torch.cat([batch.rule for batch in kept], 1)
    assert {*rules.flatten().tolist()} == {0, 2, 3}
    assert [int((row == 3).sum()) for row in rules] == [16 * 40] * 2
    for seed in range(2):
        old = torch.cat([batch.inputs[seed, :16] for batch in kept])
        assert len(old.unique(dim=0)) <= 10
    alone = next(batches(Stream(**{**_fields(stream), "seeds": ((1, 5),)})))
    assert torch.equal(alone.inputs[0], kept[0].inputs[1]), "a seed is what it is alone"


def _fields(stream: Stream) -> dict[str, Any]:
    return {name: getattr(stream, name) for name in Stream.__dataclass_fields__}


def test_replay_without_a_buffer_draws_earlier_rules_in_their_share() -> None:
    stream = Stream(DataSpec(rules=3), ((0, 0),), 64, CPU, rules=(2,), replay=0.25, earlier=(0, 1))
    assert stream.shares is not None
    torch.testing.assert_close(stream.shares, torch.tensor([0.125, 0.125, 0.75]))


@pytest.mark.parametrize("optimiser", [SGD(), SAM()])
def test_what_is_held_keeps_its_bits_under_every_optimiser(optimiser: Any) -> None:
    spec = spec_of("separate")
    network = create(spec.data, spec.model, (0, 1))
    phase = Phase(modules=(1,), optimiser=optimiser)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    stepper = Stepper(network, "regression", engine="eager", phase=phase)
    for _ in range(3):
        batch = next(batches(Stream(spec.data, spec.train.seeds, 32, CPU)))
        stepper.step(batch, torch.tensor(1e-2))
    own = names_of(network, "own")
    for name, value in network.named_parameters():
        assert not torch.equal(value, before[name])
        if name in own:
            assert torch.equal(value[:, [0, 2]], before[name][:, [0, 2]])


def test_sgd_and_sam_take_the_steps_of_their_formulas() -> None:
    spec = spec_of("joint")
    batch = next(batches(Stream(spec.data, ((0, 0),), 32, CPU)))

    def gradients(network: Any) -> list[torch.Tensor]:
        loss = (network(batch.inputs, batch.rule).prediction - batch.target).abs().mean()
        return list(torch.autograd.grad(loss, list(network.parameters())))

    network = create(spec.data, spec.model, (0,))
    stepper = Stepper(network, "regression", engine="eager", phase=Phase(optimiser=SGD()))
    velocity = [torch.zeros_like(value) for value in network.parameters()]
    for _ in range(3):
        velocity = [0.9 * v + g for v, g in zip(velocity, gradients(network), strict=True)]
        moved = [w - 0.1 * v for w, v in zip(network.parameters(), velocity, strict=True)]
        stepper.step(batch, torch.tensor(0.1))
        for value, expected in zip(network.parameters(), moved, strict=True):
            torch.testing.assert_close(value, expected)

    network = create(spec.data, spec.model, (0,))
    uphill = create(spec.data, spec.model, (0,))
    slope = gradients(network)
    norm = torch.stack([g.square().sum() for g in slope]).sum().sqrt()
    with torch.no_grad():
        for value, gradient in zip(uphill.parameters(), slope, strict=True):
            value.add_(0.05 * gradient / norm)
    stepper = Stepper(network, "regression", engine="eager", phase=Phase(optimiser=SAM()))
    stepper.step(batch, torch.tensor(0.1))
    for mean, gradient in zip(stepper.means, gradients(uphill), strict=True):
        torch.testing.assert_close(mean, 0.1 * gradient)


def scene(spec: RunSpec) -> Scene:
    seeds = [model for _, model in spec.train.seeds]

    def start(models: list[int]) -> dict[str, torch.Tensor]:
        fresh = create(spec.data, spec.model, models)
        return {name: value.detach() for name, value in fresh.named_parameters()}

    return Scene(
        network=create(spec.data, spec.model, seeds),
        marks={},
        seeds=spec.train.seeds,
        phase=0,
        values=lambda _: start(seeds),
        redrawn=lambda: start([seed + 100 for seed in seeds]),
    )


def test_pruning_agrees_with_pytorch_and_takes_its_share_of_what_is_free() -> None:
    spec = spec_of("lottery")
    at = scene(spec)
    start = {name: value.detach().clone() for name, value in at.network.named_parameters()}
    act((Prune(share=0.5, parameters="*weight"),), at)
    for name, value in at.network.named_parameters():
        if name.endswith("weight"):
            for seed in range(2):
                layer = torch.nn.Module()
                layer.weight = torch.nn.Parameter(start[name][seed].clone())
                l1_unstructured(layer, "weight", amount=0.5)
                theirs = layer.weight != 0
                assert torch.equal(value[seed] != 0, theirs) or theirs.numel() % 2
        else:
            assert torch.equal(value, start[name])
    act((Prune(share=0.5, parameters="*weight", scope="all"),), at)
    left = [float((at.marks[name] == 0).float().mean()) for name in at.marks]
    sizes = [at.marks[name].numel() for name in at.marks]
    mean = sum(a * b for a, b in zip(left, sizes, strict=True)) / sum(sizes)
    assert mean == pytest.approx(0.25, abs=0.01)


def test_a_rewound_ticket_has_its_start_where_it_was_not_pruned() -> None:
    at = scene(spec_of("lottery"))
    start = {name: value.detach().clone() for name, value in at.network.named_parameters()}
    with torch.no_grad():
        for value in at.network.parameters():
            value.mul_(2).add_(0.1)
    act((Prune(share=0.5, parameters="*weight"), Rewind()), at)
    for name, value in at.network.named_parameters():
        kept = at.marks[name] != PRUNED if name in at.marks else torch.ones_like(value).bool()
        assert torch.equal(value[kept], start[name][kept])
        assert not value[~kept].any()


def test_claims_of_rules_are_disjoint_and_contain_the_earlier_ones() -> None:
    at = scene(spec_of("packnet"))
    name = "experts.hidden.shared.weight"
    for module in range(2):
        act((Prune(share=0.5, parameters="*.shared.weight"), Claim(module=module)), at)
        with torch.no_grad():  # the next rule trains what is free
            at.network.get_parameter(name)[at.marks[name] != KEPT] = 1.0
    kept = at.network.get_buffer("experts.hidden.own_kept")
    assert bool((kept[:, 0] <= kept[:, 1]).all())
    assert [float(kept[:, module].mean()) for module in range(3)] == [0.5, 0.75, 1.0]


def test_pathnet_keeps_its_winners_and_their_path_and_resets_the_others(tmp_path: Path) -> None:
    spec = spec_of("pathnet", steps=60, rules=3, model={**BRED, "layers": 2})
    trained(spec, tmp_path / "run")
    start = dict(create(spec.data, spec.model, (0, 1)).named_parameters())
    own = sorted(names_of(files.read_network(tmp_path / "run"), "own"))
    assert {name.split(".")[0] for name in own} == {"experts", "layers"}
    ever = torch.zeros(2, 2, 3, dtype=torch.bool)
    before, held = start, ever.clone()
    for number in (1, 2, 3):
        network = files.read_network(tmp_path / "run", f"phase-{number}")
        ever |= winning_modules(network, range(number))  # type: ignore[arg-type]
        now = dict(network.named_parameters())
        for name in own:
            kept = ever[:, int(name.startswith("layers."))]
            assert torch.equal(now[name][~kept], start[name][~kept]), "the others begin again"
            assert (now[name][kept] != start[name][kept]).flatten(1).any(1).all()
            kept = held[:, int(name.startswith("layers."))]
            assert torch.equal(now[name][kept], before[name][kept])
        for logit in ("scorer.logit", "layers.0.scorer.logit"):
            assert torch.equal(now[logit][:, : number - 1], before[logit][:, : number - 1])
        before, held = now, ever.clone()


def test_a_path_is_kept_only_where_paths_are_bred(tmp_path: Path) -> None:
    phase = {"after": [{"kind": "keep", "rules": [0]}]}
    spec = spec_of("joint", phases=[phase])
    with pytest.raises(RunError, match="--gating evolved"):
        train(spec, tmp_path / "run", device=CPU)
    with pytest.raises(SpecError, match="keep of rule 7"):
        spec_of("joint", phases=[{"after": [{"kind": "keep", "rules": [7]}]}])


def test_a_tilt_sends_nearly_all_to_one_module() -> None:
    for name in ("modular", "modular-op", "global-weights", "top-k"):
        spec = spec_of("joint", name=name, tilt=9.0)
        assert spec.phases[0].before == (Tilt(amount=9.0),)
        at = scene(spec)
        act(spec.phases[0].before, at)
        batch = next(batches(Stream(spec.data, spec.train.seeds, 32, CPU)))
        weight = at.network(batch.inputs, batch.rule).routed[0].weight
        assert float(weight[..., 0].detach().min()) > 0.9, name


def test_given_routing_trains_each_module_on_its_own_rule() -> None:
    spec = spec_of("fusion")
    network = create(spec.data, spec.model, (0, 1))
    before = network.experts.hidden.own_down.detach().clone()  # type: ignore[union-attr,operator]
    stepper = Stepper(network, "regression", engine="eager", phase=spec.phases[0])
    stream = Stream(spec.data, spec.train.seeds, 32, CPU, rules=(1,))
    source = batches(stream)
    for _ in range(3):
        stepper.step(next(source), torch.tensor(1e-2))
    moved = (network.experts.hidden.own_down != before).flatten(2).any(-1)  # type: ignore[union-attr]
    assert moved.tolist() == [[False, True, False]] * 2


def test_merging_gives_all_modules_one_set_of_parameters(tmp_path: Path) -> None:
    for method in ("average", "ties", "dare"):
        folder = tmp_path / method
        state = trained(spec_of("merged", settings={"method": method}), folder)
        own = state["experts.hidden.own_weight"]
        assert torch.equal(own, own[:, :1].expand_as(own))
        apart = files.read_network(folder, "phase-2").state_dict()["experts.hidden.own_weight"]
        assert not torch.equal(apart, apart[:, :1].expand_as(apart))
        history = load_run(folder, "last").history
        assert history is not None
        assert history.merging is not None
        before, after = rule_losses(folder)[1:]
        cost = (after - before).mean(1).double()
        torch.testing.assert_close(history.merging.gap, cost, atol=1e-6, rtol=1e-5)
        told = over_time("any", history, Members(seeds=((0, 0), (1, 1)), faults=("", "")))
        rises = {score.metric: score.value for score in told if score.seed == (1, 1)}
        for name, of in (("mode_barrier", "barrier"), ("mode_barrier_matched", "matched")):
            assert rises[name] == pytest.approx(float(getattr(history.merging, of)[1]))
            assert (rises[name] or 0) >= 0


def test_groups_of_parameters_share_all_of_them_out() -> None:
    for name in ("modular", "packnet", "progressive", "low-rank-per-rule", "adapter-fusion"):
        network = create(DataSpec(rules=3), spec_of("joint", name=name).model, (0,))
        every = {name for name, _ in network.named_parameters()}
        parts = [names_of(network, group) for group in ("own", "routers", "trunk")]
        assert set().union(*parts) == every
        assert sum(map(len, parts)) == len(every)
        assert parts[0] <= names_of(network, "modules")
    assert set(GROUPS) == {"own", "modules", "routers", "trunk"}


def test_phases_are_scored_by_their_names(tmp_path: Path) -> None:
    trained(spec_of("sequential"), tmp_path / "run")
    assert load_run(tmp_path / "run", "phase-2").selection == "phase-2"
    with pytest.raises(RunError, match=r"no phase-4\.safetensors.*3 phases"):
        load_run(tmp_path / "run", "phase-4")
    trained(spec_of("joint"), tmp_path / "one")
    with pytest.raises(RunError, match="called last"):
        load_run(tmp_path / "one", "phase-1")


def test_seeds_added_to_a_regime_are_those_of_one_large_cohort(tmp_path: Path) -> None:
    train(spec_of("packnet", seeds=1), tmp_path / "run", device=CPU, engine="eager")
    train(spec_of("packnet", seeds=3), tmp_path / "run", device=CPU, engine="eager", resume=True)
    trained(spec_of("packnet", seeds=3), tmp_path / "once")
    for selection in ("last", "phase-1", "phase-4"):
        one, two = (
            files.read_network(tmp_path / name, selection).state_dict() for name in ("run", "once")
        )
        for name, value in one.items():
            torch.testing.assert_close(value, two[name])


def test_a_run_of_a_regime_is_not_lengthened(tmp_path: Path) -> None:
    trained(spec_of("sequential"), tmp_path / "run")
    with pytest.raises(RunError, match="regime sequential"):
        train(spec_of("sequential", steps=30), tmp_path / "run", device=CPU, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regime": "packnet", "name": "modular"}, "--model packnet"),
        ({"regime": "merged", "name": "low-rank-per-rule"}, "--model diff-per-rule"),
        ({"regime": "sequential", "steps": 2}, "3 phases"),
        ({"regime": "post-hoc", "rules": 1}, "old rules and new ones"),
    ],
)
def test_a_regime_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    def build() -> RunSpec:
        return spec_of(**change)

    with pytest.raises(SpecError, match=message):
        build()


def test_a_diverged_seed_is_told_with_its_phase_and_only_from_there_on(tmp_path: Path) -> None:
    spec = spec_of("sequential", seeds=2)
    train(spec, tmp_path / "run", device=CPU, engine="eager")
    record = records.read_record(tmp_path / "run")
    from dataclasses import replace  # noqa: PLC0415

    files.write_record(tmp_path / "run", replace(record, diverged=(None, 12)))
    assert load_run(tmp_path / "run", "phase-1").faults == ("", "")
    assert "step 12, in phase 2" in load_run(tmp_path / "run", "phase-2").faults[1]
    assert "in phase 2" in load_run(tmp_path / "run", "last").faults[1]


def test_a_run_tells_its_losses_by_phase_and_what_it_forgot(tmp_path: Path) -> None:
    for regime in ("sequential", "packnet"):
        trained(spec_of(regime, steps=60), tmp_path / regime)
    one, two = (load_run(tmp_path / name, "last").history for name in ("sequential", "packnet"))
    assert one is not None
    assert two is not None
    assert one.phases == ("start", "phase-1", "phase-2", "phase-3")
    assert one.course is not None
    assert two.course is not None
    assert one.course.loss.shape == (2, 4, 3)
    torch.testing.assert_close(
        one.course.loss[:, 0], start_losses(tmp_path / "sequential"), atol=1e-5, rtol=1e-5
    )
    assert two.course.learned == [2, 4, 5]
    assert float(forgetting(two.course).abs().max()) == 0
    assert float(backward_transfer(one.course).max()) < 0
    assert one.churn is not None
    assert one.early is not None


def start_losses(folder: Path) -> torch.Tensor:
    """Return the loss of each rule before training, on many fresh samples of its own."""
    spec = records.read_run(folder)
    network = create(spec.data, spec.model, [model for _, model in spec.train.seeds])
    stream = Stream(spec.data, spec.train.seeds, spec.train.batch, CPU)
    batch = validation_batch(stream, 2_560)
    with torch.no_grad():
        each = (network(batch.inputs, batch.rule).prediction - batch.target).abs().squeeze(-1)
    rows = [[each[s][batch.rule[s] == r].mean() for r in range(3)] for s in range(2)]
    return torch.tensor(rows, dtype=torch.float64)
