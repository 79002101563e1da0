"""Grids: lists are axes, parts are unions, every run is one that could be typed by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.errors import SpecError
from modeval.spec.own import Code
from modeval.spec.sweep import NAMED, unfold
from modeval.spec.systems import SYSTEMS


@settings(deadline=None)
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


def test_settings_of_gatings_computations_and_phases_are_axes_too():
    gatings = [
        "soft",
        {"kind": "top-k", "k": [2, 3]},
        {"kind": ["gumbel", "concrete"], "temperature": [1.0, 0.5]},
    ]
    runs = unfold({"data": {"rules": 4}, "model": {"gating": gatings}}).runs
    assert [run.model.gating.kind for run in runs] == [
        *("soft", "top-k", "top-k", "gumbel", "gumbel", "concrete", "concrete")
    ]
    assert [run.model.gating.k for run in runs[1:3]] == [2, 3]
    ranks = {"kind": "low-rank", "rank": [1, 2, 4]}
    grid = {"data": {"rules": 4}, "model": {"computation": ranks, "gating": gatings}}
    assert len(unfold(grid).runs) == 21
    phases = [{"steps": 10, "rules": [[0], [0, 1]]}, {"steps": 10}]
    cut = unfold({"data": {"rules": 4}, "train": {"steps": 20, "phases": phases}}).runs
    assert [run.train.phases[0].rules for run in cut] == [(0,), (0, 1)]


def test_one_network_is_trained_once_whatever_the_gatings_of_the_others():
    grid = {
        "models": ["monolithic", "modular"],
        "data": {"rules": 4},
        "model": {"gating": ["soft", "gumbel"], "modules": [4, 8]},
    }
    names = [run.name for run in unfold(grid).runs]
    assert names.count("monolithic") == 1
    assert names.count("modular") == 4


def test_the_survey_has_every_system_on_every_task_that_it_is_defined_for():
    runs = unfold(NAMED["survey"]).runs
    found = {(run.name, run.data.task) for run in runs}
    assert found == {(system.name, task) for system in SYSTEMS for task in system.tasks}
    assert len(runs) == len(found)


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
        (
            {"models": ["top-k"], "data": {"rules": 4}, "model": {"gating": "soft"}},
            "top-k has gating top-k, and the grid says gating soft",
        ),
        ({"model": {"gating": {"kind": "soft", "k": [1, 2]}}}, "k: there is no such setting"),
        ({"model": {"gating": {"kind": ["soft", "sofd"]}}}, "sofd"),
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


def test_models_gatings_and_scorers_of_ones_own_stand_in_a_grid():
    own = unfold({"models": ["modular", "mine.py:TwoLayers"], "data": {"rules": [2, 4]}}).runs
    assert [run.name for run in own] == ["modular", "twolayers"] * 2
    assert own[1].model.own == Code("mine.py:TwoLayers")
    gated = unfold({"model": {"gating": ["soft", "mine.py:squared"]}}).runs
    assert [run.model.gating.kind for run in gated] == ["soft", "own"]
    scored = unfold({"model": {"scorer": ["module", "mine.py:Cosine", "rule"]}}).runs
    assert [run.name for run in scored] == ["modular", "cosine", "modular-op"]
    with pytest.raises(SpecError, match="own"):
        unfold({"models": ["mine:TwoLayers"]})
