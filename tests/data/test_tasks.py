"""Rule tasks: the numbers of the reference, the equations, the laws of a cohort."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from modeval.data import Coefficients, Dynamics, draw, stack_tasks, task_parameters
from modeval.data import series as series_module
from modeval.errors import SpecError
from modeval.spec import DataSpec, from_dict, without_unread
from modeval.types import Batch

FAMILIES = {
    "linear": DataSpec(rules=4),
    "named": DataSpec(rules=5, operation="named"),
    "nearest": DataSpec(task="sets", rules=3, length=5),
    "product": DataSpec(task="sets", search="product", rules=3, length=5),
    "series": DataSpec(task="series", rules=3, dimension=4, length=6),
    "series of order 2": DataSpec(task="series", rules=3, dimension=4, order=2, length=6),
}
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
objectives = pytest.mark.parametrize("objective", ["regression", "classification"])
TASK_SEEDS = (0, 7, 123)


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def sample(
    spec: DataSpec, task_seeds: Sequence[int] = TASK_SEEDS, *, samples: int = 64, **options: Any
) -> Batch:
    dtype = options.get("dtype", torch.float32)
    tasks = stack_tasks(spec, task_seeds, dtype=dtype)
    return draw(spec, tasks, generators(*task_seeds), samples=samples, **options)


# --- the tasks once more, from their equations, one number at a time ------------------------------


def coefficients(seed: int, rules: int) -> Any:
    state = np.random.RandomState(seed)
    return state.randn(rules), state.randn(rules)


def binary_by_hand(inputs: Any, rule: Any, seed: int, rules: int) -> Any:
    alpha, beta = coefficients(seed, rules)
    return np.array(
        [[alpha[c] * x1 + beta[c] * x2] for (x1, x2), c in zip(inputs, rule, strict=True)]
    )


def named_by_hand(inputs: Any, rule: Any) -> Any:
    operations = (np.add, np.subtract, np.multiply, np.minimum, np.maximum)
    return np.array([[operations[c](x1, x2)] for (x1, x2), c in zip(inputs, rule, strict=True)])


def sets_by_hand(inputs: Any, rule: Any, seed: int, rules: int, search: str) -> Any:
    alpha, beta = coefficients(seed, rules)
    target = np.zeros((*rule.shape, 1))
    samples, length = rule.shape
    for sample in range(samples):
        for n in range(length):
            c = rule[sample, n]
            width = 4 if search == "nearest" else 6
            own = inputs[sample, :, c * width : (c + 1) * width]
            others = [i for i in range(length) if i != n]
            if search == "nearest":
                first = min(others, key=lambda i: abs(own[n, 0] - own[i, 0]))
                second = min(others, key=lambda i: abs(own[n, 1] - own[i, 1]))
            else:
                first = max(others, key=lambda i: own[n, 0:2] @ own[i, 0:2])
                second = max(others, key=lambda i: own[n, 2:4] @ own[i, 2:4])
            target[sample, n, 0] = alpha[c] * own[first, -2] + beta[c] * own[second, -1]
    return target


def series_by_hand(
    inputs: Any, rule: Any, seed: int, rules: int, order: int, *, decode: bool
) -> Any:
    state = np.random.RandomState(seed)
    size = inputs.shape[-1]
    transition = state.randn(rules, order, size, size) / np.sqrt(order * size)
    drive = state.randn(rules, size, size) / np.sqrt(size)
    decoder = state.randn(size, 1) if decode else None
    target = []
    for row, rules_of_row in zip(inputs, rule, strict=True):
        states = [np.zeros(size)] * order
        for x, c in zip(row, rules_of_row, strict=True):
            new = x @ drive[c]
            for lag in range(1, order + 1):
                new = new + states[-lag] @ transition[c, lag - 1]
            states.append(new)
        target.append(states[order:])
    result: Any = np.array(target)
    return result @ decoder if decoder is not None else result


def by_hand(spec: DataSpec, inputs: Any, rule: Any, seed: int) -> Any:
    """Return the target of one task's samples, by the equations."""
    if spec.task == "sets":
        value = sets_by_hand(inputs, rule, seed, spec.rules, spec.search)
    elif spec.task == "series":
        decode = spec.objective == "classification"
        value = series_by_hand(inputs, rule, seed, spec.rules, spec.order, decode=decode)
    elif spec.operation == "named":
        value = named_by_hand(inputs, rule)
    else:
        value = binary_by_hand(inputs, rule, seed, spec.rules)
    return value >= 0 if spec.objective == "classification" else value


