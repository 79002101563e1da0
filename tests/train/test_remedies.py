"""What remedies cost and mend: of the loss by their formulas, and of models that are trained."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeval.counting.count import count
from modeval.evaluate.cohort import sample_losses
from modeval.evaluate.interventions import intervene, plan
from modeval.metrics import collapse_worst, inverse_mutual_information
from modeval.metrics.budget import entropy_budget
from modeval.metrics.causal import causal_information
from modeval.nn import Network, create
from modeval.nn.network import Routed
from modeval.spec import MODELS, DataSpec, ModelSpec, Phase, Remedy
from modeval.spec.phases import RemedyName, Tilt
from modeval.spec.regimes import Curriculum
from modeval.train.actions import Scene, act
from modeval.train.remedies import REMEDIES, orthogonality
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Batch

CPU = torch.device("cpu")
RULES, SEEDS = 3, ((0, 0), (1, 1), (2, 2), (3, 3))
DATA = DataSpec(rules=RULES)


def routed(logits: Tensor) -> Routed:
    return Routed(logits.softmax(-1), lambda: logits, logits)


# --- by their formulas ---------------------------------------------------------------------------

SURE = 40 * torch.eye(3).repeat(2, 1).unsqueeze(0)
"""Six samples, of rules 0 1 2 0 1 2 in turn, each rule at a module of its own."""
UNSURE = torch.zeros(1, 6, 3)
ONE = torch.tensor([40.0, 0.0, 0.0]).expand(1, 6, 3)
IN_TURN = torch.tensor([[0, 1, 2] * 2])
CROSSED = torch.tensor([[0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize(
    ("kind", "logits", "rule", "expected"),
    [
        ("diversity", SURE, CROSSED, -math.log(3)),  # labels do not count
        ("diversity", UNSURE, CROSSED, 0),
        ("diversity", ONE, CROSSED, 0),
        ("collaboration", SURE, IN_TURN, -1),  # a module of its own for each rule
        ("collaboration", ONE, IN_TURN, -1),  # and collapse, which this reward does not see
        ("collaboration", SURE, CROSSED, -1 / 3),  # a rule that goes everywhere
        ("logits", UNSURE, IN_TURN, math.log(3) ** 2),
        ("logits", ONE, IN_TURN, 1600),
    ],
)
def test_remedies_are_what_their_formulas_say(
    kind: RemedyName, logits: Tensor, rule: Tensor, expected: float
) -> None:
    assert float(REMEDIES[kind](routed(logits), rule, 3)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", [*REMEDIES])
@pytest.mark.parametrize("logits", [10 * SURE, UNSURE, 10 * ONE], ids=["sure", "unsure", "one"])
def test_shares_of_exactly_0_leave_gradients_finite(kind: RemedyName, logits: Tensor) -> None:
    given = logits.clone().requires_grad_()
    if kind != "logits":
        assert (given.softmax(-1) == 0).any() == (logits is not UNSURE)
    [gradient] = torch.autograd.grad(REMEDIES[kind](routed(given), IN_TURN, 3).sum(), given)
    assert bool(gradient.isfinite().all())


def test_orthogonality_is_1_for_copies_and_0_for_modules_in_other_directions() -> None:
    network = create(DataSpec(rules=2), ModelSpec(scorer="oracle", encoder=6, width=12), (0, 1))
    own = {name: p for name, p in network.named_parameters() if name.startswith("experts.")}
    with torch.no_grad():
        for value in own.values():
            value[:, 1] = value[:, 0]
        torch.testing.assert_close(orthogonality(network), torch.ones(2))
        for value in own.values():
            half = value.shape[2] // 2
            value[:, 0, :half] = 0
            value[:, 1, half:] = 0
    torch.testing.assert_close(orthogonality(network), torch.zeros(2))


def test_a_curriculum_draws_ever_more_rules() -> None:
    phases = Curriculum(waves=3).phases(6, 30)
    assert [phase.rules for phase in phases] == [(0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5)]
    assert [phase.steps for phase in phases] == [10, 10, 10]


# --- of models that are trained ------------------------------------------------------------------


def trained(
    name: str,
    steps: int,
    *remedies: Remedy,
    tilt: float = 0.0,
    data: DataSpec = DATA,
    seeds: tuple[tuple[int, int], ...] = SEEDS,
) -> Network:
    model = ModelSpec(**MODELS[name], encoder=6, width=18)
    network = create(data, model, [model for _, model in seeds])
    if tilt:
        scene = Scene(network, {}, seeds, 0, lambda _: {}, dict)
        act((Tilt(amount=tilt),), scene)
    stepper = Stepper(network, "regression", engine="eager", phase=Phase(remedies=remedies))
    for batch in itertools.islice(batches(Stream(data, seeds, 48, CPU)), steps):
        stepper.step(batch, torch.tensor(1e-2))
    return network.requires_grad_(requires_grad=False)


def drawn(samples: int = 600) -> Batch:
    return next(batches(Stream(DATA, SEEDS, samples, CPU, 5)))


def joint(network: Network, batch: Batch | None = None) -> Tensor:
    """Return the joint distribution of rule and module, each rule counting the same."""
    batch = batch or drawn()
    one_hot = F.one_hot(batch.rule).double()
    weight = network(batch.inputs, batch.rule).routed[0].weight.double()
    shares: Tensor = one_hot.mT @ weight / one_hot.sum(1).unsqueeze(-1) / one_hot.shape[-1]
    return shares


def test_the_balancing_loss_mends_provoked_collapse_and_the_budget_shows_what_it_costs() -> None:
    batch = drawn()
    balance = Remedy(kind="balance", coefficient=0.5)
    found = {}
    for name, remedies in (("without", ()), ("with", (balance,))):
        network = trained("modular", 120, *remedies, tilt=4.0)
        weight = network(batch.inputs, batch.rule).routed[0].weight
        found[name] = (
            collapse_worst(joint(network)),
            entropy_budget(count(batch.rule, weight, rules=RULES)),
        )
    (before, poor), (after, even) = found["without"], found["with"]
    assert bool((after < before - 0.3).all())
    assert bool((even.imbalance < poor.imbalance).all())
    freed = poor.imbalance - even.imbalance
    idle = even.input_distraction + even.softness - poor.input_distraction - poor.softness
    told = even.rule_specialization - poor.rule_specialization
    torch.testing.assert_close(freed, idle + told)
    assert float(idle.mean()) > 2 * float(told.mean()), "most of it says nothing of the rule"


def test_training_for_information_moves_its_score_and_necessity_tells_what_came_of_it() -> None:
    batch = drawn()

    def losses(prediction: Tensor, samples: Batch) -> Tensor:
        return sample_losses(prediction, samples.target, "regression")[0]

    told, needed = [], []
    for remedies in ((), (Remedy(kind="information", coefficient=3.0),)):
        network = trained("modular-op", 120, *remedies)
        told.append(inverse_mutual_information(joint(network)))
        found = intervene(network, batch, losses, planned=plan(network, RULES))
        assert found is not None
        needed.append(causal_information(found.necessity, found.floor).mean())
    plain, asked = told
    assert float(asked.min()) < 0.01
    assert float(asked.mean()) < float(plain.mean()) - 0.3
    assert float(needed[1]) > float(needed[0])


@pytest.mark.parametrize(("rules", "modules"), [(3, 3), (6, 6), (4, 7), (7, 4)])
def test_training_for_information_reaches_its_end_from_wherever_it_is_stuck(
    rules: int, modules: int
) -> None:
    seeds, generator = 40, torch.Generator().manual_seed(rules)
    rule = torch.arange(rules).repeat(seeds, 2)
    chosen = torch.randint(modules, (seeds, rules), generator=generator)
    table = (40.0 * F.one_hot(chosen, modules)).requires_grad_()  # sure, and mostly shared
    optimiser = torch.optim.Adam([table], lr=1.0)
    most = math.log(rules)
    if rules > modules:  # of 7 rules, 3 modules take two each and one takes the last
        even = torch.tensor([2, 2, 2, 1]) / rules
        most = float(-(even * even.log()).sum())

    def value() -> Tensor:
        return REMEDIES["information"](routed(table.repeat(1, 2, 1)), rule, rules)

    assert float(value().detach().max()) > 0.05 - most, "some are stuck"
    for _ in range(120):
        optimiser.zero_grad()
        value().sum().backward()
        optimiser.step()
    assert float(value().detach().max()) == pytest.approx(-most, abs=1e-3)


def test_a_batch_of_one_rule_has_no_information_and_pulls_nowhere() -> None:
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = REMEDIES["information"](routed(logits), torch.ones(2, 6, dtype=torch.int64), 3)
    [gradient] = torch.autograd.grad(value.sum(), logits)
    assert float(value.detach().abs().max()) < 1e-6
    assert float(gradient.abs().max()) < 1e-6


def test_models_that_are_trained_for_information_reach_it_from_every_start() -> None:
    data, seeds = DataSpec(rules=6), tuple((seed, seed) for seed in range(12))
    asked = Remedy(kind="information", coefficient=3.0)
    network = trained("modular-op", 300, asked, data=data, seeds=seeds)
    batch = next(batches(Stream(data, seeds, 600, CPU, 5)))
    assert float(inverse_mutual_information(joint(network, batch)).max()) < 0.03


def test_training_for_orthogonality_sets_modules_apart() -> None:
    asked = Remedy(kind="orthogonality", coefficient=30.0)
    plain, apart = (
        orthogonality(trained("gt-modular", 60, *remedies)) for remedies in ((), (asked,))
    )
    assert bool((apart < plain / 2).all())
