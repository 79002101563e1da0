"""A regime is a list of phases: which rules, what learns, at which rates, with which remedies."""

from pathlib import Path
from typing import Any

import pytest
import torch

from modeval.errors import ModevalError, RunError, SpecError
from modeval.nn import create
from modeval.nn.network import Network, Routed
from modeval.spec import (
    DataSpec,
    ModelSpec,
    Phase,
    Rate,
    Remedy,
    RunSpec,
    TrainSpec,
    from_dict,
    load_toml,
    to_toml,
)
from modeval.spec.phases import SAM, SGD
from modeval.train import files, records
from modeval.train.loop import Progress, train
from modeval.train.remedies import REMEDIES
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

CPU = torch.device("cpu")
MODEL = ModelSpec(scorer="module", encoder=6, width=12)
DATA = DataSpec(rules=3)


def run_of(*phases: Phase, steps: int = 12, seeds: int = 2) -> RunSpec:
    return RunSpec(
        data=DATA,
        model=MODEL,
        train=TrainSpec(
            seeds=tuple((0, seed) for seed in range(seeds)),
            steps=steps,
            batch=16,
            learning_rate=1e-2,
            validate_every=4,
            phases=phases,
        ),
    )


def trained(spec: RunSpec, folder: Path) -> dict[str, torch.Tensor]:
    train(spec, folder, device=CPU)
    return dict(files.read_network(folder).named_parameters())


def test_one_phase_of_everything_is_training_without_phases(tmp_path: Path) -> None:
    plain = trained(run_of(), tmp_path / "plain")
    phased = trained(run_of(Phase()), tmp_path / "phased")
    assert all(torch.equal(plain[name], phased[name]) for name in plain)


def test_what_does_not_learn_in_a_phase_stays_as_it_was_to_the_bit(tmp_path: Path) -> None:
    before = trained(run_of(steps=5), tmp_path / "before")
    after = trained(run_of(Phase(steps=5), Phase(learns=("scorer.*",))), tmp_path / "after")
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name in after if name.startswith("scorer.")}


def test_a_phase_draws_its_rules_alone_and_from_a_stream_of_its_own() -> None:
    first, second, other = (
        next(batches(Stream(DATA, ((0, 0),), 64, CPU, phase=phase, rules=rules)))
        for phase, rules in ((0, (0, 2)), (1, (0, 2)), (0, ()))
    )
    assert {*first.rule.flatten().tolist()} == {0, 2}
    assert {*other.rule.flatten().tolist()} == {0, 1, 2}
    assert not torch.equal(first.inputs, second.inputs)


def test_rules_keep_the_proportions_that_the_task_gives_them() -> None:
    data = DataSpec(rules=3, rule_probabilities=(0.6, 0.3, 0.1))
    shares = Stream(data, ((0, 0),), 8, CPU, rules=(0, 1)).shares
    assert shares is not None
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3, 0.0]))


@pytest.mark.parametrize("stop", [3, 5, 6, 9])
def test_a_run_that_stops_in_any_phase_goes_on_to_the_same_bits(tmp_path: Path, stop: int) -> None:
    spec = run_of(Phase(steps=5, rules=(0,)), Phase(rules=(1, 2), learns=("experts.*",)))
    whole = trained(spec, tmp_path / "whole")

    class Stop(Exception):  # noqa: N818 - what a crash looks like
        pass

    def watch(progress: Progress) -> None:
        if progress.step >= stop:
            raise Stop

    with pytest.raises(Stop):
        train(spec, tmp_path / "cut", device=CPU, watch=watch)
    if records.is_run(tmp_path / "cut"):
        train(spec, tmp_path / "cut", device=CPU, resume=True)
        cut = dict(files.read_network(tmp_path / "cut").named_parameters())
        assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_rate_of_its_own_scales_the_steps_of_its_parameters() -> None:
    moved = []
    for rates in ((), (Rate(parameters="scorer.*", factor=0.1),)):
        network = create(DATA, MODEL, (0,))
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        stepper = Stepper(network, "regression", engine="eager", phase=Phase(rates=rates))
        stepper.step(next(batches(Stream(DATA, ((0, 0),), 64, CPU))), torch.tensor(1e-2))
        moved.append({n: (p.detach() - before[n]).norm() for n, p in network.named_parameters()})
    for name, size in moved[0].items():
        expected = 0.1 if name.startswith("scorer.") else 1.0
        assert float(moved[1][name] / size) == pytest.approx(expected, rel=1e-2)


def routed(logits: torch.Tensor) -> Routed:
    return Routed(logits.softmax(-1), lambda: logits, logits)


@pytest.mark.parametrize(
    ("kind", "even", "collapsed"), [("balance", 1, 3), ("importance", 0, 2), ("load", 0, 2)]
)
def test_load_remedies_are_least_where_load_is_even(
    kind: str, even: float, collapsed: float
) -> None:
    remedy = REMEDIES[kind]  # type: ignore[index]
    spread = routed(40 * torch.eye(3).repeat(2, 1).unsqueeze(0))
    one = routed(torch.tensor([40.0, 0.0, 0.0]).expand(1, 6, 3))
    rule = torch.zeros(1, 6, dtype=torch.int64)
    assert float(remedy(spread, rule, 3)) == pytest.approx(even, abs=1e-5)
    assert float(remedy(one, rule, 3)) == pytest.approx(collapsed, abs=1e-5)


