"""Domain specialization and co-activation."""

import pytest
import torch

from modeval.counting.count import count, count_choices
from modeval.errors import TraceError
from modeval.metrics import coactivation, domain_specialization
from modeval.metrics.selections import unrouted_share


def fold(rule, chosen, modules, rules=2):
    return count_choices(rule, chosen, rules=rules, modules=modules)


def uniform_choices(samples=20_000, modules=8, top=2):
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(samples, modules, generator=generator).topk(top).indices
    return torch.randint(2, (samples,), generator=generator), chosen


def test_domain_specialization_of_perfect_routing_is_one_module_a_rule():
    rule = torch.tensor([0, 1, 1])
    assert domain_specialization(fold(rule, rule[:, None], 2)).tolist() == [[1, 0], [0, 1]]


def test_domain_specialization_of_uniform_choices_is_k_over_m():
    rule, chosen = uniform_choices()
    found = domain_specialization(fold(rule, chosen, 8))
    torch.testing.assert_close(found.sum(-1), torch.full((2,), 2.0, dtype=torch.float64))
    assert found.sub(2 / 8).abs().max() < 0.02


def test_domain_specialization_needs_samples_of_each_rule():
    with pytest.raises(TraceError, match="Rule 1"):
        domain_specialization(fold(torch.tensor([0]), torch.tensor([[0]]), 2))


def test_coactivation_of_uniform_choices_is_k_less_one_over_m_less_one():
    rule, chosen = uniform_choices()
    found = coactivation(fold(rule, chosen, 8))
    others = found[~torch.eye(8, dtype=torch.bool)]
    assert others.sub(1 / 7).abs().max() < 0.02
    assert found.diagonal().tolist() == [1] * 8


def test_coactivation_counts_all_pairs_not_neighbouring_ranks():
    counts = fold(torch.tensor([0]), torch.tensor([[0, 1, 2]]), 4, rules=1)
    assert coactivation(counts)[0].tolist() == [1, 1, 1, 0]
    assert coactivation(counts)[3].tolist() == [0, 0, 0, 0]


def test_what_is_dropped_is_not_routed() -> None:
    chosen = torch.tensor([[0, 1], [0, -1], [-1, -1], [1, 0]])
    counts = count_choices(torch.tensor([0, 0, 1, 1]), chosen, rules=2, modules=2)
    assert unrouted_share(counts, choices=2).item() == pytest.approx(3 / 8)
    soft = count(torch.tensor([0, 0]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]), rules=1)
    assert unrouted_share(soft).item() == 0
