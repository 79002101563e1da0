"""Modules as functions along a given layout, and models that are told skills."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeval.data import draw, stack_tasks
from modeval.errors import RunError, SpecError
from modeval.nn import Network, create
from modeval.spec import DataSpec, ModelSpec, RunSpec, from_dict
from modeval.spec.gatings import Gumbel, NoisyTopK, Soft, TopK
from modeval.spec.layouts import skills_of_rules
from modeval.spec.taught import Reinforce
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Batch, Noise

CPU = torch.device("cpu")
TREE = DataSpec(
    rules=48, operation="named", skills=4, skills_per_rule=3, composition="tree", told="skills",
    held_out=8,
)  # fmt: skip
CHAIN = DataSpec(rules=6, skills=3, composition="sequential", told="skills")
SCORERS = ("oracle", "hash", "rule", "table", "both", "shared")


def network_of(data: DataSpec, seeds: tuple[int, ...] = (0, 1), **choices: Any) -> Any:
    usual: Any = {"scorer": "oracle", "aggregation": "functions", "encoder": 6, "width": 24}
    return create(data, ModelSpec(**(usual | choices)), seeds)


def samples(data: DataSpec, seeds: int, count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rule = torch.randint(data.rules, (seeds, count), generator=generator)
    return torch.randn(seeds, count, 2, generator=generator), rule


def test_modules_are_applied_along_the_tree_of_the_rule() -> None:
    network = network_of(TREE)
    x, rule = samples(TREE, 2)
    prediction = network(x, rule).prediction
    for seed, sample in itertools.product(range(2), range(12)):
        used = skills_of_rules(TREE)[int(rule[seed, sample])]
        leaves = [network.encoder_number(x[:, [sample], [side]].unsqueeze(-1)) for side in (0, 1)]

        def value(place: int, side: int, used: Any = used, leaves: Any = leaves) -> Tensor:
            if place >= len(used):
                return leaves[side]  # type: ignore[no-any-return]
            both = torch.cat((value(2 * place + 1, 0), value(2 * place + 2, 1)), -1)
            outputs = network.experts(both.unsqueeze(1).expand(-1, 4, -1, -1))
            return outputs[:, used[place]]  # type: ignore[no-any-return]

        expected = network.decoder(F.relu(value(0, 0)))[seed, 0]
        torch.testing.assert_close(prediction[seed, sample], expected, rtol=1e-4, atol=1e-5)


def test_places_are_reported_as_layers_in_the_order_of_computation() -> None:
    x, rule = samples(TREE, 2)
    routed = network_of(TREE)(x, rule).routed
    used = torch.tensor(skills_of_rules(TREE))[rule]
    assert len(routed) == 3
    for number, skill in enumerate((2, 1, 0)):  # leaves first, the root last
        assert torch.equal(routed[number].weight.argmax(-1), used[..., skill])


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("gating", [Soft(), TopK(), Gumbel(), NoisyTopK(), Reinforce()])
def test_functions_learn_with_every_router_that_knows_the_skill_seed_by_seed(
    scorer: str, gating: Any
) -> None:
    fixed = scorer in ("oracle", "hash")
    if fixed and gating != Soft():
        return
    more = {} if fixed else {"gating": gating}

    def trained(seeds: tuple[int, ...]) -> Network:
        network: Network = network_of(CHAIN, seeds, scorer=scorer, **more)
        x, rule = (part[-len(seeds) :] for part in samples(CHAIN, 2))
        uniform = torch.rand(
            2, 12, max(network.chance, 0), generator=torch.Generator().manual_seed(1)
        )
        noise = Noise(uniform[-len(seeds) :], torch.tensor(0.5)) if network.chance >= 0 else None
        stepper = Stepper(network, "regression")
        assert stepper.engine == "eager"
        target = x.sum(-1, keepdim=True)
        stepper.step(Batch(x, rule, target), torch.tensor(1e-2), noise)
        return network

    start = dict(network_of(CHAIN, (3, 4), scorer=scorer, **more).named_parameters())
    together = trained((3, 4))
    rule_encoded = scorer == "rule"
    for name, value in together.named_parameters():
        unread = name.startswith("encoder_rule") and not rule_encoded
        assert torch.equal(value, start[name]) == unread, name
    x, rule = samples(CHAIN, 2)
    alone = trained((4,))(x[1:], rule[1:]).prediction
    torch.testing.assert_close(together(x, rule).prediction[1:], alone, rtol=1e-3, atol=1e-4)


def errors(data: DataSpec, network: Network, *, held: bool) -> Tensor:
    kept = data.rules - data.held_out
    shares = torch.zeros(data.rules)
    shares[slice(kept, None) if held else slice(0, kept)] = 1
    generators = [torch.Generator().manual_seed(9)] * network.seeds
    batch = draw(
        data, stack_tasks(data, [0] * network.seeds), generators, samples=1_000,
        rule_probabilities=shares / shares.sum(),
    )  # fmt: skip
    with torch.no_grad():
        prediction = network(batch.inputs, batch.rule).prediction
    error: Tensor = (prediction - batch.target).abs()
    return error.flatten(1).mean(1)


def test_a_tree_of_functions_solves_layouts_that_it_was_never_trained_on() -> None:
    """Monolithic, told the same skills, does not."""
    held = {}
    for name, choices in {
        "functions": {},
        "monolithic": {"scorer": "none", "modules": 1, "aggregation": "outputs"},
    }.items():
        network = network_of(TREE, (0,), encoder=12, width=48, match="width", **choices)
        stepper = Stepper(network, "regression")
        for batch in itertools.islice(batches(Stream(TREE, ((0, 0),), 64, CPU)), 500):
            stepper.step(batch, torch.tensor(4e-3))
        held[name] = float(errors(TREE, network, held=True))
    assert held["functions"] < 0.25
    assert held["monolithic"] > 2.5 * held["functions"]


@pytest.mark.parametrize("scorer", ["rule", "both", "shared", "module"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_that_is_told_skills_takes_rules_with_the_same_skills_for_one(
    scorer: str, layers: int
) -> None:
    """Additive rules are told by a row of skills: where rows are equal, answers are."""
    data = DataSpec(rules=3, skills=3, told="skills")
    model = ModelSpec(scorer=scorer, layers=layers, encoder=6, width=12)  # type: ignore[arg-type]
    network: Any = create(data, model, (0,))
    x = torch.randn(1, 1, 2).expand(1, 3, 2)
    rule = torch.arange(3).unsqueeze(0)
    apart = network(x, rule).prediction
    assert len({*apart.flatten().tolist()}) == 3
    for part in network.modules():
        for name in ("rows", "told"):
            if isinstance(getattr(part, name, None), Tensor):
                getattr(part, name)[1] = getattr(part, name)[0]
    same = network(x, rule).prediction.flatten()
    torch.testing.assert_close(same[1], same[0])
    assert same[2] == apart.flatten()[2]
    assert not any("told" in name or "rows" in name for name in network.state_dict())


@pytest.mark.parametrize("rules", [3, 2])
def test_the_fused_kernels_refuse_what_is_told_otherwise(rules: int) -> None:
    data = DataSpec(rules=rules, skills=3, told="skills")
    model = ModelSpec(scorer="rule", encoder=6, width=12)
    network = create(data, model, (0,))
    with pytest.raises(RunError, match="ToldMLP"):
        Stepper(network, "regression", engine="fused")
    with pytest.raises(RunError, match="ComposedNetwork"):
        Stepper(network_of(CHAIN), "regression", engine="fused")


REFUSED = [
    ({"rules": 4}, {}, "Use --task binary --skills 4"),
    ({"rules": 4, "task": "sets"}, {}, "--composition tree"),
    ({"rules": 4, "skills": 4, "told": "skills"}, {}, "--composition sequential"),
    ({"rules": 4, "skills": 4, "composition": "tree"}, {}, "--told skills"),
    (None, {"scorer": "none", "modules": 1}, "Use --scorer oracle"),
    (None, {"scorer": "module"}, "Use --scorer oracle"),
    (None, {"scorer": "table", "gating": "evolved"}, "--gating reinforce"),
    (None, {"layers": 2}, "Drop --layers"),
    (None, {"computation": "low-rank"}, "Use --computation full"),
    (None, {"modules": 5}, "3 skills"),
    (None, {"scorer": "map", "map": [[0], [1]]}, "2 rows for 3 skills"),
]


@pytest.mark.parametrize(("data", "model", "reason"), REFUSED)
def test_functions_that_nothing_composes_are_refused_with_what_to_type(
    data: dict[str, Any] | None, model: dict[str, Any], reason: str
) -> None:
    told = {"rules": 6, "skills": 3, "composition": "sequential", "told": "skills"}
    model = {"scorer": "oracle", "aggregation": "functions", **model}
    with pytest.raises(SpecError, match=reason):
        from_dict(RunSpec, {"data": data or told, "model": model})