def test_the_information_remedy_is_minus_the_information_of_rule_and_module() -> None:
    rule = torch.tensor([[0, 1, 2] * 2])
    perfect = routed(40 * torch.eye(3).repeat(2, 1).unsqueeze(0))
    nothing = routed(torch.zeros(1, 6, 3))
    assert float(REMEDIES["information"](perfect, rule, 3)) == pytest.approx(-1.0986, abs=1e-3)
    assert float(REMEDIES["information"](nothing, rule, 3)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_remedy_of_a_seed_is_the_same_alone_and_in_a_cohort(kind: str) -> None:
    logits = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    rule = torch.stack((torch.arange(20) % 3, torch.arange(20) % 2))  # the second lacks rule 2
    remedy = REMEDIES[kind]  # type: ignore[index]
    together = remedy(routed(logits), rule, 3)
    alone = [remedy(routed(logits[[seed]]), rule[[seed]], 3)[0] for seed in range(2)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_remedy_moves_what_it_names(kind: str) -> None:
    def measure(phase: Phase) -> float:
        network: Network = create(DATA, MODEL, (0,))
        stepper = Stepper(network, "regression", engine="eager", phase=phase)
        source = batches(Stream(DATA, ((0, 0),), 64, CPU))
        for _ in range(30):
            stepper.step(next(source), torch.tensor(1e-2))
        batch = next(source)
        with torch.no_grad():
            output = network(batch.inputs, batch.rule)
        return float(REMEDIES[kind](output.routed[0], batch.rule, 3))  # type: ignore[index]

    remedies = (Remedy(kind=kind, coefficient=10.0),)  # type: ignore[arg-type]
    assert measure(Phase(remedies=remedies)) < measure(Phase())


@pytest.mark.parametrize(
    "phase",
    [
        Phase(learns=("experts.*",)),
        Phase(rates=(Rate(parameters="*", factor=0.5),)),
        Phase(remedies=(Remedy(kind="balance"),)),
    ],
)
def test_no_kernel_is_taken_for_a_phase_that_it_does_not_do(phase: Phase) -> None:
    model = ModelSpec(scorer="module", encoder=4, width=8)
    stepper = Stepper(create(DATA, model, (0,)), "regression", phase=phase)
    assert stepper.engine == "eager"
    assert "fused kernels" in stepper.engine_note


def test_phases_are_written_and_read_back(tmp_path: Path) -> None:
    spec = run_of(
        Phase(steps=4, rules=(0, 2), remedies=(Remedy(kind="balance"),)),
        Phase(learns=("scorer.*",), rates=(Rate(parameters="*", factor=3.0),)),
    )
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(spec))
    assert from_dict(RunSpec, load_toml(path)) == spec


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((Phase(), Phase(steps=3)), "Only the last phase"),
        ((Phase(steps=3), Phase(steps=3)), "The phases take 6 steps and training has 12"),
        ((Phase(steps=12), Phase()), "take 12 steps"),
        ((Phase(rules=(3,)),), "draws rule 3 of 3"),
    ],
)
def test_phases_that_do_not_fit_are_refused(phases: tuple[Phase, ...], message: str) -> None:
    def build() -> RunSpec:
        return run_of(*phases)

    with pytest.raises(SpecError, match=message):
        build()


def test_a_pattern_that_fits_nothing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    spec = run_of(Phase(steps=4), Phase(learns=("router.*",)))
    with pytest.raises(RunError, match="no parameter has such a name"):
        train(spec, tmp_path / "run", device=CPU)
    assert not records.is_run(tmp_path / "run")
    assert issubclass(RunError, ModevalError)


def test_an_optimiser_of_a_run_is_that_of_phases_that_name_none() -> None:
    train = TrainSpec(
        steps=30,
        phases=(Phase(steps=10), Phase(steps=10, optimiser=SGD()), Phase()),
        optimiser=SAM(radius=0.2),
    )
    told = train.in_phases(4)
    assert [phase.optimiser for phase in told.phases] == [SAM(radius=0.2), SGD(), SAM(radius=0.2)]
    assert told.in_phases(4) == told
    assert TrainSpec(steps=30, optimiser=SGD()).in_phases(4).phases == (Phase(optimiser=SGD()),)
    assert RunSpec(train=TrainSpec(optimiser=SGD())).digest != RunSpec().digest


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"steps": 5, "remedies": [{"coefficient": 1.0}]}, {}], r"remedies\.kind is missing"),
        ([{"steps": 5, "rates": [{"factor": 2.0}]}, {}], r"rates\.parameters is missing"),
        (
            [{"steps": 5, "after": [{"kind": "rewind", "to": 1}]}, {}],
            "the start, to 0",
        ),
        ([{"steps": 5}, {"before": [{"kind": "rewind", "to": 2}]}], "the start, to 1"),
        ([{"steps": 5}, {"rates": [{"parameters": "no.*", "factor": 2.0}]}], "rate of 'no.*'"),
    ],
)
def test_phases_of_a_file_that_could_not_be_done_are_refused_before_anything_is_written(
    tmp_path: Path, phases: list[dict[str, Any]], message: str
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ModevalError, match=message):
        train(from_dict(RunSpec, {"train": {"steps": 10, "phases": phases}}), folder, device=CPU)
    assert not folder.exists()
