"""Draws: the middle of them, p values, and p values of several claims."""

import numpy as np
import pytest
import torch

from modeval.errors import TraceError
from modeval.score.estimates import one_layer, permuted, permuted_layers
from modeval.score.inference.draws import middle, p_value
from modeval.score.inference.multiple import holm
from modeval.score.measure import Measured


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_middle_of_draws_is_that_of_numpy(level):
    draws = torch.rand(37, 4, generator=generator(), dtype=torch.float64)
    expected = np.quantile(draws.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0)
    for found, end in zip(middle(draws, level=level), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), end, rtol=1e-12)


def test_a_p_value_is_never_zero_and_counts_ties():
    null = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert p_value(torch.tensor(9.0, dtype=torch.float64), null).item() == 0.25
    assert p_value(torch.tensor(2.0, dtype=torch.float64), null).item() == 0.5
    assert p_value(torch.tensor(-1.0, dtype=torch.float64), null, tail="less").item() == 0.25


def test_a_p_value_of_no_number_is_refused():
    null = torch.tensor([float("nan")], dtype=torch.float64)
    with pytest.raises(TraceError, match="not finite"):
        p_value(torch.tensor(0.0, dtype=torch.float64), null)


def test_holm_agrees_with_its_definition_and_never_lowers_a_p_value():
    p_values = torch.rand(50, 7, generator=generator(), dtype=torch.float64)
    adjusted = holm(p_values)
    assert bool((adjusted >= p_values).all())
    for row, found in zip(p_values, adjusted, strict=True):
        for i in range(7):
            below = row[row <= row[i]]
            expected = max((7 - int((row < value).sum())) * value.item() for value in below)
            assert found[i].item() == pytest.approx(min(1, expected))


def test_layers_one_after_another_and_together_are_held_against_the_same_draws():
    null = torch.rand(50, 3, 4, generator=generator(), dtype=torch.float64)
    measured = Measured(null.mean(0) + 0.3, null=null)
    alone = {
        layer: permuted(measured, [0, 2], one_layer(layer), better="higher") for layer in range(4)
    }
    assert permuted_layers(measured, [0, 2], better="higher") == alone
