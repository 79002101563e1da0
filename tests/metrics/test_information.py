"""Information agrees with scikit-learn on tables of whole counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    adjusted_mutual_info_score,
    completeness_score,
    homogeneity_score,
    mutual_info_score,
    v_measure_score,
)
from sklearn.metrics.cluster import expected_mutual_information

from modeval.errors import TraceError
from modeval.metrics import (
    adjusted_mutual_information,
    completeness,
    corrected_mutual_information,
    expected_information,
    homogeneity,
    information_bias,
    inverse_mutual_information,
    mutual_information,
    v_measure,
)


@st.composite
def tables(draw):
    rules, modules = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cells = draw(st.lists(st.integers(0, 30), min_size=rules * modules, max_size=rules * modules))
    table = torch.tensor(cells, dtype=torch.float64).view(rules, modules)
    table[0, 0] += 2
    return table


def labels(table):
    rows, columns = table.shape
    cells = [(r, m) for r in range(rows) for m in range(columns) for _ in range(int(table[r, m]))]
    return [cell[0] for cell in cells], [cell[1] for cell in cells]


@given(tables())
@settings(max_examples=40, deadline=None)
def test_information_agrees_with_scikit_learn(table):
    rule, module = labels(table)
    joint = table / table.sum()
    pairs = [
        (mutual_information(joint), mutual_info_score(rule, module)),
        (homogeneity(joint), homogeneity_score(rule, module)),
        (completeness(joint), completeness_score(rule, module)),
        (v_measure(joint), v_measure_score(rule, module)),
    ]
    for found, expected in pairs:
        assert found.item() == pytest.approx(expected, abs=1e-9)


@given(tables())
@settings(max_examples=40, deadline=None)
def test_adjusted_information_agrees_with_scikit_learn(table):
    expected = adjusted_mutual_info_score(*labels(table))
    assert adjusted_mutual_information(table).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [1, 30, 400])
def test_chance_information_agrees_with_scikit_learn_at_any_size(scale):
    generator = torch.Generator().manual_seed(scale)
    table = torch.randint(0, 5 * scale, (3, 4, 6), generator=generator).double()
    for layer, found in zip(table, expected_information(table), strict=True):
        expected = expected_mutual_information(layer.long().numpy(), int(layer.sum()))
        assert found.item() == pytest.approx(expected, rel=1e-8)


def test_chance_information_of_long_traces_is_the_first_order_bias():
    table = torch.full((4, 8), 50_000, dtype=torch.float64)
    expected = information_bias(table).item()
    assert expected_information(table).item() == pytest.approx(expected, rel=1e-3)


def test_miller_madow_removes_the_bias_of_a_small_sample():
    generator = torch.Generator().manual_seed(0)
    tables = torch.stack(
        [
            torch.bincount(torch.randint(320, (1000,), generator=generator), minlength=320).double()
            for _ in range(50)
        ]
    ).view(50, 5, 64)
    plain = mutual_information(tables / 1000.0).mean().item()
    corrected = corrected_mutual_information(tables).mean().item()
    assert plain / math.log(2) == pytest.approx(0.19, abs=0.02)
    assert abs(corrected) < 0.25 * plain


def test_information_uses_the_prior_of_the_joint():
    unequal = torch.diag(torch.tensor([0.9, 0.1], dtype=torch.float64))
    assert inverse_mutual_information(unequal).item() == 0


def test_one_rule_has_no_inverse_information():
    with pytest.raises(TraceError, match="at least 2 rules"):
        inverse_mutual_information(torch.full((1, 4), 0.25, dtype=torch.float64))


def test_adjusted_information_refuses_fractions():
    with pytest.raises(TraceError, match="whole counts"):
        adjusted_mutual_information(torch.full((2, 2), 0.5, dtype=torch.float64))


def test_an_empty_table_is_refused():
    with pytest.raises(TraceError, match="no counts"):
        adjusted_mutual_information(torch.zeros(2, 2, dtype=torch.float64))