# --- rule parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 4, 2**32 - 1])
@pytest.mark.parametrize("spec", [DataSpec(rules=8), DataSpec(task="sets", rules=8)])
def test_coefficients_are_the_numbers_of_the_reference(seed, spec):
    state = np.random.RandomState(seed)
    alpha, beta = state.randn(8), state.randn(8)
    parameters = task_parameters(spec, seed)
    assert list(parameters) == ["alpha", "beta"]
    assert parameters["alpha"].numpy().tobytes() == alpha.tobytes()
    assert parameters["beta"].numpy().tobytes() == beta.tobytes()


@pytest.mark.parametrize("seed", [0, 1, 4])
@objectives
def test_dynamics_are_the_numbers_of_the_reference(seed, objective):
    spec = DataSpec(task="series", objective=objective, rules=3, dimension=5, order=2)
    state = np.random.RandomState(seed)
    expected = {
        "transition": state.randn(3, 2, 5, 5) / np.sqrt(10),
        "drive": state.randn(3, 5, 5) / np.sqrt(5),
    }
    if objective == "classification":
        expected["decoder"] = state.randn(5, 1)
    parameters = task_parameters(spec, seed)
    assert list(parameters) == list(expected)
    for name, value in expected.items():
        assert parameters[name].numpy().tobytes() == value.tobytes()


def test_the_first_coefficients_of_seed_0_are_known_by_heart():
    alpha = task_parameters(DataSpec(rules=4), 0)["alpha"]
    known = [1.764052345967664, 0.4001572083672233, 0.9787379841057392, 2.240893199201458]
    assert alpha.tolist() == known


def test_named_operations_have_no_parameters():
    spec = FAMILIES["named"]
    assert task_parameters(spec, 0) == {}
    tasks = stack_tasks(spec, TASK_SEEDS)
    assert isinstance(tasks, Coefficients)
    assert tasks.alpha.shape == (3, 0)


def test_a_task_seed_may_stand_more_than_once():
    tasks = stack_tasks(DataSpec(rules=3), [5, 6, 5])
    assert isinstance(tasks, Coefficients)
    assert torch.equal(tasks.alpha[0], tasks.alpha[2])
    assert not torch.equal(tasks.alpha[0], tasks.alpha[1])


def test_dynamics_are_stacked_over_each_other():
    spec = DataSpec(task="series", objective="classification", rules=2, dimension=3, order=2)
    tasks = stack_tasks(spec, [1, 2], dtype=torch.float64)
    assert isinstance(tasks, Dynamics)
    assert tasks.weights.shape == (2, 2, 9, 3)
    parameters = task_parameters(spec, 2)
    assert torch.equal(tasks.weights[1, :, 3:6], parameters["transition"][:, 1])
    assert torch.equal(tasks.weights[1, :, 6:], parameters["drive"])
    assert torch.equal(tasks.decoder[1], parameters["decoder"])


# --- the equations -------------------------------------------------------------------------------


