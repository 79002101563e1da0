"""Each system does what its own definition says."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeval.errors import SpecError
from modeval.nn import Network, create
from modeval.nn.scorers import hash_table
from modeval.spec import DataSpec, ModelSpec, RunSpec, from_dict, title_of
from modeval.spec.computing.compute import best_of
from modeval.spec.gatings import (
    Base,
    Concrete,
    EpsilonGreedy,
    ExpertChoice,
    Gumbel,
    NoisyTopK,
    Sinkhorn,
    Switch,
    Threshold,
    TopK,
)
from modeval.spec.systems import BY_NAME, SYSTEMS, contradictions, named, system_of
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Noise, shares

DATA = DataSpec(rules=3)
SEEDS = (1, 2)
N, E, W = 40, 6, 12


def spec_of(name: str, data: DataSpec = DATA) -> RunSpec:
    small = {"encoder": E, "width": W}
    model, train = named(name, small, {"steps": 20, "batch": 16})
    return from_dict(RunSpec, {"data": {"rules": data.rules}, "model": model, "train": train})


def built(name: str, *, start: bool = False) -> Network:
    """Return a cohort of a system; unless at its start, with parameters as they might become."""
    network = create(DATA, spec_of(name).model, SEEDS)
    if not start:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return network.double()


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(len(SEEDS), N, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (len(SEEDS), N), generator=generator)


def weights_of(name: str) -> Tensor:
    x, rule = inputs()
    return built(name)(x, rule).routed[0].weight  # type: ignore[no-any-return]


def logits_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def noise(uniform: Tensor, progress: float = 1.0) -> Noise:
    return Noise(uniform, torch.tensor(progress))


def code(network: Any, x: Tensor, rule: Tensor) -> Tensor:
    """Return what comes into the modules: both numbers and the rule, encoded."""
    one_hot = F.one_hot(rule, 3).to(x.dtype)
    parts = [network.encoder_number(x[..., [index]]) for index in (0, 1)]
    return torch.cat((*parts, network.encoder_rule(one_hot)), -1)


def decode(network: Any, mixed: Tensor) -> Tensor:
    return network.decoder(mixed)  # type: ignore[no-any-return]


def mixture(outputs: list[Tensor], weight: Tensor) -> Tensor:
    return sum((weight[..., [m]] * y for m, y in enumerate(outputs)), torch.zeros(()))


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_each_system_is_built_on_each_of_its_tasks_and_nowhere_else(system: Any) -> None:
    for task in ("binary", "sets", "series"):
        model, train = named(system.name, {}, {})
        data = {"task": task, "rules": 4, **system.data}
        values = {"data": data, "model": model, "train": train}
        if task in system.tasks:
            run = from_dict(RunSpec, values)
            assert title_of(run.model) == system.title
        else:
            with pytest.raises(SpecError):
                from_dict(RunSpec, values)


def test_no_two_systems_are_the_same() -> None:
    assert len(BY_NAME) == len(SYSTEMS)
    assert len({system.title for system in SYSTEMS}) == len(SYSTEMS)
    assert len({repr((system.choices, system.phase)) for system in SYSTEMS}) == len(SYSTEMS)


def test_an_unknown_system_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="polytropon"):
        system_of("politropon")


def test_settings_of_a_choice_may_differ_and_the_choice_itself_may_not() -> None:
    assert named("switch", {"gating": {"capacity": 2.0}}, {})[0]["gating"]["capacity"] == 2
    assert contradictions("switch", {"gating": {"kind": "soft"}}) == {"gating": ("switch", "soft")}
    assert contradictions("switch", {"gating": {"capacity": 2.0}, "width": 3}) == {}


# --- gatings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gumbel", "switch", "base", "sinkhorn", "epsilon-greedy", "hash"])
def test_hard_routing_has_softness_zero(name: str) -> None:
    weight = shares(weights_of(name)).detach()
    assert float(torch.special.entr(weight).sum(-1).max()) == 0


def test_hash_routing_is_a_fixed_map_that_no_training_changes() -> None:
    x, rule = inputs()
    weight = built("hash")(x, rule).routed[0].weight
    assert torch.equal(weight.argmax(-1), hash_table(3, 3).argmax(-1)[rule])


def test_global_weights_tell_nothing_of_the_rule() -> None:
    weight = weights_of("global-weights")
    assert torch.equal(weight, weight[:, :1].expand_as(weight))


def test_the_two_best_of_top_two_share_a_sample_by_softmax() -> None:
    logits = logits_of(1, 9, 4)
    weight = TopK(k=2)(logits)
    best = logits.topk(2, -1)
    torch.testing.assert_close(weight.gather(-1, best.indices), best.values.softmax(-1))
    assert torch.equal((weight > 0).sum(-1), torch.full((1, 9), 2))


def test_noise_of_noisy_top_k_is_normal_with_the_scale_that_the_scorer_gives() -> None:
    logits = torch.cat((torch.zeros(1, 20_000, 2), torch.full((1, 20_000, 2), 1.0)), -1)
    uniform = torch.rand(1, 20_000, 2, generator=torch.Generator().manual_seed(0))
    weight = NoisyTopK(k=2)(logits, noise(uniform))
    difference = (weight[..., 0] / weight[..., 1]).log() / (2**0.5 * F.softplus(torch.tensor(1.0)))
    assert float(difference.std()) == pytest.approx(1, abs=0.02)
    assert float(difference.abs().lt(1).double().mean()) == pytest.approx(0.683, abs=0.01)


def test_switch_drops_exactly_what_exceeds_capacity_and_scales_by_the_share() -> None:
    logits = torch.zeros(1, 10, 2)
    logits[:, :8, 0] = 5.0
    logits[:, 8:, 1] = 5.0
    weight = Switch(capacity=1.0)(logits)
    assert (weight > 0).sum(1).tolist() == [[5, 2]]
    assert weight[0, 5:8].tolist() == [[0, 0]] * 3
    torch.testing.assert_close(weight[0, 0], logits[0, 0].softmax(-1) * torch.tensor([1.0, 0.0]))
    assert int((Switch(capacity=0.0)(logits).sum(-1) == 0).sum()) == 0


def test_expert_choice_cannot_collapse() -> None:
    logits = logits_of(2, 12, 3)
    logits[..., 0] += 50
    weight = ExpertChoice(capacity=1.0)(logits)
    assert torch.equal((weight > 0).sum(1), torch.full((2, 3), 4))


def test_base_finds_the_balanced_assignment_with_the_largest_sum() -> None:
    logits = logits_of(1, 6, 3)
    weight = Base()(logits, noise(torch.zeros(1, 6, 0)))
    assert (weight > 0).sum(1).tolist() == [[2, 2, 2]]
    balanced = set(itertools.permutations([0, 0, 1, 1, 2, 2]))
    best = max(sum(float(logits[0, n, m]) for n, m in enumerate(each)) for each in balanced)
    assert float(logits[weight > 0].sum()) == pytest.approx(best)
    assert torch.equal(Base()(logits).argmax(-1), logits.argmax(-1))


def test_a_seed_that_is_not_finite_stops_no_assignment_of_others() -> None:
    logits = logits_of(2, 6, 3)
    alone = Base()(logits[1:], noise(torch.zeros(1, 6, 0)))
    logits[0] = torch.nan
    assert torch.equal(Base()(logits, noise(torch.zeros(2, 6, 0)))[1:], alone)


@pytest.mark.parametrize("gating", [Base(), Sinkhorn()], ids=lambda each: each.kind)
def test_what_training_balances_evaluation_leaves_to_each_sample(gating: Any) -> None:
    """The mismatch of both: a module that all want gets its part in training, and then all."""
    logits = logits_of(2, 12, 3) + torch.tensor([3.0, 0.0, 0.0])
    trained = (gating(logits, noise(torch.zeros(2, 12, 0))) > 0).sum(1)
    evaluated = gating(logits) > 0
    assert int(trained.max()) <= 6
    assert torch.equal(evaluated.long().argmax(-1), logits.argmax(-1))
    assert int(evaluated.sum(1)[:, 0].min()) >= 9


def test_sinkhorn_spreads_what_all_want_alike() -> None:
    logits = 0.1 * logits_of(1, 300, 3)
    logits[..., 0] += 4
    load = (Sinkhorn(iterations=50)(logits, noise(torch.zeros(1, 300, 0))) > 0).sum(1)
    assert int(load.min()) > 60
    assert (Sinkhorn()(logits) > 0).sum(1).tolist() == [[300, 0, 0]]


def test_gumbel_draws_modules_as_often_as_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, -0.5]).expand(1, 40_000, 3)
    uniform = torch.rand(1, 40_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = Gumbel()(logits, noise(uniform)).mean(1)
    torch.testing.assert_close(drawn[0], logits[0, 0].softmax(-1), atol=0.01, rtol=0)


def test_gumbel_passes_the_gradient_of_the_soft_sample_straight_through() -> None:
    uniform = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = []
    for hard in (True, False):
        logits = logits_of(1, 5, 3).requires_grad_()
        weight = Gumbel(hard=hard)(logits, noise(uniform, 0.4))
        gradients.append(torch.autograd.grad((weight * logits_of(1, 5, 3)).sum(), logits)[0])
    torch.testing.assert_close(*gradients)


def test_the_temperature_of_gumbel_falls_from_start_to_end() -> None:
    logits, uniform = logits_of(1, 5, 3), torch.full((1, 5, 3), 0.5, dtype=torch.float64)
    for progress, temperature in ((0.0, 5.0), (0.5, 2.5**0.5), (1.0, 0.5)):
        weight = Gumbel(hard=False)(logits, noise(uniform, progress))
        torch.testing.assert_close(weight, (logits / temperature).softmax(-1))


def test_epsilon_is_the_share_of_random_choices() -> None:
    logits = torch.tensor([9.0, 0.0, 0.0]).expand(1, 30_000, 3)
    uniform = torch.rand(1, 30_000, 6, generator=torch.Generator().manual_seed(0))
    others = (EpsilonGreedy(epsilon=0.3)(logits, noise(uniform, 0.0)).argmax(-1) > 0).double()
    assert float(others.mean()) == pytest.approx(0.2, abs=0.01)
    last = EpsilonGreedy(epsilon=0.3)(logits, noise(uniform, 1.0))
    assert int((last.argmax(-1) > 0).sum()) == 0


def test_threshold_routes_to_none_one_or_all() -> None:
    logits = torch.tensor([[[1.0, 2.0], [1.0, -1.0], [-1.0, -2.0]]])
    assert Threshold()(logits).tolist() == [[[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]]


def test_concrete_gives_skills_as_shares_and_relaxed_draws_in_training() -> None:
    logits = logits_of(1, 5, 3)
    expected = logits.sigmoid() / (logits.sigmoid().sum(-1, keepdim=True) + 1e-12)
    torch.testing.assert_close(Concrete()(logits), expected)
    uniform = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    relaxed = ((logits + (uniform / (1 - uniform)).log()) / 1.0).sigmoid()
    seen = Concrete()(logits, noise(uniform))
    torch.testing.assert_close(seen, relaxed / relaxed.sum(-1, keepdim=True))


# --- computations and aggregations ---------------------------------------------------------------


def modules_of(name: str, network: Any, z: Tensor) -> list[Tensor]:
    """Return what each module says, each computed by itself from its definition."""
    bank = network.experts
    own, back = bank.hidden.own, bank.readout.own
    first, second = bank.hidden.shared, bank.readout.shared
    found = []
    for m in range(3):
        w1, b1, w2, b2 = first.weight, first.bias[:, None], second.weight, second.bias[:, None]
        before = z @ w1 + b1
        if name == "low-rank":
            before = before + 2.0 * (z @ own["down"][:, m]) @ own["up"][:, m]
            hidden = before.relu()
            added = 2.0 * (hidden @ back["down"][:, m]) @ back["up"][:, m]
            found.append(hidden @ w2 + b2 + added)
        elif name == "rescaled":
            hidden = (own["factor"][:, m][:, None] * before).relu()
            found.append(back["factor"][:, m][:, None] * (hidden @ w2 + b2))
        elif name == "prompt":
            prompt = own["prompt"][:, m].expand(-1, N, -1)
            seen = torch.cat((prompt, z), -1)
            hidden = (seen @ torch.cat((own["read"][:, 0], w1), 1) + b1).relu()
            found.append(hidden @ w2 + b2)
        elif name == "adapter":
            hidden = before.relu()
            low = (hidden @ own["down"][:, m] + own["down_bias"][:, m][:, None]).relu()
            found.append((hidden + low @ back["up"][:, m]) @ w2 + b2)
        elif name == "parallel-adapter":
            low = (z @ own["down"][:, m] + own["down_bias"][:, m][:, None]).relu()
            found.append(before.relu() @ w2 + b2 + low @ back["up"][:, m])
        else:  # masks
            scores = own["scores"][:, m], back["scores"][:, m]
            if name == "supermask":
                scores = scores[0].abs(), scores[1].abs()
            masks = [best_of(each, 0.5) for each in scores]
            hidden = (z @ (w1 * masks[0]) + b1).relu()
            found.append(hidden @ (w2 * masks[1]) + b2)
    return found


KINDS = ["low-rank", "rescaled", "prompt", "adapter", "parallel-adapter", "masked", "supermask"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_on_a_trunk_computes_what_its_definition_says(kind: str) -> None:
    network: Any = built(f"{kind}-per-rule")
    x, rule = inputs()
    outputs = modules_of(kind, network, code(network, x, rule))
    one_hot = F.one_hot(rule, 3).double()
    expected = decode(network, mixture(outputs, one_hot))
    torch.testing.assert_close(network(x, rule).prediction, expected)


@pytest.mark.parametrize("kind", ["low-rank", "rescaled", "adapter", "parallel-adapter"])
def test_modules_start_equal_at_the_trunk(kind: str) -> None:
    network: Any = built(f"{kind}-per-rule", start=True)
    x, rule = inputs()
    first, *others = modules_of(kind, network, code(network, x, rule))
    assert all(torch.allclose(first, other) for other in others)


@pytest.mark.parametrize("kind", ["masked", "supermask"])
def test_each_module_keeps_the_share_of_weights_that_was_asked_for(kind: str) -> None:
    network: Any = built(f"{kind}-per-rule")
    weight, _ = network.experts.hidden.parts()
    kept = (weight != 0).double().mean((2, 3))
    torch.testing.assert_close(kept, torch.full_like(kept, 0.5), atol=0.01, rtol=0)
    assert not torch.equal(weight[:, 0] != 0, weight[:, 1] != 0)


def test_the_gradient_of_a_score_is_weight_times_gradient_of_the_masked_weight() -> None:
    scores = logits_of(4, 5).requires_grad_()
    weight, back = logits_of(4, 5) * 2, logits_of(4, 5) + 1
    masked = weight * best_of(scores, 0.5)
    [gradient] = torch.autograd.grad((masked * back).sum(), scores)
    torch.testing.assert_close(gradient, weight * back)


def test_a_supermask_leaves_the_trunk_as_it_was_to_the_bit() -> None:
    spec = spec_of("supermask-per-rule")
    network: Any = create(DATA, spec.model, SEEDS)
    before = network.experts.hidden.shared.weight.clone()
    stepper = Stepper(network, "regression")
    source = batches(Stream(DATA, ((0, 1), (0, 2)), 16, torch.device("cpu")))
    for _ in range(5):
        stepper.step(next(source), torch.tensor(1e-2))
    assert torch.equal(before, network.experts.hidden.shared.weight)


def averaged(network: Any, weight: Tensor, z: Tensor, *, trunk_once: bool = False) -> Tensor:
    """Average the parameters of modules for each sample, and run each sample through its own."""
    layers = [network.experts.hidden.parts(), network.experts.readout.parts()]
    spare = 1 - weight.sum(-1) if trunk_once else torch.zeros_like(weight[..., 0])
    shared = [getattr(network.experts, name, None) for name in ("hidden", "readout")]
    state = z
    for index, (theta, bias) in enumerate(layers):
        own = torch.einsum("snm,smio->snio", weight, theta)
        own_bias = torch.einsum("snm,smo->sno", weight, bias)
        if trunk_once:
            trunk = shared[index].shared  # type: ignore[union-attr]
            own = own + spare[..., None, None] * trunk.weight[:, None]
            own_bias = own_bias + spare[..., None] * trunk.bias[:, None]
        state = torch.einsum("sni,snio->sno", state, own) + own_bias
        state = state.relu() if index == 0 else state
    return state


@pytest.mark.parametrize("name", ["smear", "mov", "polytropon"])
def test_parameters_are_averaged_before_one_pass(name: str) -> None:
    network: Any = built(name)
    x, rule = inputs()
    output = network(x, rule)
    mixed = averaged(network, output.routed[0].weight, code(network, x, rule))
    torch.testing.assert_close(output.prediction, decode(network, mixed))


def test_a_linear_hypernetwork_adds_generated_differences_to_one_trunk() -> None:
    network: Any = built("hypernetwork")
    x, rule = inputs()
    output = network(x, rule)
    weight = output.routed[0].weight
    assert float(weight.detach().min()) < 0
    mixed = averaged(network, weight, code(network, x, rule), trunk_once=True)
    torch.testing.assert_close(output.prediction, decode(network, mixed))


def test_mixing_outputs_is_mixing_parameters_where_modules_are_linear_only() -> None:
    x, rule = inputs()
    choices: dict[str, Any] = {"scorer": "both", "encoder": E, "width": W}
    outputs, parameters = (
        create(DATA, ModelSpec(aggregation=kind, **choices), SEEDS).double()
        for kind in ("outputs", "parameters")
    )
    bent = (outputs(x, rule).prediction - parameters(x, rule).prediction).detach()
    assert float(bent.abs().max()) > 1e-4
    with torch.no_grad():
        for network in (outputs, parameters):
            network.get_parameter("experts.hidden.bias").add_(1_000)  # no unit is ever off
            second = network.get_parameter("experts.readout.weight")
            second.copy_(second[:, :1].expand_as(second))  # else products of weights differ
    torch.testing.assert_close(outputs(x, rule).prediction, parameters(x, rule).prediction)


def test_a_mixture_of_loras_mixes_their_outputs() -> None:
    network: Any = built("molora")
    x, rule = inputs()
    output = network(x, rule)
    modules = modules_of("low-rank", network, code(network, x, rule))
    expected = decode(network, mixture(modules, output.routed[0].weight))
    torch.testing.assert_close(output.prediction, expected)


def test_attention_asks_with_the_input_what_modules_say_and_projects_the_mixture() -> None:
    model = ModelSpec(scorer="attention", aggregation="attend", encoder=E, width=W)
    network: Any = create(DATA, model, SEEDS).double()
    with torch.no_grad():
        network.value.weight.add_(0.3)
    x, rule = inputs()
    z = code(network, x, rule)
    hidden = (z.unsqueeze(1) @ network.experts.hidden.weight).transpose(1, 2)
    hidden = (hidden + network.experts.hidden.bias.unsqueeze(1)).relu()
    said = (hidden.transpose(1, 2) @ network.experts.readout.weight).transpose(1, 2)
    said = said + network.experts.readout.bias.unsqueeze(1)
    query = network.scorer.query(z)
    keys = torch.einsum("snmo,sok->snmk", said, network.scorer.key.weight)
    weight = torch.einsum("snk,snmk->snm", query, keys).softmax(-1)
    mixed = (weight.unsqueeze(-1) * said).sum(2) @ network.value.weight
    torch.testing.assert_close(network(x, rule).routed[0].weight, weight)
    torch.testing.assert_close(network(x, rule).prediction, decode(network, mixed))


def test_the_router_of_polytropon_learns_faster_than_its_skills() -> None:
    [(_, _, phase)] = spec_of("polytropon").train.stretches
    stepper = Stepper(create(DATA, spec_of("polytropon").model, SEEDS), "regression", phase=phase)
    rates = dict(zip(stepper.names, stepper.factors, strict=True))
    assert rates["scorer.logit"] == 10
    assert {rate for name, rate in rates.items() if name != "scorer.logit"} == {1}


# --- load ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "modules"), [(2, 4), (3, 4), (2, 2)])
def test_the_smooth_load_is_how_often_a_module_is_chosen_when_its_noise_is_drawn_anew(
    k: int, modules: int
) -> None:
    """Shazeer et al. 2017, appendix A, equation 9: noise of the others stays as it is."""
    gating, draws = NoisyTopK(k=k), 4_000
    logits = logits_of(1, 5, 2 * modules)
    uniform = torch.rand(1, 5, modules, generator=torch.Generator().manual_seed(1)).double()
    smooth = gating.load(logits, noise(uniform))
    generator = torch.Generator().manual_seed(2)
    for module in range(modules):
        anew = uniform.expand(draws, -1, -1).clone()
        anew[..., module] = torch.rand(draws, 5, generator=generator).double()
        weight = gating(logits.expand(draws, -1, -1), noise(anew))
        often = (weight[..., module] > 0).double().mean(0)
        torch.testing.assert_close(often, smooth[0, :, module], rtol=0, atol=0.03)


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
@pytest.mark.parametrize("scorer", ["both", "module"])
def test_every_family_hands_the_smooth_load_to_the_remedy(task: str, scorer: str) -> None:
    choices: Any = {"scorer": scorer, "encoder": E, "width": W, "modules": 3}
    data = {"binary": DATA, "sets": DataSpec(task="sets", rules=3, length=3)}.get(
        task, DataSpec(task="series", rules=3, dimension=3, length=3)
    )
    network = create(data, ModelSpec(gating=NoisyTopK(k=2), layers=2, **choices), (1, 2))
    shape = (2, 4, *((data.length,) if data.sequence else ()))
    uniform = torch.rand(*shape, network.chance, generator=torch.Generator().manual_seed(0))
    output = network(
        torch.randn(*shape, data.features),
        torch.zeros(shape, dtype=torch.int64),
        noise=noise(uniform),
    )
    for routed in output.routed:
        assert routed.load is not None
        load = routed.load()
        assert load.shape == routed.weight.flatten(1, -2).shape
        chosen = routed.weight.flatten(1, -2).detach() > 0
        assert load.detach()[chosen].mean() > load.detach()[~chosen].mean()
        assert load.requires_grad


def test_the_load_remedy_is_refused_where_no_gating_says_how_likely_a_choice_is() -> None:
    values = {
        "model": {"scorer": "both", "gating": "switch"},
        "train": {"phases": [{"remedies": [{"kind": "load"}]}]},
    }
    with pytest.raises(SpecError, match='"balance" or "importance"'):
        from_dict(RunSpec, values)
    values["model"] = {"scorer": "both", "gating": "noisy-top-k"}
    assert from_dict(RunSpec, values).train.phases[0].remedies[0].kind == "load"
