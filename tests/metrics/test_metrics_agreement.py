"""Laws of agreement: symmetric, blind to the numbers of modules, 1 for a build and itself."""

import numpy as np
import pytest

from modeval.metrics import agreement
from modeval.metrics.agreement import (
    agreement_different,
    agreement_exact,
    agreement_first,
    agreement_matched,
    agreement_shared,
    agreement_weights,
)

MODULES, CHOICES, TOKENS = 7, 3, 200
of_choices = pytest.mark.parametrize(
    "function", [agreement_shared, agreement_exact, agreement_first]
)


def routing(seed):
    draw = np.random.default_rng(seed)
    chosen = draw.random((TOKENS, MODULES)).argsort(1)[:, :CHOICES]
    chosen[draw.random(TOKENS) < 0.1, -1] = -1
    weight = np.where(chosen >= 0, draw.random(chosen.shape), 0)
    return chosen, weight / weight.sum(1, keepdims=True)


@of_choices
def test_a_build_agrees_with_itself(function):
    chosen, weight = routing(0)
    assert (function(chosen, chosen) == 1).all()
    assert agreement_weights(chosen, chosen, weight, weight) == pytest.approx(0)


@of_choices
def test_neither_build_comes_first_and_module_numbers_mean_nothing(function):
    (one, weight), (other, its) = routing(1), routing(2)
    new = np.append(np.random.default_rng(3).permutation(MODULES), -1)
    assert (function(one, other) == function(other, one)).all()
    assert (function(one, other) == function(new[one], new[other])).all()
    assert agreement_weights(one, other, weight, its) == pytest.approx(
        agreement_weights(new[other], new[one], its, weight)
    )


def test_the_order_of_choices_matters_for_the_first_one_only():
    one, _ = routing(1)
    turned = one[:, [1, 0, 2]]
    assert (agreement_exact(one, turned) == 1).all()
    assert (agreement_first(one, turned) == 0).all()


def test_weights_are_those_of_dense_vectors():
    (one, weight), (other, its) = routing(4), routing(5)
    dense = np.zeros((2, TOKENS, MODULES + 1))
    for place, (chosen, share) in enumerate(((one, weight), (other, its))):
        np.add.at(dense[place], (np.arange(TOKENS)[:, None], chosen), share)
    wanted = np.abs(dense[0] - dense[1])[:, :MODULES].sum(1) / 2
    assert agreement_weights(one, other, weight, its) == pytest.approx(wanted)


def test_a_difference_is_never_taken_back():
    exact = np.random.default_rng(6).integers(0, 2, (50, 8)).astype(float)
    so_far = agreement_different(exact)
    assert (np.diff(so_far, axis=1) >= 0).all()
    assert (so_far[:, -1] == (exact == 0).any(1)).all()


def test_every_function_of_the_file_is_a_row_of_the_table():
    public = [name for name in vars(agreement) if name.startswith("agreement_")]
    assert len(public) == 6


def test_a_permuted_build_has_all_in_common_once_it_is_renumbered():
    draw = np.random.default_rng(4)
    order = draw.permutation(6)
    one = np.array([draw.permutation(6)[:2] for _ in range(80)])
    other = order[one]
    together = np.zeros((6, 6))
    for mine, its in zip(one, other, strict=True):
        together[np.ix_(mine, its)] += 1
    assert agreement_matched(together, 160.0) == 1.0
    assert agreement_shared(one, other).mean() < 1
    assert agreement_matched(np.zeros((6, 6)), 0.0) == 0.0
