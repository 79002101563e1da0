"""Switching modules off: it does what it says, names known structure, p values keep their size."""

import pytest
import torch
from constructed import (
    Constructed,
    World,
    absolute,
    batch_of,
    by_rule,
    intervened,
    rare_and_vital,
    redundant_twins,
    scaled,
    specialists,
    table,
    used_and_useless,
)
from torch import Tensor

from modeval.evaluate import cohort as cohorts
from modeval.evaluate import interventions
from modeval.evaluate.cohort import evaluate, sample_losses
from modeval.evaluate.interventions import Asked, intervene, plan
from modeval.evaluate.subject import Subject
from modeval.metrics import alignment_score, dead_fraction
from modeval.metrics.causal import (
    causal_alignment_score,
    causal_information,
    keep_k,
    needed,
    resilience,
    routing_faithfulness,
)
from modeval.nn import create
from modeval.nn.routes import knock_out, on_largest
from modeval.spec import DataSpec, ModelSpec, from_dict, without_unread
from modeval.types import Batch


def need_of(found: interventions.Interventions) -> Tensor:
    return needed(found.necessity, found.floor)[0][0, 0]


def scores_of(found: interventions.Interventions) -> dict[str, float]:
    need, floor, share = found.necessity, found.floor, found.curves.share
    values = {
        "static": alignment_score(found.activation / found.activation.shape[2]),
        "causal": causal_alignment_score(need, floor),
        "faithful": routing_faithfulness(found.activation, need, floor),
        "random": resilience(found.curves.random.mean(0), share),
        "by_use": keep_k(found.curves.by_use, share),
    }
    return {name: float(value[0, 0]) for name, value in values.items()}


# --- known structure -----------------------------------------------------------------------------


def test_specialists_are_needed_as_they_are_used() -> None:
    found = intervened(specialists())
    torch.testing.assert_close(need_of(found), torch.eye(3, dtype=torch.float64))
    scores = scores_of(found)
    assert scores["static"] == scores["causal"] == scores["faithful"] == 1
    # each takes its own part of the loss with it: the straight line that resilience is held against
    curve = found.curves.random.mean(0)[0, 0]
    assert scores["random"] == pytest.approx(float(curve[0] + curve[-1]) / 2, rel=1e-6)


def test_a_module_that_is_used_and_useless_is_named_and_routing_is_misled_by_it() -> None:
    found = intervened(used_and_useless())
    assert found.activation[0, 0, :, 2].tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert not (found.necessity[0, 0, :, 2] > found.floor[0, 0, :, 2]).any()
    scores = scores_of(found)
    assert scores["static"] < 0.35  # by use, half of the work is nobody's own
    assert scores["causal"] == pytest.approx(1)
    assert scores["faithful"] == pytest.approx(0.5, abs=0.05)
    # it is the most used module of all, so use keeps it longest, and for nothing
    assert found.curves.by_use[0, 0, 2] == pytest.approx(float(found.curves.by_use[0, 0, 3]))
    assert scores["by_use"] > scores["random"]


def test_a_module_that_is_rare_and_vital_is_named_and_use_would_remove_it_first() -> None:
    found = intervened(rare_and_vital())
    usage = found.activation[:, :, :, :].mean(2, keepdim=True)
    assert float(usage[0, 0, 0, 1]) < 0.02
    assert float(dead_fraction(usage)[0, 0]) == pytest.approx(1 / 3)  # static scores call it dead
    assert need_of(found)[1].argmax() == 1
    assert float(need_of(found)[1, 1]) > 0.95
    scores = scores_of(found)
    assert scores["faithful"] < 0.55
    assert scores["by_use"] > 1.3 * scores["random"]
    lost = found.curves.by_use[0, 0, 1] - found.curves.by_use[0, 0, 0]
    assert lost > 0.9 * (found.curves.by_use[0, 0, 3] - found.curves.by_use[0, 0, 0])


def test_redundant_twins_are_needed_by_nobody_alone_and_shapley_values_see_them() -> None:
    found = intervened(redundant_twins(), shapley=40)
    scores = scores_of(found)
    assert scores["static"] > 0.85  # specialists, to all appearance
    _, there = needed(found.necessity, found.floor)
    assert there[0, 0].tolist() == [False, False, True]
    assert scores["causal"] < 0.55
    assert scores["faithful"] == pytest.approx(1 / 3, abs=0.01)
    assert found.shapley is not None
    shapley = found.shapley[0, 0]
    lost = found.curves.by_use[0, 0, -1]
    assert float(lost) > 0
    assert (shapley[:2, :2] > 0.3 * shapley[:2].sum(1, keepdim=True)).all()
    assert not (shapley[:2, 2] > 1e-6).any()


def test_shapley_values_share_out_all_that_is_lost_without_modules() -> None:
    for world in (redundant_twins(), rare_and_vital(), specialists(4)):
        found = intervened(world, shapley=30)
        assert found.shapley is not None
        total = found.shapley.sum(-1).mean(-1)
        curve = found.curves.by_use
        torch.testing.assert_close(total, curve[..., -1] - curve[..., 0])


