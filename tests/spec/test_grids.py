"""Grids: lists are axes, parts are unions, every run is one that could be typed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeval.errors import SpecError
from modeval.spec.sweep import NAMED, unfold


@given(
    rules=st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=3, unique=True),
    widths=st.lists(st.sampled_from([32, 64]), min_size=1, max_size=2, unique=True),
    rates=st.lists(st.sampled_from([1e-3, 1e-4]), min_size=1, max_size=2, unique=True),
)
def test_a_sweep_is_the_product_of_its_lists_each_point_once(rules, widths, rates):
    grid = {
        "data": {"rules": rules},
        "model": {"width": widths},
        "train": {"learning_rate": rates},
    }
    runs = unfold(grid).runs
    points = {(run.data.rules, run.model.width, run.train.learning_rate) for run in runs}
    assert len(runs) == len(points) == len(rules) * len(widths) * len(rates)
    assert len({run.digest for run in runs}) == len(runs)


def test_a_setting_that_is_a_list_itself_is_no_axis_and_a_list_of_lists_is_one():
    shares = {"rules": 2, "rule_probabilities": [0.5, 0.5]}
    assert len(unfold({"data": shares}).runs) == 1
    several = {"rules": 2, "rule_probabilities": [[0.5, 0.5], [0.9, 0.1]]}
    assert [run.data.rule_probabilities for run in unfold({"data": several}).runs] == [
        (0.5, 0.5),
        (0.9, 0.1),
    ]


def test_parts_are_a_union_laid_over_the_rest_and_what_they_share_is_done_once():
    grid = {
        "data": {"rules": 2},
        "part": [
            {"data": {"task": "binary"}},
            {"data": {"task": ["binary", "series"]}},
        ],
    }
    assert [run.data.task for run in unfold(grid).runs] == ["binary", "series"]


def test_the_grids_of_the_paper_have_the_numbers_of_the_paper():
    mlp = unfold(NAMED["paper-mlp"]).runs
    assert len(mlp) == 5 * 2 * 4
    assert sum(len(run.train.seeds) for run in mlp) == 1_000
    whole = unfold(NAMED["paper"]).runs
    assert len(whole) == 8 * 5 * 5 * 4
    assert sum(len(run.train.seeds) for run in whole) == 20_000


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"modles": ["modular"]}, "modles: a grid has no such entry .did you mean models"),
        ({"models": ["moduler"]}, "'moduler' is no model .did you mean modular"),
        ({"models": 3}, "expected names"),
        ({"models": [["modular"]]}, "expected names"),
        ({"data": {"rulez": [2]}}, "rulez: there is no such setting"),
        ({"data": {"rules": []}}, "no run"),
        ({"data": {"rules": ["two"]}}, "rules = 'two': expected int"),
        ({"data": 3}, "expected a table"),
        ({"seeds": {"tasks": 0}}, "expected { tasks = 5, models = 5 }"),
        ({"seeds": 5}, "expected { tasks = 5, models = 5 }"),
        ({"part": {"data": {}}}, r"expected tables, each headed \[\[part\]\]"),
        ({"train": {"batch": list(range(1, 10_100))}}, "more than 10,000"),
    ],
)
def test_what_is_no_grid_is_refused_by_name(grid, message):
    with pytest.raises(SpecError, match=message):
        unfold(grid)
