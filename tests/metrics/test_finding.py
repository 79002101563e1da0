"""Verdicts tell specialists, collapse and blind balance apart, whatever the size."""

import pytest
import torch

from modeval.counting.count import count_choices
from modeval.metrics import Thresholds, verdicts


@pytest.mark.parametrize(("rules", "modules"), [(2, 2), (4, 4), (5, 64), (32, 32), (8, 4)])
def test_verdicts_tell_the_three_apart(rules, modules):
    rule = torch.arange(rules)
    specialist = torch.nn.functional.one_hot(rule % modules, modules).double() / rules
    collapsed = torch.zeros_like(specialist)
    collapsed[:, 0] = 1 / rules
    blind = torch.full_like(specialist, 1 / (rules * modules))
    found = verdicts(torch.stack([specialist, collapsed, blind])).tolist()
    assert found == ["specialist", "collapsed", "blind"]


def test_a_router_by_input_is_blind_though_each_choice_is_hard():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(8, (4000, 1), generator=generator)
    rule = torch.randint(4, (4000,), generator=generator)
    counts = count_choices(rule, chosen, rules=4, modules=8)
    assert verdicts(counts.joint()).item() == "blind"


def test_half_the_information_is_partial_and_thresholds_move_it():
    half = torch.zeros(4, 4, dtype=torch.float64)
    half[:2, 0] = half[2:, 1] = 0.25
    assert verdicts(half).item() == "partial"
    assert verdicts(half, thresholds=Thresholds(specialist=0.49)).item() == "specialist"
