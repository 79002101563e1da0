"""Matching: all solvers agree, and agree with trying every matching."""

import itertools
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.errors import TraceError
from modeval.metrics import alignment_distance, match, matching
from modeval.metrics.matching import assign_lapx, assign_scipy, distinct_costs
from modeval.metrics.matching_paths import assign_paths
from modeval.score import pairing

KINDS = ("random", "one-hot", "equal", "few values")


def tables(kind, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(*shape, generator=generator, dtype=torch.float64)
    if kind == "one-hot":
        return torch.nn.functional.one_hot(draws.argmax(-1), shape[-1]).double()
    if kind == "equal":
        return torch.full(shape, 0.25, dtype=torch.float64)
    return draws if kind == "random" else (3 * draws).round()


def costs(kind, *shape):
    benefit = tables(kind, *shape)
    return distinct_costs(benefit, benefit.abs().amax((-2, -1)))


def best_by_trying(table):
    rules, modules = table.shape
    if rules > modules:
        return best_by_trying(table.T)
    return max(
        sum(table[r, m].item() for r, m in enumerate(chosen))
        for chosen in itertools.permutations(range(modules), rules)
    )


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(KINDS), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_no_matching_is_better(rules, modules, kind, seed):
    table = tables(kind, rules, modules, seed=seed)
    module, value = match(table)
    assert value.item() == pytest.approx(best_by_trying(table), abs=1e-9)
    used = module[module >= 0]
    assert len(used) == len(set(used.tolist())) == min(rules, modules)
    assert value.item() == pytest.approx(table[module >= 0, used].sum().item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 9), (16, 40)])
@pytest.mark.parametrize("solve", [assign_lapx, assign_paths])
def test_every_solver_gives_the_matching_of_scipy_ties_included(kind, shape, solve):
    if solve is assign_lapx:
        pytest.importorskip("lap", reason="lapx is not installed")
    cost = costs(kind, 20, *shape)
    assert torch.equal(solve(cost), assign_scipy(cost))


def test_equal_benefits_are_matched_in_order():
    assert match(tables("equal", 6, 6))[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert match(tables("equal", 3, 6))[0].tolist() == [0, 1, 2]


def test_rules_that_get_no_module_are_marked():
    module, value = match(torch.tensor([[0.2], [0.9], [0.4]]))
    assert module.tolist() == [-1, 0, -1]
    assert value.item() == pytest.approx(0.9)


def test_batches_of_any_shape_are_matched_member_by_member():
    table = tables("random", 2, 3, 5, 4)
    module, value = match(table)
    assert module.shape == (2, 3, 5)
    for i, j in itertools.product(range(2), range(3)):
        alone = match(table[i, j])
        assert torch.equal(module[i, j], alone[0])
        torch.testing.assert_close(value[i, j], alone[1])


def test_no_matrices_give_no_matchings():
    module, value = match(torch.zeros(0, 3, 3))
    assert module.shape == (0, 3)
    assert value.shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(TraceError, match="not finite"):
        match(torch.tensor([[1.0, bad], [0.0, 1.0]]))


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (3, 3), (5, 3)])
def test_rectangular_alignment_is_the_best_of_all_matchings(shape):
    joint = tables("random", *shape) / shape[0]
    joint = joint / joint.sum()
    assert alignment_distance(joint).item() == pytest.approx(1 - best_by_trying(joint), abs=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_matching_of_scipy(kind):
    table = tables(kind, 50, 12, 20)
    here, there = match(table), match(table.cuda())
    assert torch.equal(here[0], there[0].cpu())
    torch.testing.assert_close(here[1], there[1].cpu())


def test_another_module_lap_is_no_lapx(monkeypatch):
    """The package ``lap`` lays down a module of that name without batches."""
    monkeypatch.setitem(sys.modules, "lap", types.ModuleType("lap"))
    matching.has_lapx.cache_clear()
    assert not matching.has_lapx()
    benefit = torch.rand(7, 3, 4, dtype=torch.float64)
    without = matching.match(benefit)
    table = benefit[0].numpy()
    pairs = pairing.paired(table), pairing.paired(table.T)
    monkeypatch.undo()
    matching.has_lapx.cache_clear()
    for mine, its in zip(without, matching.match(benefit), strict=True):
        torch.testing.assert_close(mine, its)
    assert pairs == (pairing.paired(table), pairing.paired(table.T))