@families
@objectives
def test_targets_follow_the_equations(family, objective):
    spec = dataclasses.replace(family, objective=objective)
    batch = sample(spec, dtype=torch.float64)
    for member, seed in enumerate(TASK_SEEDS):
        expected = by_hand(spec, batch.inputs[member].numpy(), batch.rule[member].numpy(), seed)
        np.testing.assert_allclose(batch.target[member].numpy(), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    rules=st.integers(1, 6),
    length=st.integers(2, 7),
    samples=st.integers(1, 9),
    search=st.sampled_from(["nearest", "product"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_set_of_any_size_follows_the_equations(rules, length, samples, search, seed):
    spec = DataSpec(task="sets", rules=rules, length=length, search=search)
    batch = sample(spec, [seed], samples=samples, dtype=torch.float64)
    expected = by_hand(spec, batch.inputs[0].numpy(), batch.rule[0].numpy(), seed)
    np.testing.assert_allclose(batch.target[0].numpy(), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    rules=st.integers(1, 6),
    length=st.integers(1, 7),
    samples=st.integers(1, 9),
    dimension=st.integers(1, 5),
    order=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_series_of_any_size_follows_the_equations(**sizes):
    seed, samples = sizes.pop("seed"), sizes.pop("samples")
    spec = DataSpec(task="series", **sizes)
    batch = sample(spec, [seed], samples=samples, dtype=torch.float64)
    expected = by_hand(spec, batch.inputs[0].numpy(), batch.rule[0].numpy(), seed)
    np.testing.assert_allclose(batch.target[0].numpy(), expected, atol=1e-10)


@families
@objectives
def test_shapes_and_types_are_those_of_the_spec(family, objective):
    spec = dataclasses.replace(family, objective=objective)
    batch = sample(spec, samples=10)
    positions = (spec.length,) if spec.sequence else ()
    assert batch.inputs.shape == (3, 10, *positions, spec.features)
    assert batch.rule.shape == (3, 10, *positions)
    assert batch.target.shape == (3, 10, *positions, spec.outputs)
    assert batch.inputs.dtype == batch.target.dtype == torch.float32
    assert batch.rule.dtype == torch.int64
    if objective == "classification":
        assert set(batch.target.flatten().tolist()) == {0.0, 1.0}


def test_the_keys_of_a_product_search_are_unit_vectors_in_all_directions():
    spec = DataSpec(task="sets", search="product", rules=3)
    batch = sample(spec, samples=200)
    by_rule = batch.inputs.view(3, 200, 10, 3, 6)
    for key in (by_rule[..., 0:2], by_rule[..., 2:4]):
        assert torch.allclose(key.norm(dim=-1), torch.ones(1))
        assert key.mean().abs() < 0.02
        assert (key[..., 0] * key[..., 1]).mean().abs() < 0.02
    assert not torch.equal(by_rule[..., 0:2], by_rule[..., 2:4])
    assert by_rule[..., 4:].std() == pytest.approx(1, abs=0.02)


def test_work_in_parts_gives_what_work_at_once_gives(monkeypatch):
    spec = DataSpec(task="sets", rules=3, length=5)
    whole = sample(spec, samples=101)
    monkeypatch.setattr("modeval.data.sets.PAIRS", 200)
    assert torch.equal(sample(spec, samples=101).target, whole.target)


@pytest.mark.parametrize("order", [1, 2])
def test_gathered_and_grouped_series_are_the_same(order, monkeypatch):
    spec = DataSpec(task="series", rules=5, dimension=6, order=order, length=7)
    batch = sample(spec, samples=40)
    tasks = stack_tasks(spec, TASK_SEEDS)
    assert isinstance(tasks, Dynamics)
    monkeypatch.setattr(series_module, "ROWS", 33)
    gathered = series_module.follow_gathered(tasks.weights, batch.inputs, batch.rule)
    assert torch.allclose(gathered, batch.target, rtol=1e-5, atol=1e-5)


# --- the laws of a cohort ------------------------------------------------------------------------


@families
@objectives
def test_a_seed_draws_alone_what_it_draws_in_a_cohort(family, objective):
    spec = dataclasses.replace(family, objective=objective)
    together = sample(spec, samples=50)
    for member, seed in enumerate(TASK_SEEDS):
        alone = sample(spec, [seed], samples=50)
        assert torch.equal(alone.inputs[0], together.inputs[member])
        assert torch.equal(alone.rule[0], together.rule[member])
        assert torch.equal(alone.target[0], together.target[member])


@families
def test_removing_a_seed_changes_nothing_for_the_others(family):
    with_all = sample(family, (3, 1, 2))
    without = sample(family, (3, 2))
    assert torch.equal(with_all.inputs[[0, 2]], without.inputs)
    assert torch.equal(with_all.target[[0, 2]], without.target)


@families
def test_the_same_generators_give_the_same_batch_and_go_on_from_there(family):
    tasks = stack_tasks(family, [0])
    source = generators(0)
    first = draw(family, tasks, source, samples=32)
    second = draw(family, tasks, source, samples=32)
    again = draw(family, tasks, generators(0), samples=32)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.rule, again.rule)
    assert not torch.equal(first.inputs, second.inputs)


# --- distributions and shifts --------------------------------------------------------------------


def test_rules_are_drawn_evenly_and_inputs_are_standard_normal():
    batch = sample(DataSpec(rules=4), samples=20_000)
    shares = torch.stack([(batch.rule == r).double().mean(1) for r in range(4)])
    assert (shares - 0.25).abs().max() < 0.015
    assert batch.inputs.mean().abs() < 0.02
    assert batch.inputs.std() == pytest.approx(1, abs=0.02)
    assert torch.corrcoef(batch.inputs.flatten(0, 1).T)[0, 1].abs() < 0.02


def test_each_position_has_a_rule_of_its_own():
    rule = sample(DataSpec(task="series", rules=2, dimension=2), samples=1_000).rule
    same = (rule[..., 1:] == rule[..., :-1]).double().mean()
    assert same == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "spec", [DataSpec(rules=4), DataSpec(task="sets", rules=4, length=3)], ids=["binary", "sets"]
)
def test_rules_follow_the_shares_of_the_spec(spec):
    shares = (0.7, 0.0, 0.25, 0.05)
    rule = sample(dataclasses.replace(spec, rule_probabilities=shares), samples=10_000).rule
    for number, share in enumerate(shares):
        assert (rule == number).double().mean() == pytest.approx(share, abs=0.02 * (share > 0))


@pytest.mark.parametrize("shares", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_a_rule_without_a_share_is_never_drawn(shares):
    rule = sample(DataSpec(rules=3, rule_probabilities=shares), samples=1_000).rule
    assert (rule == shares.index(1)).all()


def test_shares_given_to_the_draw_override_those_of_the_spec():
    spec = DataSpec(rules=2, rule_probabilities=(1.0, 0.0))
    rule = sample(spec, rule_probabilities=torch.tensor([0.0, 1.0])).rule
    assert (rule == 1).all()


def test_several_distributions_share_out_the_samples_in_equal_parts():
    shares = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0.5, 0.5]])
    spec = DataSpec(task="sets", rules=3, length=4)
    rule = sample(spec, samples=3_000, rule_probabilities=shares).rule
    first, second, third = torch.split(rule, 1_000, dim=1)
    assert (first == 0).all()
    assert (second == 1).all()
    assert (third == 2).double().mean() == pytest.approx(0.5, abs=0.03)


