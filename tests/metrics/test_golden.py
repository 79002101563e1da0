"""Values that are known from the paper, its figures and exact sums."""

import numpy as np
import pytest
import torch

from modeval.metrics import (
    METRICS,
    PAPER_METRICS,
    adaptation_distance,
    adaptation_from_marginals,
    chance_levels,
    conditional,
    matched_adaptation_distance,
    rule_probes,
)
from modeval.metrics.chance import (
    hash_alignment_distance,
    hash_collapse_avg,
    hash_inverse_mutual_information,
)

SIZES = (2, 4, 8, 16, 32)
UNIFORM = {
    "collapse_avg": (0, 0, 0, 0, 0),
    "collapse_worst": (0, 0, 0, 0, 0),
    "alignment_distance": (0.5, 0.75, 0.875, 0.9375, 0.96875),
    "inverse_mutual_information": (1, 1, 1, 1, 1),
    "adaptation_distance": (0.256662, 0.300707, 0.335012, 0.354013, 0.364995),
}
COLLAPSED = UNIFORM | {
    "collapse_avg": (1, 1, 1, 1, 1),
    "collapse_worst": (1, 1, 1, 1, 1),
    "adaptation_distance": (0.243338, 0.505183, 0.673650, 0.788735, 0.872655),
}
HASH = {
    "collapse_avg": (0.497, 0.422, 0.391, 0.375, 0.375),
    "collapse_worst": (0.497, 0.908, 0.996, 1, 1),
    "alignment_distance": (0.248, 0.317, 0.342, 0.352, 0.363),
    "inverse_mutual_information": (0.497, 0.339, 0.250, 0.194, 0.162),
}
MIXED = [[0.95, 0, 0, 0.05], [0, 0, 0, 1], [0.35, 0.1, 0, 0.55], [0, 1, 0, 0]]
sizes = pytest.mark.parametrize(("place", "rules"), list(enumerate(SIZES)))
names = pytest.mark.parametrize("name", PAPER_METRICS)


def score(name, activation):
    return METRICS[name].function(activation / len(activation)).item()


@names
@sizes
def test_a_permutation_scores_zero_on_every_metric_of_the_paper(name, place, rules):
    assert score(name, torch.eye(rules, dtype=torch.float64).flip(0)) == 0


@names
@sizes
def test_uniform_routing_has_its_golden_value(name, place, rules):
    activation = torch.full((rules, rules), 1 / rules, dtype=torch.float64)
    assert score(name, activation) == pytest.approx(UNIFORM[name][place], abs=1e-6)
    assert METRICS[name].chance(rules, rules) == pytest.approx(score(name, activation))


@names
@sizes
def test_collapsed_routing_has_its_golden_value(name, place, rules):
    activation = torch.zeros(rules, rules, dtype=torch.float64)
    activation[:, 0] = 1
    assert score(name, activation) == pytest.approx(COLLAPSED[name][place], abs=1e-6)


@pytest.mark.parametrize("name", HASH)
@sizes
def test_random_hash_maps_have_their_golden_mean(name, place, rules):
    generator = torch.Generator().manual_seed(0)
    levels = chance_levels(METRICS[name].function, rules, rules, generator=generator, draws=2000)
    assert levels.hash_mean == pytest.approx(HASH[name][place], abs=0.02)
    assert levels.hash_low <= levels.hash_high


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("alignment_distance", hash_alignment_distance),
        ("collapse_avg", hash_collapse_avg),
        ("inverse_mutual_information", hash_inverse_mutual_information),
    ],
)
@pytest.mark.parametrize(("rules", "modules"), [(4, 4), (3, 7), (6, 4)])
def test_closed_forms_of_hash_maps_agree_with_drawing_them(name, closed, rules, modules):
    generator = torch.Generator().manual_seed(1)
    levels = chance_levels(
        METRICS[name].function, rules, modules, generator=generator, draws=20_000
    )
    assert closed(rules, modules) == pytest.approx(levels.hash_mean, abs=0.01)


def test_the_mixed_example_has_its_golden_values():
    activation = torch.tensor(MIXED, dtype=torch.float64)
    assert score("collapse_avg", activation) == pytest.approx(1 / 3)
    assert score("collapse_worst", activation) == 1
    assert score("alignment_distance", activation) == pytest.approx(0.2625)
    assert score("inverse_mutual_information", activation) == pytest.approx(0.418912, abs=1e-6)


def test_probes_are_those_of_the_reference():
    expected = np.random.RandomState(7).dirichlet(np.ones(5))
    assert rule_probes(5)[7].tolist() == expected.tolist()
    torch.testing.assert_close(rule_probes(5).sum(-1), torch.ones(100, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3)])
def test_adaptation_is_the_padded_sorted_distance(shape):
    generator = torch.Generator().manual_seed(0)
    activation = torch.rand(shape, generator=generator, dtype=torch.float64).softmax(-1)
    probes = rule_probes(shape[0])
    width = max(shape)
    padded = [
        torch.nn.functional.pad(part.sort(-1, descending=True).values, (0, width - part.shape[-1]))
        for part in (probes, probes @ activation)
    ]
    expected = (padded[0] - padded[1]).abs().sum(-1).mean() / 2
    torch.testing.assert_close(adaptation_distance(activation), expected)
    torch.testing.assert_close(
        adaptation_from_marginals(probes, probes @ conditional(activation)), expected
    )


def test_matched_adaptation_sees_which_module_moved():
    blind = torch.tensor([[0.8, 0.2], [0.8, 0.2]], dtype=torch.float64)
    assert matched_adaptation_distance(blind) > adaptation_distance(blind)


def test_large_arrays_sort_on_several_threads_to_the_same_values():
    generator = torch.Generator().manual_seed(0)
    activation = torch.rand(60, 8, 64, generator=generator, dtype=torch.float64).softmax(-1)
    together = adaptation_distance(activation)
    torch.testing.assert_close(together[7], adaptation_distance(activation[7]))
