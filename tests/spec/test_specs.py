"""Specifications: round trips, refusals with advice, and the paper's sizes."""

import itertools
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.errors import SpecError
from modeval.nn.build import head_width, hidden_width
from modeval.spec import (
    MODELS,
    DataSpec,
    ModelSpec,
    RunSpec,
    TrainSpec,
    from_dict,
    read_spec,
    seed_grid,
    to_dict,
    to_toml,
)

positive = st.integers(1, 2**20)


@settings(deadline=None)
@given(
    data=st.builds(
        DataSpec,
        objective=st.sampled_from(["regression", "classification"]),
        rules=st.sampled_from([1, 2, 4]),
        scale=st.floats(1e-6, 1e6),
    ),
    train=st.builds(
        TrainSpec,
        seeds=st.lists(st.tuples(positive, positive), min_size=1, max_size=4, unique=True).map(
            tuple
        ),
        steps=positive,
        learning_rate=st.floats(1e-12, 10),
        clip=st.floats(0, 100),
    ),
    name=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=10),
)
def test_a_spec_reads_back_from_toml_exactly(data, train, name):
    spec = RunSpec(name=name, data=data, train=train)
    again = from_dict(RunSpec, tomllib.loads(to_toml(spec)))
    assert again == spec
    assert again.digest == spec.digest


def test_the_digest_tells_runs_apart():
    digests = {RunSpec(train=TrainSpec(steps=steps)).digest for steps in (1, 2, 3)}
    assert len(digests) == 3


def test_seed_grids_run_through_the_task_seeds_first():
    assert seed_grid(3, 2) == ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataSpec, {"taks": "binary"}, "Did you mean task"),
        (DataSpec, {"task": "binari"}, 'Did you mean "binary"'),
        (DataSpec, {"rules": 2.5}, "expected int"),
        (DataSpec, {"rules": True}, "expected int"),
        (DataSpec, {"scale": "x"}, "expected float"),
        (DataSpec, {"scale": float("nan")}, "scale = nan"),
        (DataSpec, {"task": "sets", "length": 1}, "at least 2 positions"),
        (DataSpec, {"rules": 2, "rule_probabilities": [1.0]}, "1 entries for 2 rules"),
        (DataSpec, {"rules": 2, "rule_probabilities": 3}, "must be a list"),
        (ModelSpec, {"scorer": "none", "modules": 2}, "nothing to choose by"),
        (ModelSpec, {"modules": -1}, "modules = -1"),
        (TrainSpec, {"seeds": []}, "seeds is empty"),
        (TrainSpec, {"seeds": [[0, 0], [0, 0]]}, "holds a pair twice"),
        (TrainSpec, {"seeds": [[0, 0, 0]]}, "takes 2 numbers"),
        (TrainSpec, {"learning_rate": float("inf")}, "learning_rate = inf"),
        (RunSpec, {"data": 3}, "must be a table"),
        (RunSpec, {"model": {"width": 3}}, "leaves no unit for each of 4 modules. Use --width 4"),
        (
            RunSpec,
            {"data": {"task": "sets"}, "model": {"width": 7}},
            "2 heads x 4 modules. Use --width 8 or more",
        ),
    ],
)
def test_impossible_values_are_refused_with_advice(kind, values, message):
    with pytest.raises(SpecError) as caught:
        from_dict(kind, values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "name", "value", "task", "instead"),
    [
        ("data", "operation", "named", "sets", "Drop --operation, or use --task binary."),
        ("data", "operation", "named", "series", "Drop --operation, or use --task binary."),
        ("data", "search", "product", "binary", "Drop --search, or use --task sets."),
        ("data", "search", "product", "series", "Drop --search, or use --task sets."),
        ("data", "dimension", 7, "binary", "Drop --dimension, or use --task series."),
        ("data", "dimension", 7, "sets", "Drop --dimension, or use --task series."),
        ("data", "order", 3, "binary", "Drop --order, or use --task series."),
        ("data", "order", 3, "sets", "Drop --order, or use --task series."),
        ("data", "length", 5, "binary", "Drop --length, or use --task sets or series."),
        ("model", "heads", 4, "binary", "Drop --heads, or use --task sets."),
        ("model", "heads", 4, "series", "Drop --heads, or use --task sets."),
        ("train", "best_by", "accuracy", "binary", "Drop --best-by, or use --objective class"),
        ("train", "milestones", [5], "binary", "Drop --milestones, or use --schedule steps."),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_by_name(section, name, value, task, instead):
    values = {"data": {"task": task, "rules": 2}}
    values[section] = values.get(section, {}) | {name: value}
    with pytest.raises(SpecError, match=f"^{name} = .*does not read it") as caught:
        from_dict(RunSpec, values)
    assert instead in str(caught.value)
    assert read_spec(values) == RunSpec(data=DataSpec(task=task, rules=2))


def test_the_recurrent_family_clips_as_the_reference_does():
    for task, clip in (("binary", 0.0), ("sets", 0.0), ("series", 1.0)):
        run = RunSpec(data=DataSpec(task=task))
        assert run.clip == run.train.clip == clip
        assert f"clip = {clip}" in to_toml(run)
    asked = RunSpec(data=DataSpec(task="series"), train=TrainSpec(clip=0.0))
    assert asked.clip == 0.0


def test_a_short_run_is_validated_often_enough_for_a_curve():
    for steps, every in ((10_000, 1_000), (50_000, 1_000), (1_000, 100), (5, 1)):
        assert RunSpec(train=TrainSpec(steps=steps)).validate_every == every
    assert RunSpec(train=TrainSpec(steps=100, validate_every=7)).validate_every == 7


def test_every_named_model_fits_every_task():
    for task, name in itertools.product(("binary", "sets", "series"), MODELS):
        spec = RunSpec(data=DataSpec(task=task), model=ModelSpec(**MODELS[name]))
        assert from_dict(RunSpec, to_dict(spec)) == spec


@pytest.mark.parametrize(
    ("task", "widths"),
    [
        ("binary", [64, 32, 16, 8, 4]),
        ("sets", [48, 35, 24, 14, 8]),
        ("series", [91, 62, 41, 26, 15]),
    ],
)
def test_parameter_matching_narrows_modules_as_the_paper_does(task, widths):
    model = ModelSpec(**MODELS["modular"])
    found = [hidden_width(DataSpec(task=task, rules=rules), model) for rules in (2, 4, 8, 16, 32)]
    assert found == widths


@pytest.mark.parametrize(("task", "hidden"), [("binary", 42), ("sets", 40), ("series", 73)])
def test_a_width_that_the_rules_do_not_divide_is_cut_to_whole_units_as_the_reference_does(
    task, hidden
):
    run = RunSpec(data=DataSpec(task=task, rules=3))
    assert hidden_width(run.data, run.model) == hidden
    assert head_width(DataSpec(task="sets", rules=3), run.model) == 128 // 6


def test_width_matching_gives_each_module_the_full_width():
    model = ModelSpec(match="width", width=128)
    assert [hidden_width(DataSpec(task=task), model) for task in ("binary", "sets", "series")] == [
        128,
        64,
        128,
    ]
    assert head_width(DataSpec(task="sets", rules=8), model) == 64
