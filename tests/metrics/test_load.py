"""Load over modules and layers."""

import pytest
import torch

from modeval.counting.count import count, count_choices
from modeval.metrics import dead_fraction, imbalance_ratio, load_gini, measure, over_layers


def test_a_module_is_dead_below_a_tenth_of_its_fair_share():
    shares = torch.tensor([[0.024, 0.026, 0.45, 0.5]], dtype=torch.float64)
    assert dead_fraction(shares).item() == 0.25


def test_inequality_agrees_with_the_mean_difference():
    shares = torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64)
    difference = (shares[0][:, None] - shares[0]).abs().mean() * 3 / 2
    assert load_gini(shares).item() == pytest.approx(difference.item())


def test_modules_that_were_never_seen_count_because_m_is_given():
    counts = count_choices(
        torch.zeros(4, dtype=torch.int64), torch.tensor([[0], [1], [0], [1]]), rules=1, modules=64
    )
    assert imbalance_ratio(counts.joint()).item() == 32


def test_layers_are_summed_up_after_the_metric():
    generator = torch.Generator().manual_seed(0)
    rule = torch.randint(3, (1, 200), generator=generator)
    weight = torch.rand(5, 200, 4, generator=generator).softmax(-1)
    weight[4] = torch.eye(4)[0]
    values = measure(count(rule, weight, rules=3), ["collapse_avg"])["collapse_avg"]
    summary = over_layers(values, better="lower")
    assert summary["worst"].item() == 1
    assert summary["mean"].item() < 0.5
    assert set(summary) == {"worst", "mean", "p50", "p75", "p90", "p95"}
    assert over_layers(values, better="higher")["worst"] == values.min()
