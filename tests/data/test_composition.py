"""Tasks beyond the reference's: skills, variants, noise; and that its own stay what they were."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from modeval.data import (
    draw,
    skill_matrix,
    skills_of_rules,
    stack_tasks,
    task_parameters,
    write_dataset,
)
from modeval.errors import SpecError
from modeval.evaluate.cohort import evaluate
from modeval.evaluate.subject import Subject
from modeval.metrics import mutual_information
from modeval.nn import create
from modeval.spec import MODELS, DataSpec, ModelSpec, RunSpec, digest_of, from_dict
from modeval.spec.layouts import told_rows
from modeval.train import stream

OPERATIONS = (np.add, np.subtract, np.multiply, np.minimum, np.maximum)


def sample(spec, *, seed=0, samples=200, dtype=torch.float64):
    tasks = stack_tasks(spec, [seed], dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    return draw(spec, tasks, [generator], samples=samples, dtype=dtype)


# --- skills --------------------------------------------------------------------------------------


@pytest.mark.parametrize("composition", ["additive", "sequential"])
@pytest.mark.parametrize("operation", ["linear", "named"])
@pytest.mark.parametrize("each", [1, 2, 3])
def test_targets_are_those_of_the_skills_of_each_rule(composition, operation, each):
    spec = DataSpec(
        operation=operation, skills=4, skills_per_rule=each, composition=composition, rules=4
    )
    random = np.random.RandomState(7)
    alpha, beta = random.randn(4), random.randn(4)

    def apply(skill, first, second):
        if operation == "named":
            return OPERATIONS[skill](first, second)
        return alpha[skill] * first + beta[skill] * second

    batch = sample(spec, seed=7)
    for (first, second), rule, target in zip(
        batch.inputs[0].numpy(), batch.rule[0].tolist(), batch.target[0, :, 0].numpy(), strict=True
    ):
        used = skills_of_rules(spec)[rule]
        if composition == "additive":
            expected = sum(apply(skill, first, second) for skill in used)
        else:
            expected = first
            for skill in used:
                expected = apply(skill, expected, second)
        assert target == pytest.approx(expected, abs=1e-9)


def test_the_skill_matrix_is_true_and_its_rows_differ():
    for composition, ways in (("additive", itertools.combinations), ("sequential", None)):
        spec = DataSpec(skills=5, rules=10, composition=composition)
        matrix = skill_matrix(spec)
        assert matrix.sum(1).tolist() == [2] * 10
        assert len(set(skills_of_rules(spec))) == 10
        assert int(matrix.sum(0).min()) >= 2, "few rules should use all skills about equally"
        if ways is not None:
            assert set(skills_of_rules(spec)) == set(ways(range(5), 2))
    assert torch.equal(skill_matrix(DataSpec(rules=3)), torch.eye(3, dtype=torch.int64))


def test_fewer_rules_are_the_first_of_more():
    few, many = (DataSpec(skills=4, rules=rules) for rules in (3, 6))
    assert skills_of_rules(many)[:3] == skills_of_rules(few)
    one, two = (task_parameters(spec, 5)["alpha"] for spec in (few, many))
    assert torch.equal(one, two[:3])


def tree(skill, used, first, second, apply):
    """Return what a tree of skills gives, from its root down."""

    def below(place, leaf):
        return tree(place, used, first, second, apply) if place < len(used) else leaf

    return apply(used[skill], below(2 * skill + 1, first), below(2 * skill + 2, second))


@pytest.mark.parametrize("operation", ["linear", "named"])
@pytest.mark.parametrize("each", [1, 2, 3, 5])
def test_targets_of_trees_are_those_of_their_layouts(operation, each):
    spec = DataSpec(
        operation=operation, skills=3, skills_per_rule=each, composition="tree", rules=3
    )
    random = np.random.RandomState(7)
    alpha, beta = random.randn(3), random.randn(3)

    def apply(skill, first, second):
        if operation == "named":
            return OPERATIONS[skill](first, second)
        return alpha[skill] * first + beta[skill] * second

    batch = sample(spec, seed=7, samples=60)
    for (first, second), rule, target in zip(
        batch.inputs[0].numpy(), batch.rule[0].tolist(), batch.target[0, :, 0].numpy(), strict=True
    ):
        used = skills_of_rules(spec)[rule]
        assert target == pytest.approx(tree(0, used, first, second, apply), abs=1e-9)


def test_trees_have_skills_more_than_once_and_all_fillings_differ():
    spec = DataSpec(skills=3, skills_per_rule=3, composition="tree", rules=27)
    assert set(skills_of_rules(spec)) == set(itertools.product(range(3), repeat=3))


def test_what_a_model_is_told_of_skills_says_all_that_matters():
    for composition in ("additive", "sequential", "tree"):
        spec = DataSpec(skills=4, rules=6, composition=composition, told="skills")
        rows = torch.tensor(told_rows(spec))
        assert len({*map(tuple, rows.tolist())}) == 6
        assert rows.sum(1).tolist() == [2] * 6
        if composition == "additive":
            assert torch.equal(rows.long(), skill_matrix(spec))
        else:
            places = rows.view(6, 2, 4).argmax(-1)
            assert places.tolist() == [list(used) for used in skills_of_rules(spec)]


# --- rules that are held out ---------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(), (0.1, 0.2, 0.3, 0.2, 0.1, 0.1)])
def test_held_out_rules_are_never_trained_on_and_the_others_keep_their_shares(shares):
    spec = DataSpec(skills=4, rules=6, held_out=2, rule_probabilities=shares)
    place = stream.Stream(spec, ((0, 0),), 4_000, torch.device("cpu"))
    for batch in (next(stream.batches(place)), stream.validation_batch(place, 4_000)):
        seen = torch.bincount(batch.rule.flatten(), minlength=6).double() / 4_000
        assert seen[4:].tolist() == [0, 0]
        usual = torch.tensor(shares[:4] or (1.0,) * 4).double()
        torch.testing.assert_close(seen[:4], usual / usual.sum(), rtol=0, atol=0.03)
    some = dataclasses.replace(place, rules=(0, 3))
    assert sorted({*next(stream.batches(some)).rule.flatten().tolist()}) == [0, 3]


def test_without_held_out_rules_the_same_samples_are_drawn_as_before():
    one, two = (sample(DataSpec(skills=4, rules=6, told=told)) for told in ("rule", "skills"))
    assert torch.equal(one.rule, two.rule)
    assert torch.equal(one.target, two.target)


def test_a_data_set_holds_all_rules(tmp_path):
    with pytest.raises(SpecError, match="Leave --held-out out of modeval generate"):
        write_dataset(tmp_path / "data", DataSpec(skills=3, rules=3, held_out=1), [0], samples=10)


def test_a_phase_draws_no_rule_that_is_held_out():
    values = {
        "data": {"rules": 6, "skills": 4, "held_out": 2},
        "train": {"phases": [{"rules": [0, 4]}]},
    }
    with pytest.raises(SpecError, match="which is held out: training has rules 0 to 3"):
        from_dict(RunSpec, values)


# --- variants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_duplicates_are_the_same_and_variants_near(task):
    plain = DataSpec(task=task, rules=5)
    own = task_parameters(plain, 3)
    same = task_parameters(dataclasses.replace(plain, variants=2), 3)
    near = task_parameters(dataclasses.replace(plain, variants=2, spread=0.1), 3)
    for name, value in own.items():
        assert torch.equal(same[name], value[[0, 0, 2, 2, 4]])
        torch.testing.assert_close(near[name][1], value[0] + 0.1 * value[1])
        assert torch.equal(near[name][::2], value[::2])


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_noise_is_added_to_targets_and_to_nothing_else(task):
    clean = DataSpec(task=task, rules=2)
    noisy = dataclasses.replace(clean, noise=0.5)
    one, two = sample(clean, samples=2_000), sample(noisy, samples=2_000)
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.rule, two.rule)
    added = two.target - one.target
    assert float(added.std()) == pytest.approx(0.5, rel=0.05)
    assert float(added.mean()) == pytest.approx(0, abs=0.05)
    assert noisy.clean == clean


def test_noise_flips_labels_near_the_boundary():
    one, two = (
        sample(DataSpec(objective="classification", noise=noise), samples=2_000)
        for noise in (0.0, 0.3)
    )
    flipped = float((one.target != two.target).double().mean())
    assert 0.02 < flipped < 0.3
    assert set(two.target.unique().tolist()) == {0.0, 1.0}


def test_models_are_validated_and_scored_on_targets_without_noise():
    noisy = DataSpec(rules=2, noise=100.0)
    place = stream.Stream(noisy, ((0, 0),), 8, torch.device("cpu"))
    assert float(stream.validation_batch(place, 100).target.abs().max()) < 50
    assert float(next(stream.batches(place)).target.abs().max()) > 50
    losses = evaluate(oracle(noisy), precision=0.5).losses
    assert max(float(loss.mean().max()) for loss in losses) < 50


# --- rules that a model is not told ---------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
@pytest.mark.parametrize("hidden", [0.25, 1.0])
def test_a_model_is_told_another_rule_for_a_share_of_the_samples(task, hidden):
    true = DataSpec(task=task, rules=4)
    one = sample(true, samples=4_000)
    two = sample(dataclasses.replace(true, hidden=hidden), samples=4_000)
    assert one.shown is None
    assert torch.equal(one.told, one.rule)
    assert torch.equal(one.rule, two.rule)
    assert torch.equal(one.target, two.target)
    wrong = float((two.told != two.rule).double().mean())
    assert wrong == pytest.approx(hidden * 3 / 4, abs=0.03)  # one of four is drawn by chance
    assert torch.equal(two.as_told().rule, two.told)
    assert torch.equal(two.seed(0).to("cpu").told, two.told)


def test_training_sees_what_a_model_is_told_and_scores_know_the_truth():
    """The oracle routes by what it is told: told nothing, it routes without regard to the rule."""
    place = stream.Stream(DataSpec(rules=4, hidden=1.0), ((0, 0),), 500, torch.device("cpu"))
    known = stream.Stream(DataSpec(rules=4), ((0, 0),), 500, torch.device("cpu"))
    told = next(stream.batches(place)).rule
    assert told.shape == (1, 500)
    assert not torch.equal(told, next(stream.batches(known)).rule)
    assert stream.validation_batch(place, 100).shown is None
    for hidden, information in ((0.0, np.log(4)), (0.5, None), (1.0, 0.0)):
        data = DataSpec(rules=4, hidden=hidden)
        counts = evaluate(oracle(data), precision=0.02).counts
        assert counts is not None
        joint = counts.joint()[0, 0]
        found = float(mutual_information(joint))
        if information is None:
            diagonal = float(joint.diag().sum())
            assert diagonal == pytest.approx(1 - 0.5 * 3 / 4, abs=0.02)
        else:
            assert found == pytest.approx(information, abs=0.002)


def oracle(data):
    model = ModelSpec(**MODELS["gt-modular"], encoder=8, width=16)
    return Subject(
        title="GT-Modular", origin="run", data=data, model=model, objective_known=True,
        seeds=((0, 0),), sources=("",), faults=("",), selection="last",
        network=create(data, model, [0]),
    )  # fmt: skip


def test_a_data_set_holds_true_rules(tmp_path):
    with pytest.raises(SpecError, match="Leave --hidden out of modeval generate"):
        write_dataset(tmp_path / "data", DataSpec(hidden=0.5), [0], samples=10)


# --- the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skills": 3, "rules": 4}, "there are 3. Use --rules 3 or fewer"),
        ({"skills": 6, "operation": "named"}, "there are 5"),
        ({"skills": 2, "skills_per_rule": 3, "rules": 1}, "give from 1 to 2"),
        ({"composition": "sequential"}, "there are none. Use --skills 4"),
        ({"skills": 2, "skills_per_rule": 2, "composition": "tree", "rules": 5}, "there are 4"),
        ({"skills": 2, "skills_per_rule": 16, "composition": "tree"}, "give from 1 to 15"),
        ({"told": "skills"}, "Use --skills 4"),
        ({"held_out": 1}, "Use --skills 4"),
        ({"skills": 4, "held_out": 4}, "give from 1 to 3"),
        ({"skills": 4, "held_out": 3}, "do not have every skill"),
        (
            {"skills": 3, "rules": 3, "held_out": 1, "rule_probabilities": (0.5, 0.5, 0.0)},
            "above 0",
        ),
        ({"spread": 0.5}, "Use --variants 2"),
        ({"variants": 2, "skills": 4}, "one or the other"),
        ({"variants": 2, "operation": "named"}, "Drop --variants, or use --operation linear"),
        ({"skills": 4, "task": "sets"}, "Drop --skills, or use --task binary"),
        ({"noise": -1.0}, "expected 0 or more"),
        ({"hidden": 1.5}, "expected a share from 0 to 1"),
        ({"telling": 1.5}, "expected a share from 0 to 1"),
        ({"telling": 0.5, "operation": "named"}, "Drop --telling, or use --operation linear"),
        ({"telling": 0.5, "task": "series"}, "Drop --telling, or use --task binary"),
    ],
)
def test_tasks_that_make_no_sense_are_refused_with_what_to_type(settings, message):
    with pytest.raises(SpecError) as caught:
        DataSpec(**settings)
    assert message in str(caught.value)


def test_tasks_of_the_reference_keep_their_numbers_and_their_names():
    random = np.random.RandomState(0)
    own = task_parameters(DataSpec(rules=4), 0)
    assert own["alpha"].tolist() == random.randn(4).tolist()
    assert own["beta"].tolist() == random.randn(4).tolist()
    assert digest_of(DataSpec(rules=8), ModelSpec()) == "e18956d02fbd42fd"


def test_inputs_that_tell_of_their_rule_keep_its_answers_and_lie_near_its_line():
    plain = DataSpec(rules=5, scale=2.0)
    one = sample(plain, samples=400)
    for telling in (0.3, 1.0):
        two = sample(dataclasses.replace(plain, telling=telling), samples=400)
        assert torch.equal(one.rule, two.rule)
        torch.testing.assert_close(one.target, two.target, atol=1e-5, rtol=1e-4)
        for seed in range(len(one.rule)):
            for rule in range(5):
                chosen = one.rule[seed] == rule
                before, after = one.inputs[seed, chosen], two.inputs[seed, chosen]
                # what a sum does not read is across its weights, found here by least squares
                weights = torch.linalg.lstsq(before, one.target[seed, chosen]).solution.squeeze(-1)
                across = torch.stack((-weights[1], weights[0]))
                torch.testing.assert_close(
                    after @ across, (1 - telling) * (before @ across), atol=1e-3, rtol=1e-3
                )
