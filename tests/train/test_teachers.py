"""Routers that no gradient reaches learn by reward, or by breeding paths."""

import itertools
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from modeval.errors import RunError
from modeval.nn import Network, create
from modeval.nn.layer import LayeredNetwork
from modeval.spec import DataSpec, ModelSpec, Phase
from modeval.spec.taught import BalancedTopK, Evolved, QLearning, Reinforce
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches, uniform_numbers
from modeval.train.teachers import Bred, Rewarded, Valued, mutated, teacher_of, winning_modules
from modeval.types import Batch, Noise

CPU = torch.device("cpu")
Taught = Reinforce | QLearning | Evolved | BalancedTopK
TAUGHT = (Reinforce(collaboration=0.5), QLearning(), Evolved(trial=2), BalancedTopK(k=1))
SMALL: dict[str, Any] = {"encoder": 6, "width": 12}
DATA = {
    "binary": DataSpec(rules=2),
    "sets": DataSpec(task="sets", rules=2, length=2),
    "series": DataSpec(task="series", rules=2, length=2, dimension=2),
}


def cohort(
    task: str,
    gating: Taught,
    seeds: tuple[int, ...] = (0,),
    **more: Any,
) -> Any:
    scorer = "table" if isinstance(gating, Evolved) else "rule"
    choices: dict[str, Any] = {"scorer": scorer, **SMALL, **more}
    choices |= {"heads": 1} if task == "sets" else {}
    model = ModelSpec(gating=gating, **choices)
    return create(DATA[task], model, seeds)


def train(network: Network, steps: int, task: str = "binary", *, batch: int = 16) -> Stepper:
    stream = Stream(DATA[task], tuple((seed, seed) for seed in range(network.seeds)), batch, CPU)
    stepper = Stepper(network, "regression", engine="auto")
    source = zip(batches(stream), uniform_numbers(stream, max(network.chance, 0)), strict=False)
    for drawn, uniform in itertools.islice(source, steps):
        stepper.step(drawn, torch.tensor(1e-2), Noise(uniform, torch.tensor(0.0)))
    return stepper


# --- by reward -----------------------------------------------------------------------------------


def one_sample(task: str) -> tuple[Batch, tuple[int, ...]]:
    data = DATA[task]
    shape = (1, 1, *((data.length,) if data.sequence else ()))
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn(*shape, data.features, generator=random)
    rule = torch.arange(2).view(shape) if data.sequence else torch.ones(shape, dtype=torch.int64)
    return Batch(inputs, rule, torch.randn(*shape, data.outputs, generator=random)), shape


def gradients(total: Tensor, network: Network) -> dict[str, Tensor]:
    named = {name: value for name, value in network.named_parameters() if "scorer" in name}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: part for name, part in zip(named, found, strict=True) if part is not None}


@pytest.mark.parametrize("task", DATA)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_the_expected_gradient_of_a_router_is_that_of_the_expected_loss(
    task: str, layers: int, mean: float
) -> None:
    """All choices of M modules in L layers at T positions, each weighed by its likelihood."""
    network = cohort(task, Reinforce(), modules=3 if task == "binary" else 2, layers=layers)
    batch, shape = one_sample(task)
    decisions, modules = len(batch.rule.flatten()) * layers, network.module_count
    teacher = Rewarded(network, network.gating)
    teacher.mean.fill_(mean)
    teacher.seen.fill_(1.0)
    expected = torch.zeros(())
    estimate: dict[str, Tensor] = {}
    for choice in itertools.product(range(modules), repeat=decisions):
        chosen = torch.tensor(choice).view(*shape, layers)
        uniform = torch.nn.functional.one_hot(chosen, modules).flatten(-2).float()
        output = network(batch.inputs, batch.rule, noise=Noise(uniform, torch.tensor(0.0)))
        policies = torch.stack([each.logits.log_softmax(-1) for each in output.routed], -2)
        likelihood = policies.gather(-1, chosen.unsqueeze(-1)).sum().exp()
        for layer, routed in enumerate(output.routed):
            assert torch.equal(routed.weight.argmax(-1), chosen[..., layer])
        cost = (output.prediction - batch.target).abs().mean(-1).detach()
        expected = expected + likelihood * cost.mean()
        for name, part in gradients(teacher.term(output, cost).sum(), network).items():
            estimate[name] = estimate.get(name, torch.zeros(())) + likelihood.detach() * part
    exact = gradients(expected, network)
    assert exact.keys() == estimate.keys()
    for name, part in exact.items():
        torch.testing.assert_close(estimate[name], part, rtol=1e-4, atol=1e-6)
    assert max(float(part.abs().max()) for part in exact.values()) > 1e-4