def test_sufficiency_is_the_loss_of_a_module_that_does_all() -> None:
    world = specialists()
    found, batch = intervened(world), batch_of(world)
    x, rule = batch.inputs[..., 0].double(), batch.rule
    for module in range(3):
        wrong = ((1.0 + module - (1.0 + rule)) * x).abs()
        for each in range(3):
            expected = float(wrong[rule == each].mean())
            got = float(found.sufficiency[0, 0, each, module])
            assert got == pytest.approx(expected, abs=1e-6)


# --- it does what it says ------------------------------------------------------------------------

SMALL = {"encoder": 8, "width": 16}
MODELS = [
    {"scorer": "oracle"},
    {"scorer": "module"},
    {"scorer": "rule", "gating": {"kind": "topk", "count": 2}},
    {"scorer": "input", "layers": 2},
]


def cohort(task: str, choices: dict[str, object], seeds: int = 2) -> tuple[Subject, DataSpec]:
    small = {"task": task, "rules": 3, "dimension": 4, "length": 4}
    data = from_dict(DataSpec, without_unread(DataSpec, small))
    model = from_dict(ModelSpec, {**SMALL, **choices})
    subject = Subject(
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
    return subject, data


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
@pytest.mark.parametrize("choices", MODELS[:2], ids=str)
def test_every_family_is_intervened_upon_and_the_rest_of_the_evaluation_stays(
    task: str, choices: dict[str, object]
) -> None:
    subject, _ = cohort(task, choices)
    plain = evaluate(subject, precision=0.1)
    found = evaluate(subject, precision=0.1, interventions=Asked(wanted=True))
    assert plain.interventions is None
    assert found.interventions is not None
    assert found.counts is not None
    assert plain.counts is not None
    assert torch.equal(plain.counts.mass, found.counts.mass)
    for one, two in zip(plain.losses, found.losses, strict=True):
        assert torch.equal(one.total, two.total)
    assert torch.equal(plain.hardened["hard_gap"].total, found.hardened["hard_gap"].total)
    assert {*found.hardened} == {
        "hard_gap",
        "hard_gap_top_2",
        "hard_gap_sampled",
        "hard_gap_rounded",
    }
    assert found.interventions.necessity.shape == (2, 1, 3, 3)
    assert found.interventions.intact.isfinite().all()


def test_a_seed_of_a_cohort_is_intervened_upon_as_it_would_be_alone() -> None:
    subject, _ = cohort("binary", {"scorer": "module"})
    alone, _ = cohort("binary", {"scorer": "module"}, seeds=1)
    both, one = (
        evaluate(each, precision=0.1, interventions=Asked(wanted=True)).interventions
        for each in (subject, alone)
    )
    assert both is not None
    assert one is not None
    torch.testing.assert_close(both.necessity[:1], one.necessity)
    torch.testing.assert_close(both.curves.random[:, :1], one.curves.random)
    for name, null in one.nulls.items():
        torch.testing.assert_close(both.nulls[name][:, :1], null)


def test_switching_off_equals_removing_the_parameters_of_the_module() -> None:
    subject, _ = cohort("binary", {"scorer": "module"}, seeds=1)
    network = subject.network
    assert network is not None
    found = evaluate(subject, precision=0.1, interventions=Asked(wanted=True)).interventions
    assert found is not None
    draws = torch.Generator().manual_seed(1)
    x, rule = torch.randn(1, 50, 2, generator=draws), torch.randint(3, (1, 50), generator=draws)
    for module in range(3):
        with torch.no_grad():
            switched = network(x, rule, route=knock_out([module], renormalise=False)).prediction
            kept = {name: value.clone() for name, value in network.state_dict().items()}
            network.experts.readout.weight[:, module] = 0  # type: ignore[union-attr,operator]
            network.experts.readout.bias[:, module] = 0  # type: ignore[union-attr,operator]
            removed = network(x, rule).prediction
            network.load_state_dict(kept)
        torch.testing.assert_close(switched, removed)


def test_the_network_stays_as_it_was_and_two_runs_give_the_same() -> None:
    subject, _ = cohort("binary", {"scorer": "input", "layers": 2})
    assert subject.network is not None
    before = {name: value.clone() for name, value in subject.network.state_dict().items()}
    first, second = (
        evaluate(subject, precision=0.1, interventions=Asked(wanted=True)).interventions
        for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert first.necessity.shape == (2, 2, 3, 3)
    assert torch.equal(first.necessity, second.necessity)
    assert torch.equal(first.curves.random, second.curves.random)
    for name, value in subject.network.state_dict().items():
        assert torch.equal(before[name], value)


def test_what_is_dear_is_left_out_unasked_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "CHEAP", 10.0)
    subject, _ = cohort("binary", {"scorer": "module"})
    found = evaluate(subject, precision=0.1, interventions=Asked())
    assert found.interventions is None
    assert "Ask for it with --interventions" in found.untouched
    assert evaluate(subject, precision=0.1, interventions=Asked(wanted=True)).interventions


@pytest.mark.parametrize("modules", [2, 3, 8, 9, 40])
def test_passes_are_at_most_as_planned_and_levels_run_from_all_modules_to_none(
    modules: int,
) -> None:
    rows = torch.rand(2, modules, generator=torch.Generator().manual_seed(0)).softmax(-1)
    world = World(2, by_rule(1.0, 2.0), table(rows.tolist()), (scaled(1.0),) * modules)
    found = intervened(world)
    assert found.passes <= plan(Constructed(world), 2).passes
    removed = found.curves.removed
    assert removed[0] == 0
    assert removed[-1] == modules
    assert [*removed] == sorted({*removed})


def test_progress_is_told_and_ends_at_what_was_planned() -> None:
    seen: list[tuple[int, int]] = []
    world = specialists()
    planned = plan(Constructed(world), 3)
    intervene(
        Constructed(world),
        batch_of(world),
        absolute,
        planned=planned,
        watch=lambda done, every: seen.append((done, every)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {every for _, every in seen} == {planned.passes}
    assert seen[-1][0] == planned.passes


def test_a_rule_without_samples_is_said_and_not_guessed() -> None:
    world = specialists()
    batch = batch_of(world)
    one = Batch(batch.inputs, torch.zeros_like(batch.rule), batch.target)
    planned = plan(Constructed(world), 3)
    assert intervene(Constructed(world), one, absolute, planned=planned) is None


# --- chance --------------------------------------------------------------------------------------


def replicates(need: Tensor, noise: float, seeds: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return growth of the loss ``(S, M, N, 1)`` for modules that rules need alike, and rules."""
    draws = torch.Generator().manual_seed(2)
    growth = noise * torch.randn(seeds, len(need), samples, 1, generator=draws).double()
    rule = torch.randint(3, (seeds, samples), generator=draws)
    return growth + need[:, None, None], torch.nn.functional.one_hot(rule, 3)[:, :, None].double()


@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_p_values_of_need_keep_their_size_when_rules_need_the_same(noise: float) -> None:
    growth, member = replicates(torch.tensor([0.5, 0.2, 0.0]), noise, seeds=300, samples=120)
    intact = torch.ones(300, 3, dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(120, generator=draws) for _ in range(39)])
    null = interventions._nulls([growth], member, intact, order)
    need, floor = (part[:, None] for part in interventions._need(growth, member, intact))
    for name, function in (
        ("causal_alignment_score", causal_alignment_score),
        ("causal_information", causal_information),
    ):
        value = function(need, floor)
        p = ((null[name] >= value).sum(0) + 1) / 40
        # where noise hides all need, ties make it cautious
        least = 0.02 if noise < 1 else 0.0
        assert least <= float((p <= 0.05).double().mean()) <= 0.085, name


def test_p_values_of_faithfulness_keep_their_size_when_need_has_nothing_to_do_with_use() -> None:
    draws = torch.Generator().manual_seed(4)
    used = torch.rand(300, 1, 4, 6, generator=draws).double().softmax(-1) ** 6
    used = used / used.sum(-1, keepdim=True)
    need = torch.rand(300, 1, 4, 6, generator=draws).double() ** 3
    null = interventions._exchanged(used, need, torch.zeros_like(need), draws)
    value = routing_faithfulness(used, need)
    p = ((null["routing_faithfulness"] >= value).sum(0) + 1) / (interventions.PERMUTED + 1)
    assert 0.02 <= float((p <= 0.05).double().mean()) <= 0.085


def test_labels_of_whole_sequences_are_exchanged() -> None:
    draws = torch.Generator().manual_seed(5)
    growth = torch.randn(2, 3, 40, 5, generator=draws).double()
    member = torch.nn.functional.one_hot(torch.randint(2, (2, 40, 5), generator=draws), 2).double()
    intact = torch.ones(2, 2, dtype=torch.float64)
    need, _ = interventions._need(growth, member, intact)
    for seed in range(2):
        for rule in range(2):
            there = member[seed, :, :, rule] > 0
            expected = growth[seed][:, there].mean(-1)
            torch.testing.assert_close(need[seed, rule], expected)


def test_hardening_in_any_way_costs_nothing_where_routing_is_hard() -> None:
    subject, _ = cohort("binary", {"scorer": "oracle"})
    found = evaluate(subject, precision=0.1, interventions=Asked(wanted=True))
    for loss in found.hardened.values():
        assert float(loss.mean().abs().max()) == 0
    assert sample_losses(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), "regression")[0].item() == 1
    assert on_largest(torch.tensor([[[0.2, 0.8]]]), 0).tolist() == [[[0.0, 1.0]]]
