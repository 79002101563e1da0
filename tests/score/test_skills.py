"""Skills that routing finds, and rules that were held out, in the scorecard of a cohort."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.evaluate.cohort import evaluate
from modeval.evaluate.subject import Subject
from modeval.metrics import alignment_distance
from modeval.metrics.skills import discreteness, skill_match
from modeval.nn import create
from modeval.score.cohorts import score
from modeval.score.scorecard import Scorecard
from modeval.score.skills import true_skills
from modeval.spec import DataSpec, ModelSpec, RunSpec, from_dict
from modeval.spec.layouts import skills_of_rules
from modeval.spec.systems import named
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches, uniform_numbers
from modeval.types import Noise

SEEDS = ((0, 0), (1, 1))


def table(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, columns, generator=generator, dtype=torch.float64) + 1e-3


# --- the metrics ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.integers(2, 4), st.integers(2, 4), st.integers(0, 10**6))
def test_skills_are_matched_as_well_as_the_best_of_all_maps(
    rules: int, skills: int, modules: int, seed: int
) -> None:
    joint, true = table(rules, modules, seed), (table(rules, skills, seed + 1) > 0.5).double()
    true[:, 0] = 1
    activation, shares = joint / joint.sum(1, keepdim=True), true / true.sum(1, keepdim=True)
    overlap = torch.minimum(activation[:, None], shares[..., None]).mean(0)  # (skills, modules)
    most = max(
        sum(float(overlap[s, m]) for s, m in zip(*pair, strict=True))
        for size in (min(skills, modules),)
        for pair in itertools.product(
            itertools.combinations(range(skills), size),
            itertools.permutations(range(modules), size),
        )
    )
    assert float(skill_match(joint, true)) == pytest.approx(most, abs=1e-8)
    order = torch.randperm(modules, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(skill_match(joint[:, order], true), skill_match(joint, true))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_rules_that_are_skills_of_their_own_are_matched_as_far_as_they_are_aligned(
    rules: int, seed: int
) -> None:
    joint = table(rules, rules, seed)
    joint = joint / joint.sum(1, keepdim=True) / rules
    matched = skill_match(joint, torch.eye(rules).double())
    torch.testing.assert_close(matched, 1 - alignment_distance(joint))


def test_levels_of_skill_match_are_those_that_its_text_says() -> None:
    true = true_skills(DataSpec(skills=4, rules=6), ModelSpec(), 1)[0]
    assert float(skill_match(true / 12, true)) == pytest.approx(1)
    assert float(skill_match(torch.ones(6, 5).double(), true)) == pytest.approx(4 / 5 * 2 / 4)
    collapsed = torch.zeros(6, 4).double()
    collapsed[:, 2] = 1
    assert float(skill_match(collapsed, true)) == pytest.approx(float((true / 2).mean(0).max()))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(2, 5), st.integers(0, 10**6))
def test_discreteness_is_one_for_all_or_nothing_and_never_below_its_least(
    rules: int, modules: int, seed: int
) -> None:
    joint = table(rules, modules, seed)
    on = (joint > 0.5).double()
    on[:, 0] = 1
    assert float(discreteness(on)) == pytest.approx(1)
    assert 1 / modules - 1e-9 <= float(discreteness(joint)) <= 1
    half = torch.full((rules, modules), 0.5).double()
    half[:, 0] = 1
    assert float(discreteness(half)) == pytest.approx(1 / modules)


# --- the scorecard -------------------------------------------------------------------------------


def card_of(data: DataSpec, **choices: Any) -> Scorecard:
    model = ModelSpec(encoder=8, width=16, **choices)
    subject = Subject(
        title="a model", origin="run", data=data, model=model, objective_known=True, seeds=SEEDS,
        sources=("", ""), faults=("", ""), selection="last",
        network=create(data, model, [seed for _, seed in SEEDS]),
    )  # fmt: skip
    return score(subject, evaluate(subject, precision=0.1))


def value_of(card: Scorecard, metric: str) -> Any:
    [found] = [
        each for each in card.scores
        if each.metric == metric and each.seed is None and each.over in (None, "mean")
        and (each.layer is None)
    ]  # fmt: skip
    return found


def true_map(data: DataSpec) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted(used)) for used in skills_of_rules(data))


def test_true_routing_matches_all_skills_and_stands_out_from_permuted_rules() -> None:
    data = DataSpec(skills=4, rules=6)
    card = card_of(data, scorer="map", map=true_map(data), modules=4)
    matched = value_of(card, "skill_match")
    assert matched.value == pytest.approx(1)
    assert matched.chance == pytest.approx(0.5)
    assert 0.5 < matched.chance_hash < 0.9
    assert matched.p_value < 0.05
    assert value_of(card, "discreteness").value == pytest.approx(1)
    plain = card_of(data, scorer="global", modules=4)
    assert value_of(plain, "skill_match").p_value > 0.5
    known = {each.metric for each in card_of(DataSpec(rules=3), scorer="rule").scores}
    assert not known & {"skill_match", "discreteness", "held_out_loss", "systematic_gap"}


def test_places_of_functions_are_matched_each_with_its_own_skill() -> None:
    data = DataSpec(skills=3, rules=6, composition="sequential", told="skills")
    card = card_of(data, scorer="oracle", aggregation="functions")
    assert value_of(card, "skill_match").value == pytest.approx(1)
    assert len(
        [each for each in card.scores if each.metric == "skill_match" and each.seed]
    ) == 2 * (2 + 2)


@pytest.mark.parametrize("objective", ["regression", "classification"])
@pytest.mark.parametrize("scorer", ["none", "rule"])
def test_the_systematic_gap_is_the_loss_on_held_out_rules_over_that_on_the_others(
    objective: str, scorer: str
) -> None:
    data = DataSpec(
        skills=4, rules=6, held_out=2, told="skills", operation="named",
        objective=objective,  # type: ignore[arg-type]
    )  # fmt: skip
    card = card_of(data, scorer=scorer, modules=1 if scorer == "none" else 4)
    held, trained, gap = (
        [each.value or 0 for each in card.scores if each.metric == name and each.seed is not None]
        for name in ("held_out_loss", "in_distribution_loss", "systematic_gap")
    )
    assert gap == pytest.approx([one / two for one, two in zip(held, trained, strict=True)])
    rates = {each.metric for each in card.scores} & {"held_out_error_rate"}
    assert bool(rates) == (objective == "classification")
    if scorer == "rule":  # routing is scored on all rules
        assert len(card.activations[0].matrix) == 6


def test_polytropon_finds_the_skills_of_additive_rules_better_than_chance() -> None:
    """Chance: the same allocations, had the rules been numbered otherwise."""
    seeds, rules = range(8), 10
    model, train = named(
        "polytropon", {"encoder": 12, "width": 24, "modules": 5}, {"steps": 400, "batch": 48}
    )
    data = {"rules": rules, "skills": 5, "operation": "named"}
    run = from_dict(RunSpec, {"data": data, "model": model, "train": train})
    network = create(run.data, run.model, seeds)
    stepper = Stepper(network, "regression", phase=run.train.stretches[0][2])
    stream = Stream(run.data, tuple((seed, seed) for seed in seeds), 48, torch.device("cpu"))
    chance = uniform_numbers(stream, network.chance)
    for batch, uniform, _ in zip(batches(stream), chance, range(400), strict=False):
        stepper.step(batch, torch.tensor(6e-3), Noise(uniform, torch.tensor(0.0)))
    every = torch.arange(rules).expand(len(seeds), rules)
    with torch.no_grad():
        routed = network(torch.zeros(len(seeds), rules, 2), every).routed[0]
    joint, [true] = routed.weight.double(), true_skills(run.data, run.model, 1)
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(99, len(seeds), rules, generator=generator).argsort(-1)  # each seed its own
    permuted = skill_match(joint.expand(99, -1, -1, -1), true[orders]).mean(1)
    assert float(skill_match(joint, true).mean()) > float(permuted.max())
