"""Laws that hold for every metric; a metric that is in none of the tables fails here."""

import math
import re

import pytest
import torch

from modeval.counting.count import count
from modeval.metrics import METRICS, STATIC_METRICS, measure, rule_probes
from modeval.metrics.information import adjusted_mutual_information
from modeval.types import RoutingCounts

R = 4
LOG = math.log(R)
PROBES = rule_probes(R)
PROBE_UNIFORM = ((PROBES - 1 / R).abs().sum(-1) / 2).mean().item()
PROBE_COLLAPSED = (1 - PROBES.amax(-1)).mean().item()

# name: values of one module a rule, uniform weights, one module for all (four rules and modules).
# Matched adaptation of collapsed routing: module 2 is matched with rule 2, as ties go in order.
JOINT_LAWS = {
    "collapse_avg": (0, 0, 1),
    "collapse_worst": (0, 0, 1),
    "alignment_distance": (0, 0.75, 0.75),
    "inverse_mutual_information": (0, 1, 1),
    "adaptation_distance": (0, PROBE_UNIFORM, PROBE_COLLAPSED),
    "alignment_score": (1, 0, 0),
    "matched_adaptation_distance": (0, PROBE_UNIFORM, (1 - PROBES[:, 0]).mean().item()),
    "mutual_information": (LOG, 0, 0),
    "homogeneity": (1, 0, 0),
    "completeness": (1, 0, 1),
    "v_measure": (1, 0, 0),
    "imbalance": (0, 0, LOG),
    "rule_specialization": (LOG, 0, 0),
    "input_distraction": (0, 0, 0),
    "softness": (0, LOG, 0),
    "dead_fraction": (0, 0, 0.75),
    "effective_modules": (4, 4, 1),
    "effective_share": (1, 1, 0.25),
    "load_cv": (0, 0, math.sqrt(3)),
    "load_gini": (0, 0, 0.75),
    "max_violation": (0, 0, 3),
    "imbalance_ratio": (1, 1, 4),
    "modules_for_50": (2, 2, 0.5),
    "modules_for_80": (3.2, 3.2, 0.8),
    "modules_for_95": (3.8, 3.8, 0.95),
}
# name: the same, on a table of 100 samples of each rule (25 of each cell for uniform).
TABLE_LAWS = {
    "corrected_mutual_information": (LOG + 3 / 800, -9 / 800, 0),
    "adjusted_mutual_information": (1, None, 0),
}
# Their laws are in the test file named.
OTHER_LAWS = {
    "unrouted_share": "test_selections.py",
    "domain_specialization": "test_selections.py",
    "coactivation": "test_selections.py",
    "saturation": "test_tokens.py",
    "temporal_persistence": "test_tokens.py",
    "vocabulary_specialization": "test_tokens.py",
    "lexical_information": "test_tokens.py",
    "semantic_information": "test_tokens.py",
    "cross_layer_nmi": "test_tokens.py",
    "router_margin": "test_tokens.py",
    "weight_entropy": "test_tokens.py",
    "agreement_shared": "test_metrics_agreement.py",
    "agreement_exact": "test_metrics_agreement.py",
    "agreement_matched": "test_metrics_agreement.py",
    "agreement_first": "test_metrics_agreement.py",
    "agreement_different": "test_metrics_agreement.py",
    "agreement_weights": "test_metrics_agreement.py",
    "causal_alignment_score": "../evaluate/test_interventions.py",
    "causal_information": "../evaluate/test_interventions.py",
    "routing_faithfulness": "../evaluate/test_interventions.py",
    "resilience": "../evaluate/test_interventions.py",
    "keep_k": "../evaluate/test_interventions.py",
    "skill_match": "../score/test_skills.py",
    "discreteness": "../score/test_skills.py",
    "position_information": "../score/test_positions.py",
}
# Smallest and largest value for R rules and M modules, where they are not 0 and 1.
RANGES = {
    "modules_for_50": lambda _rules, modules: (0, 0.5 * modules),
    "modules_for_80": lambda _rules, modules: (0, 0.8 * modules),
    "modules_for_95": lambda _rules, modules: (0, 0.95 * modules),
    "alignment_distance": lambda r, m: (1 - min(r, m) / r, 1 - min(r, m) / (r * m)),
    "mutual_information": lambda r, m: (0, math.log(min(r, m))),
    "imbalance": lambda _, m: (0, math.log(m)),
    "rule_specialization": lambda r, m: (0, math.log(min(r, m))),
    "input_distraction": lambda _, m: (0, math.log(m)),
    "softness": lambda _, m: (0, math.log(m)),
    "dead_fraction": lambda _, m: (0, 1 - 1 / m),
    "effective_modules": lambda _, m: (1, m),
    "effective_share": lambda _, m: (1 / m, 1),
    "load_cv": lambda _, m: (0, math.sqrt(m - 1)),
    "load_gini": lambda _, m: (0, 1 - 1 / m),
    "max_violation": lambda _, m: (0, m - 1),
    "imbalance_ratio": lambda _, m: (1, m),
}

