"""The entropy budget adds up, and tells apart routers that the paper's metrics confuse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.counting.count import count, count_choices
from modeval.errors import TraceError
from modeval.metrics import entropy_budget

LOG = math.log(4)
rule = torch.arange(400) % 4
sample = torch.arange(400) // 4 % 4
ROUTERS = {
    "by rule": (torch.eye(4)[rule], (0, LOG, 0, 0)),
    "by input": (torch.eye(4)[sample], (0, 0, LOG, 0)),
    "undecided": (torch.full((400, 4), 0.25), (0, 0, 0, LOG)),
    "collapsed": (torch.eye(4)[torch.zeros_like(rule)], (LOG, 0, 0, 0)),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_four_routers_spend_their_entropy_in_four_places(name):
    weight, expected = ROUTERS[name]
    budget = entropy_budget(count(rule, weight, rules=4))
    assert [term.item() for term in budget] == pytest.approx(expected, abs=1e-9)
    assert [share.item() for share in budget.shares()] == pytest.approx(
        [term / LOG for term in expected], abs=1e-9
    )


@given(st.integers(1, 6), st.integers(2, 9), st.floats(0.1, 20), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_the_terms_are_not_negative_and_add_up_to_log_m(rules, modules, sharpness, seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(60) % rules
    weight = (sharpness * torch.randn(60, modules, generator=generator)).softmax(-1)
    counts = count(label, weight, rules=rules)
    for view in ("weight", "assignment"):
        for prior in ("uniform", "empirical"):
            budget = entropy_budget(counts, prior=prior, view=view)
            assert torch.stack(budget).sum().item() == pytest.approx(math.log(modules), abs=1e-9)
            assert min(term.item() for term in budget) >= 0


def test_assignments_of_k_modules_have_a_softness_of_log_k():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(400, 8, generator=generator).topk(3).indices
    counts = count_choices(rule, chosen, rules=4, modules=8)
    assert entropy_budget(counts, view="assignment").softness.item() == pytest.approx(math.log(3))


def test_one_module_has_no_entropy_to_share_out():
    counts = count(rule, torch.ones(400, 1), rules=4)
    assert torch.stack(entropy_budget(counts)).tolist() == [0, 0, 0, 0]
    with pytest.raises(TraceError, match="modules = 1"):
        entropy_budget(counts).shares()
