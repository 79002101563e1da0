"""Computations that keep a part of the weights do what their definitions say."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

from modeval.errors import SpecError
from modeval.nn import create
from modeval.nn.bank import Bank
from modeval.spec import DataSpec, ModelSpec, Phase, RunSpec, TrainSpec
from modeval.spec.computing.masks import (
    HIGH,
    LOW,
    SLOPE,
    DiffPruning,
    Magnitude,
    SparseDiff,
    expected_share,
    hard_concrete,
)
from modeval.train import files
from modeval.train.goal import losses
from modeval.train.loop import train
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Noise

DATA = DataSpec(rules=3)
SIZES: dict[str, Any] = {"scorer": "oracle", "encoder": 6, "width": 12}


def run_of(computation: Any, *phases: Phase, steps: int = 20) -> RunSpec:
    return RunSpec(
        data=DATA,
        model=ModelSpec(computation=computation, **SIZES),
        train=TrainSpec(
            seeds=((0, 1), (0, 2)), steps=steps, batch=16, learning_rate=1e-2, phases=phases
        ),
    )


def first_bank(network: Any) -> Bank:
    bank = network.experts.hidden
    assert isinstance(bank, Bank)
    return bank


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4))


# --- chance that modules take --------------------------------------------------------------------


def test_numbers_made_from_two_are_uniform_independent_and_the_same_for_a_seed_alone() -> None:
    noise = Noise(uniform(3, 5, 2), torch.tensor(0.0))
    many = noise.more(200, 100)
    assert many.shape == (3, 200, 100)
    assert 0 < float(many.min()) < 1e-3 < 1 - 1e-3 < float(many.max()) < 1
    torch.testing.assert_close(many.mean((1, 2)), torch.full((3,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(many.var((1, 2)), torch.full((3,), 1 / 12), atol=0.002, rtol=0)
    views = [many[0], many[1], noise.more(200, 100, salt=1)[0], many[0].roll(1)]
    assert (
        float(torch.corrcoef(torch.stack([view.flatten() for view in views])).tril(-1).abs().max())
        < 0.03
    )
    alone = Noise(noise.uniform[1:2], noise.progress)
    assert torch.equal(alone.more(200, 100)[0], many[1])


# --- diff pruning --------------------------------------------------------------------------------


def test_hard_concrete_is_zero_and_above_zero_as_often_as_the_penalty_expects() -> None:
    for value in (-3.0, -1.0, 0.0, 2.0):
        logit = torch.full((1, 1, 40_000), value)
        drawn = hard_concrete(logit, uniform(1, 1, 40_000))
        on = (drawn > 0).float().mean(2)[0]
        torch.testing.assert_close(on, expected_share(logit), atol=0.01, rtol=0)
        assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    ends = [((LOW - end) / (LOW - HIGH)) for end in (0.0, 1.0)]
    assert ends == pytest.approx([1 / 12, 11 / 12])
    assert pytest.approx(2 / 3) == SLOPE


def test_diff_pruning_adds_its_penalty_to_the_loss_and_to_nothing_else() -> None:
    network: Any = create(DATA, run_of(DiffPruning(penalty_weight=3.0)).model, (1, 2))
    batch = next(batches(Stream(DATA, ((0, 1), (0, 2)), 16, torch.device("cpu"))))
    output = network(batch.inputs, batch.rule)
    banks = [network.experts.hidden, network.experts.readout]
    expected = sum(3.0 * expected_share(bank.own["logit"]) for bank in banks)
    torch.testing.assert_close(output.penalty, expected)
    stepper = Stepper(network, "regression", engine="eager")
    noise = Noise(uniform(2, 16, network.chance), torch.tensor(0.0))
    plain = losses(
        network(batch.inputs, batch.rule, noise=noise).prediction, batch.target, "regression"
    )
    torch.testing.assert_close(stepper.step(batch, torch.tensor(0.0), noise), plain.detach())
    # without a difference the penalty alone moves logits, and it moves all of them down
    before = first_bank(network).own["logit"].clone()
    stepper.step(batch, torch.tensor(1e-2), noise)
    assert bool((first_bank(network).own["logit"] < before).all())


def test_diff_pruning_is_drawn_in_training_and_certain_at_evaluation() -> None:
    network: Any = create(DATA, run_of(DiffPruning()).model, (1, 2))
    with torch.no_grad():
        for bank in (network.experts.hidden, network.experts.readout):
            bank.own["weight"].fill_(1.0)
            bank.own["logit"].fill_(-9.0)
    noise = Noise(uniform(2, 16, network.chance), torch.tensor(0.0))
    trunk = first_bank(network).trunk()
    assert trunk is not None
    assert torch.equal(first_bank(network).parts()[0], trunk[0].expand(-1, 3, -1, -1))
    with torch.no_grad():
        first_bank(network).own["logit"].fill_(0.0)
    drawn = first_bank(network).parts(noise)[0] - trunk[0]
    assert 0.05 < float((drawn.abs() < 1e-6).float().mean()) < 0.5
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


@pytest.mark.slow
def test_a_dear_difference_is_pruned_more() -> None:
    left = []
    for weight in (1e-3, 30.0):
        spec = run_of(DiffPruning(penalty_weight=weight), steps=150)
        network: Any = create(DATA, spec.model, (1, 2))
        stepper = Stepper(network, "regression", engine="eager")
        source = batches(Stream(DATA, spec.train.seeds, 16, torch.device("cpu")))
        for step, batch in zip(range(150), source, strict=False):
            noise = Noise(
                torch.rand(2, 16, 1, generator=torch.Generator().manual_seed(step)),
                torch.tensor(0.0),
            )
            stepper.step(batch, torch.tensor(5e-2), noise)
        kept = hard_concrete(first_bank(network).own["logit"]) > 0
        left.append(float(kept.float().mean()))
    assert left[1] < 0.05
    assert left[0] > 0.5


# --- sparse differences --------------------------------------------------------------------------


def test_a_turn_keeps_the_largest_of_what_was_learned_and_goes_back_to_the_trunk() -> None:
    network: Any = create(DATA, run_of(SparseDiff(keep=0.25)).model, (1, 2))
    bank = first_bank(network)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        bank.own["weight"].copy_(torch.randn(bank.own["weight"].shape, generator=generator))
    learned = bank.own["weight"].clone()
    network.turn()
    mask = bank.own["mask"]
    assert float(mask.mean()) == pytest.approx(0.25, abs=0.01)
    least = learned.abs().where(mask > 0, torch.inf).amin((2, 3))
    most = learned.abs().where(mask == 0, 0).amax((2, 3))
    assert bool((least > most).all())
    assert int(bank.own["weight"].count_nonzero()) == 0
    assert "own_mask" not in dict(bank.named_parameters())


def test_sparse_differences_are_learned_in_two_halves_and_stay_within_their_mask(
    tmp_path: Path,
) -> None:
    spec = run_of(SparseDiff(keep=0.1))
    assert [phase.steps for phase in spec.train.phases] == [10, 0]
    train(spec, tmp_path / "run", device=torch.device("cpu"))
    network: Any = files.read_network(tmp_path / "run")
    bank = first_bank(network)
    own = bank.own
    outside = own["weight"][own["mask"] == 0]
    assert float(own["mask"].mean()) == pytest.approx(0.1, abs=0.02)
    assert int(outside.count_nonzero()) == 0
    assert int(own["weight"].count_nonzero()) > 0
    assert not torch.equal(own["mask"][:, 0], own["mask"][:, 1])


def test_one_phase_is_refused_for_sparse_differences() -> None:
    with pytest.raises(SpecError, match="takes two phases"):
        run_of(SparseDiff(), Phase())


# --- magnitude -----------------------------------------------------------------------------------


def test_each_module_keeps_the_largest_weights_of_its_own_version() -> None:
    network: Any = create(DATA, run_of(Magnitude(keep=0.3)).model, (1, 2))
    bank = first_bank(network)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        bank.own["weight"].copy_(torch.randn(bank.own["weight"].shape, generator=generator))
    trunk = bank.trunk()
    assert trunk is not None
    whole, kept = trunk[0] + bank.own["weight"], bank.parts()[0]
    for seed in range(2):
        for module in range(3):
            matrix = torch.nn.Linear(1, 1)
            matrix.weight = torch.nn.Parameter(whole[seed, module].detach().clone())
            prune.l1_unstructured(matrix, "weight", amount=0.7)
            torch.testing.assert_close(matrix.weight, kept[seed, module])