eye = torch.eye(R, dtype=torch.float64)
uniform = torch.full((R, R), 1 / R, dtype=torch.float64)
collapsed = torch.zeros(R, R, dtype=torch.float64)
collapsed[:, 2] = 1
joint_names = pytest.mark.parametrize("name", JOINT_LAWS)


def counts_of(activation):
    rules = activation.shape[-2]
    rule = torch.arange(rules).expand(activation.shape[:-1])
    return count(rule, activation, rules=rules)


def value(name, activation):
    return measure(counts_of(activation), [name])[name]


def random_activation(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)


def test_every_metric_is_in_exactly_one_table_of_laws():
    tables = [*JOINT_LAWS, *TABLE_LAWS, *OTHER_LAWS]
    assert sorted(tables) == sorted(METRICS)
    assert sorted(JOINT_LAWS) == sorted(STATIC_METRICS)


def test_metrics_with_a_file_of_their_own_are_tested_there(request):
    for name, file in OTHER_LAWS.items():
        text = (request.path.parent / file).read_text(encoding="utf-8")
        assert re.search(rf"\b{name}\b[(,\]]", text), name


@joint_names
def test_perfect_uniform_and_collapsed_routing_score_as_documented(name):
    for routing, expected in zip((eye, uniform, collapsed), JOINT_LAWS[name], strict=True):
        if expected is not None:
            assert value(name, routing).item() == pytest.approx(expected, abs=1e-8)


@joint_names
def test_perfect_routing_is_exact(name):
    expected = JOINT_LAWS[name][0]
    if expected == 0:
        for size in (3, 5, 7, 32):
            swapped = torch.eye(size, dtype=torch.float64).roll(1, 0)
            assert value(name, swapped).item() == 0


@pytest.mark.parametrize("name", TABLE_LAWS)
def test_tables_of_counts_score_as_documented(name):
    for routing, expected in zip((eye, uniform, collapsed), TABLE_LAWS[name], strict=True):
        if expected is not None:
            found = METRICS[name].function(100 * routing).item()
            assert found == pytest.approx(expected, abs=1e-9)


def test_adjusted_information_of_blind_routing_is_about_zero():
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(50, 4, 4, dtype=torch.float64)
    for draw in table:
        rule, module = torch.randint(4, (2, 400), generator=generator)
        draw.index_put_((rule, module), torch.ones(400, dtype=torch.float64), accumulate=True)
    assert adjusted_mutual_information(table).mean().item() == pytest.approx(0, abs=0.003)


@joint_names
@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3)])
def test_names_of_rules_and_modules_do_not_matter(name, shape):
    routing = random_activation(*shape)
    order = [torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in shape]
    mixed = routing[order[0]][:, order[1]]
    if "adaptation" in name:
        # The probes are a fixed finite sample, so rules do not swap exactly; modules do.
        mixed = routing[:, order[1]]
    torch.testing.assert_close(value(name, routing), value(name, mixed))


@joint_names
def test_a_batch_is_scored_member_by_member(name):
    routing = random_activation(2, 3, 5, 4)
    found = value(name, routing)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(found[i, j], value(name, routing[i, j]))


@joint_names
def test_the_function_gives_what_measuring_gives(name):
    counts = counts_of(random_activation(7, 3, 5))
    given = counts if METRICS[name].needs == "counts" else counts.joint()
    torch.testing.assert_close(METRICS[name].function(given), measure(counts)[name])


@joint_names
def test_the_input_is_left_alone(name):
    counts = counts_of(random_activation(4, 4))
    before = {key: tensor.clone() for key, tensor in counts.tensors().items()}
    measure(counts, [name])
    assert all(torch.equal(before[key], tensor) for key, tensor in counts.tensors().items())


@joint_names
@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (9, 2), (8, 8)])
def test_values_stay_in_the_documented_range(name, shape):
    low, high = RANGES.get(name, lambda _rules, _modules: (0, 1))(*shape)
    for seed in range(5):
        assert low - 1e-9 <= value(name, random_activation(*shape, seed=seed)).item() <= high + 1e-9


@joint_names
def test_ten_thousand_times_the_samples_of_the_same_routing_score_the_same(name):
    few = counts_of(random_activation(3, 4))
    many = RoutingCounts(**{key: 10_000 * part for key, part in few.tensors().items()})
    torch.testing.assert_close(measure(few)[name], measure(many)[name])


@joint_names
def test_blocks_do_not_change_a_score(name):
    generator = torch.Generator().manual_seed(3)
    rule = torch.randint(3, (300,), generator=generator)
    weight = random_activation(300, 4)
    block = torch.randint(8, (300,), generator=generator)
    blocked = count(rule, weight, rules=3, block=block, blocks=8)
    whole = count(rule, weight, rules=3)
    torch.testing.assert_close(measure(blocked)[name], measure(whole)[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no second device")
@joint_names
def test_a_second_device_scores_the_same(name):
    counts = counts_of(random_activation(50, 5, 7))
    there = measure(counts.to("cuda"), [name])[name]
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), measure(counts, [name])[name])