def test_choices_are_drawn_by_the_policy() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(1, 20_000, 3)
    uniform = torch.rand(1, 20_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = Reinforce()(logits, Noise(uniform, torch.tensor(0.0))).mean(1)
    torch.testing.assert_close(drawn[0], logits[0, 0].softmax(-1), rtol=0, atol=0.02)


def test_a_weighted_policy_moves_by_the_reward_times_how_far_it_may_go() -> None:
    network = cohort("binary", Reinforce(weighted=True), scorer="table", modules=3)
    with torch.no_grad():
        network.scorer.logit.copy_(torch.tensor([[0.0, 2.0, -1.0], [1.0, 0.0, 0.0]]))
    policy = network.scorer.logit.softmax(-1)[0]
    teacher = Rewarded(network, network.gating)
    teacher.mean.fill_(1.0)
    teacher.seen.fill_(1.0)
    rule, chosen = torch.tensor([[0, 0, 1]]), torch.tensor([1, 2, 0])
    uniform = torch.nn.functional.one_hot(chosen, 3).float().unsqueeze(0)
    output = network(torch.zeros(1, 3, 2), rule, noise=Noise(uniform, torch.tensor(0.0)))
    cost = torch.tensor([[0.2, 3.0, 4.0]])  # better than expected, then worse
    teacher.term(output, cost).sum().backward()
    moved = torch.zeros(2, 3)
    for place, (c, a) in enumerate(zip(rule[0].tolist(), chosen.tolist(), strict=True)):
        share = policy[c, a].detach()
        reward = 1.0 - cost[0, place]
        weight = 1 - share if reward > 0 else share
        slope = torch.autograd.grad(policy[c, a], network.scorer.logit, retain_graph=True)[0][0]
        moved += reward * weight * slope / 3
    torch.testing.assert_close(network.scorer.logit.grad[0], -moved)


@pytest.mark.parametrize(
    "gating",
    [Reinforce(), Reinforce(weighted=True), QLearning(end=0.3)],
    ids=lambda each: f"{each.kind} {getattr(each, 'weighted', '')}",
)
def test_a_router_learns_which_module_is_right(gating: Taught) -> None:
    """Modules that are what the rules need, in place: the router finds each rule its own."""
    network = cohort("binary", gating, (0, 1))
    oracle = create(DATA["binary"], ModelSpec(scorer="oracle", **SMALL), (0, 1))
    train(oracle, 300, batch=64)
    network.load_state_dict(oracle.state_dict(), strict=False)
    stepper = Stepper(network, "regression", phase=Phase(learns=("scorer.*",)))
    stream = Stream(DATA["binary"], ((0, 0), (1, 1)), 64, CPU)
    for batch, uniform in itertools.islice(
        zip(batches(stream), uniform_numbers(stream, network.chance), strict=False), 150
    ):
        stepper.step(batch, torch.tensor(3e-2), Noise(uniform, torch.tensor(0.0)))
    assert network(batch.inputs, batch.rule).routed[0].weight.argmax(-1).eq(batch.rule).all()


def test_the_collaboration_reward_makes_rules_share_a_popular_module() -> None:
    def modules_in_use(collaboration: float) -> float:
        network = cohort("binary", Reinforce(collaboration=collaboration), tuple(range(4)))
        train(network, 100)
        rules = torch.arange(2).expand(4, 2)
        routed = network(torch.zeros(4, 2, 2), rules).routed[0].weight
        return float(routed.sum(1).gt(0).sum(-1).double().mean())

    assert modules_in_use(10.0) == 1
    assert modules_in_use(0.0) > 1


# --- by value ------------------------------------------------------------------------------------


def test_values_are_what_modules_earn() -> None:
    """Modules that stay as they are: the value of each for a rule becomes minus its mean loss."""
    network = cohort("binary", QLearning(epsilon=1.0, end=1.0), (0, 1), scorer="table", modules=3)
    with torch.no_grad():
        network.experts.readout.bias[:, 1, ::2] += 50.0
    stepper = Stepper(network, "regression", phase=Phase(learns=("scorer.*",)))
    stream = Stream(DATA["binary"], ((0, 0), (1, 1)), 128, CPU)
    source = zip(batches(stream), uniform_numbers(stream, network.chance), strict=False)
    for step, (batch, uniform) in enumerate(itertools.islice(source, 200)):
        rate = torch.tensor(1e-1 if step < 80 else 1e-2)
        stepper.step(batch, rate, Noise(uniform, torch.tensor(0.0)))
    batch = next(batches(Stream(DATA["binary"], ((0, 0), (1, 1)), 4096, CPU, 9)))
    one_hot = torch.nn.functional.one_hot(batch.rule, 2).float()
    earned = []
    for module in range(3):
        only = torch.eye(3)[module]
        output = network(batch.inputs, batch.rule, route=lambda w, _, o=only: o.expand_as(w))
        cost = (output.prediction - batch.target).abs().mean(-1, keepdim=True)
        earned.append(-(cost * one_hot).sum(1) / one_hot.sum(1))
    expected = torch.stack(earned, -1).detach()  # (S, R, M)
    assert float((expected[..., 1] - expected[..., 0]).abs().min()) > 0.5
    torch.testing.assert_close(network.scorer.logit.detach(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("task", DATA)
def test_a_value_is_drawn_to_the_best_of_the_next_decision(task: str) -> None:
    """Decisions of one sample in their order: layers, and where a state is handed on, positions."""
    network = cohort(task, QLearning(), modules=2, layers=2)
    batch, shape = one_sample(task)
    output = network(batch.inputs, batch.rule)
    cost = (output.prediction - batch.target).abs().mean(-1).detach()
    values = [each.logits.detach().view(-1, 2) for each in output.routed]  # (T, M) of each layer
    positions = len(batch.rule.flatten())
    expected = 0.0
    for position in range(positions):
        first, second = (value[position] for value in values)
        after = -float(cost.flatten()[position])
        if task == "series" and position + 1 < positions:
            after += float(values[0][position + 1].max())
        for value, target in ((first, float(second.max())), (second, after)):
            expected += 0.5 * (float(value.max()) - target) ** 2 / positions
    term = Valued(network, network.gating).term(output, cost)
    torch.testing.assert_close(term.detach(), torch.tensor([expected]))
    assert shape == batch.rule.shape


def test_a_share_epsilon_takes_a_random_module() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(1, 20_000, 3)
    uniform = torch.rand(1, 20_000, 6, generator=torch.Generator().manual_seed(0))
    drawn = QLearning(epsilon=0.6)(logits, Noise(uniform, torch.tensor(0.5))).mean(1)
    torch.testing.assert_close(drawn[0], torch.tensor([0.1, 0.8, 0.1]), rtol=0, atol=0.02)


# --- by breeding ---------------------------------------------------------------------------------


def test_the_loser_becomes_a_mutated_copy_of_the_winner_and_routing_follows_the_winner() -> None:
    network = cohort("binary", Evolved(population=4, trial=3), (0, 1), layers=2)
    stepper = train(network, 2)
    teacher = cast("Bred", stepper.teacher)
    before, pair = teacher.paths.clone(), teacher.pair.clone()
    losses = teacher.losses.clone()
    assert int(teacher.age) == 2
    assert (losses > 0).all()
    # what decides is the sum of losses: have the first path of seed 0 and the second of seed 1 win
    teacher.losses += torch.tensor([[0.0, 100.0], [100.0, 0.0]])
    batch = next(batches(Stream(DATA["binary"], ((0, 0), (1, 1)), 16, CPU)))
    noise = Noise(torch.rand(2, 16, network.chance), torch.tensor(0.0))
    stepper.step(batch, torch.tensor(1e-2), noise)
    for seed, (won, lost) in enumerate(((0, 1), (1, 0))):
        winner, loser = before[seed, pair[seed, won]], pair[seed, lost]
        others = [place for place in range(4) if place != loser]
        assert torch.equal(teacher.paths[seed, others], before[seed, others])
        assert int((teacher.paths[seed, loser] != winner).sum()) <= 4
        shown = [network.scorer, network.layers[0].scorer]
        follows = torch.stack([each.logit[seed].argmax(-1) for each in shown])
        assert torch.equal(follows, winner)
    assert int(teacher.age) == 0


def test_each_half_of_a_batch_follows_its_own_path() -> None:
    network = cohort("sets", Evolved(population=2), layers=2)
    teacher = Bred(network, network.gating)
    teacher.paths.copy_(torch.tensor([[[0, 0], [1, 1]], [[1, 0], [0, 1]]]))
    teacher.pair.copy_(torch.tensor([[1, 0]]))
    teacher.age += 1
    batch = next(batches(Stream(DATA["sets"], ((0, 0),), 6, CPU)))
    noise = Noise(torch.rand(1, 6, 2, network.chance), torch.tensor(0.0))
    route = teacher.route(batch, noise)
    routed = network(batch.inputs, batch.rule, noise=noise, route=route).routed
    for layer in range(2):
        chosen = routed[layer].weight.argmax(-1)
        for half, path in ((slice(0, 3), 1), (slice(3, 6), 0)):
            genes = teacher.paths[0, path, layer]
            assert torch.equal(chosen[:, half], genes[batch.rule[:, half]])


def test_as_many_genes_mutate_as_asked_for_by_at_most_two_to_either_side() -> None:
    generator = torch.Generator().manual_seed(1)
    path = torch.full((2, 10), 4)
    copies = torch.stack([mutated(path, 9, 2.0, generator) for _ in range(2_000)])
    moved = (copies != path).double().sum((1, 2)).mean()
    assert float(moved) == pytest.approx(2.0 * 4 / 5, rel=0.06)  # a shift may be by 0
    assert sorted({*copies.flatten().tolist()}) == [2, 3, 4, 5, 6]


def test_evolution_finds_the_modules_that_rules_need() -> None:
    network = cohort("binary", Evolved(population=6, trial=2), (0, 1))
    oracle = create(DATA["binary"], ModelSpec(scorer="oracle", **SMALL), (0, 1))
    train(oracle, 300, batch=64)
    network.load_state_dict(oracle.state_dict(), strict=False)
    stepper = Stepper(network, "regression", phase=Phase(learns=("scorer.*",)))
    stream = Stream(DATA["binary"], ((0, 0), (1, 1)), 64, CPU)
    for batch, uniform in itertools.islice(
        zip(batches(stream), uniform_numbers(stream, network.chance), strict=False), 150
    ):
        stepper.step(batch, torch.tensor(1e-2), Noise(uniform, torch.tensor(0.0)))
    assert network(batch.inputs, batch.rule).routed[0].weight.argmax(-1).eq(batch.rule).all()
    mine = winning_modules(cast("LayeredNetwork", network), [1])
    assert mine.tolist() == [[[False, True]], [[False, True]]]


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gating", TAUGHT)
def test_a_taught_run_resumes_from_its_state_to_the_bit(
    gating: Taught,
) -> None:
    whole = cohort("binary", gating, (0, 1))
    train(whole, 9)
    part = cohort("binary", gating, (0, 1))
    stopped = train(part, 5)
    state = {name: value.clone() for name, value in stopped.state().items()}
    again = cohort("binary", gating, (0, 1))
    again.load_state_dict(part.state_dict())
    stepper = Stepper(again, "regression")
    stepper.load_state(state)
    stream = Stream(DATA["binary"], ((0, 0), (1, 1)), 16, CPU)
    numbers = uniform_numbers(stream, max(again.chance, 0), start=5)
    for batch, uniform in itertools.islice(zip(batches(stream, start=5), numbers, strict=False), 4):
        stepper.step(batch, torch.tensor(1e-2), Noise(uniform, torch.tensor(0.0)))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("gating", TAUGHT)
def test_a_seed_is_taught_alike_alone_and_in_a_cohort(
    gating: Taught,
) -> None:
    together, alone = cohort("binary", gating, (0, 1)), cohort("binary", gating, (0,))
    train(together, 6)
    train(alone, 6)
    for name, value in together.state_dict().items():
        torch.testing.assert_close(value[:1], alone.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gating", [Reinforce(), QLearning(), Evolved()])
@pytest.mark.parametrize("engine", ["graphed", "compiled"])
def test_engines_that_teach_nothing_refuse(gating: Taught, engine: Any) -> None:
    network = cohort("binary", gating)
    with pytest.raises(RunError, match="Use --engine auto"):
        Stepper(network, "regression", engine=engine)


# --- by a bias -----------------------------------------------------------------------------------


def test_a_bias_moves_against_load_and_never_reaches_an_output() -> None:
    gating = BalancedTopK(k=1, rate=0.1)
    network = cohort("binary", gating, (0, 1), modules=3)
    batch = next(batches(Stream(DATA["binary"], ((0, 0), (1, 1)), 16, CPU)))
    before = network(batch.inputs, batch.rule).routed[0]
    stepper = Stepper(network, "regression", phase=Phase(learns=("scorer.*",)))
    stepper.step(batch, torch.tensor(0.0))
    load = (before.weight > 0).sum(1).float()
    assert torch.equal(network.scorer.bias, 0.1 * (load.mean(1, keepdim=True) - load).sign())
    network.scorer.bias[:, 2] = 5.0  # all go there, and weigh what they did
    after = network(batch.inputs, batch.rule).routed[0]
    assert torch.equal(after.weight.argmax(-1), torch.full((2, 16), 2))
    torch.testing.assert_close(after.weight[..., 2], before.logits.sigmoid()[..., 2])
    assert torch.equal(after.logits, before.logits)


def test_a_bias_mends_collapse_that_a_biased_start_provokes() -> None:
    def busiest(rate: float) -> float:
        gating = BalancedTopK(k=1, rate=rate)
        network = cohort("binary", gating, (0, 1), modules=3, scorer="input")
        with torch.no_grad():
            network.scorer.inner.mlp.readout.bias[:, 0] += 2.0
        train(network, 100)
        stream = Stream(DATA["binary"], ((0, 0), (1, 1)), 256, CPU, 9)
        batch = next(batches(stream))
        weight = network(batch.inputs, batch.rule).routed[0].weight
        return float((weight > 0).float().mean(1).amax(-1).mean())

    without, with_bias = busiest(1e-9), busiest(2e-2)
    assert without > 0.9
    assert with_bias < 0.5


# --- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gating", [Reinforce(), QLearning(), Evolved()])
def test_given_routing_is_what_routes_whoever_teaches(gating: Taught) -> None:
    """Modules of rules that are not drawn stay, and the router learns nothing from it."""
    network = cohort("binary", gating)
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    stepper = Stepper(network, "regression", phase=Phase(routing="oracle"))
    assert stepper.teacher is None
    stream = Stream(DATA["binary"], ((0, 0),), 16, CPU, rules=(1,))
    for batch, uniform in itertools.islice(
        zip(batches(stream), uniform_numbers(stream, network.chance), strict=False), 5
    ):
        stepper.step(batch, torch.tensor(1e-2), Noise(uniform, torch.tensor(0.0)))
    moved = (network.experts.hidden.weight != start["experts.hidden.weight"]).flatten(2).any(-1)
    assert moved.tolist() == [[False, True]]
    for name, value in network.named_parameters():
        assert torch.equal(value, start[name]) or "scorer" not in name


def test_a_router_that_does_not_learn_is_not_taught() -> None:
    network = cohort("binary", Evolved())
    assert teacher_of(network, ["experts.hidden.weight"]) is None
    assert isinstance(teacher_of(network, ["scorer.logit"]), Bred)