def test_shares_that_do_not_fit_are_refused():
    with pytest.raises(SpecError, match="one share for each rule"):
        sample(DataSpec(rules=3), rule_probabilities=torch.ones(2) / 2)
    with pytest.raises(SpecError, match="do not divide into 7 parts"):
        sample(DataSpec(rules=3), samples=64, rule_probabilities=torch.ones(7, 3) / 3)


@families
def test_scale_multiplies_the_inputs_and_the_equations_see_the_result(family):
    plain = sample(family, dtype=torch.float64)
    scaled = dataclasses.replace(family, scale=2.0)
    shifted = sample(scaled, dtype=torch.float64)
    assert torch.equal(shifted.inputs, 2 * plain.inputs)
    assert torch.equal(shifted.rule, plain.rule)
    expected = by_hand(scaled, shifted.inputs[1].numpy(), shifted.rule[1].numpy(), 7)
    np.testing.assert_allclose(shifted.target[1].numpy(), expected, atol=1e-12)
    if family.operation == "linear":  # all but the named operations are linear in the values
        assert torch.allclose(shifted.target, 2 * plain.target)


@pytest.mark.parametrize("task", ["sets", "series"])
def test_other_lengths_are_drawn_with_the_same_tasks(task):
    spec = from_dict(DataSpec, without_unread(DataSpec, {"task": task, "rules": 2, "dimension": 3}))
    tasks = stack_tasks(spec, [0])
    for length in (3, 30):
        longer = dataclasses.replace(spec, length=length)
        batch = draw(longer, tasks, generators(0), samples=8)
        assert batch.target.shape == (1, 8, length, spec.outputs)
        expected = by_hand(longer, batch.inputs[0].numpy(), batch.rule[0].numpy(), 0)
        np.testing.assert_allclose(batch.target[0].numpy(), expected, rtol=1e-3, atol=1e-4)
