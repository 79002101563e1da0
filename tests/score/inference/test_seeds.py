"""Means over seeds and their differences: tasks are random, seeds are nested in them."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from modeval.score.inference.seeds import seed_contrast, seed_difference, seed_mean

DESIGNS = [(1, 3), (1, 5), (1, 10), (5, 5), (5, 2), (10, 3), (3, 3)]


def drawn(kind: str, draw: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    if kind == "normal":
        return draw.standard_normal(shape)
    if kind == "exponential":
        return draw.exponential(size=shape) - 1
    return np.asarray(draw.random(shape) < 0.8, dtype=np.float64) - 0.8


@pytest.mark.parametrize("kind", ["normal", "exponential", "two values"])
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: f"{design[0]}x{design[1]}")
@pytest.mark.parametrize("effect", [0.0, 1.0, 5.0])
def test_the_interval_of_a_mean_holds_the_true_mean(
    kind: str, design: tuple[int, int], effect: float
) -> None:
    tasks, seeds = design
    if tasks == 1 and effect:
        pytest.skip("one task has an effect of its own, which nothing tells")
    if kind == "two values" and effect > 1:
        pytest.skip("a rare kind of task that was not drawn cannot be known: .8^5 = .33 of five")
    draw, repeats = np.random.default_rng(11), 300
    task = [number for number in range(tasks) for _ in range(seeds)]
    held, given = 0, 0
    for _ in range(repeats):
        own = effect * drawn(kind, draw, tasks, 1) + drawn(kind, draw, tasks, seeds)
        found = seed_mean(own.flatten().tolist(), task)
        if found.low is None or found.high is None:
            assert "equal" in found.reason
            continue
        given += 1
        held += found.low <= 0 <= found.high
    assert given > 0.4 * repeats
    # .90 where exponential values are three or five
    assert held >= binom.ppf(0.001, given, 0.92)


def test_one_task_is_no_claim_about_others() -> None:
    assert seed_mean([0.1, 0.2, 0.4], [7, 7, 7]).scope == "one task"
    assert seed_mean([0.1, 0.2, 0.4], [7, 7, 8]).scope == "tasks"
    one = seed_mean([0.1], [7])
    assert (one.scope, one.low, one.reason) == ("one seed", None, "one seed says nothing of others")


def test_two_tasks_have_a_wide_interval_and_not_a_narrow_one() -> None:
    found = seed_mean([0.5] * 5 + [0.9] * 5, [0] * 5 + [1] * 5)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 4
    assert (found.tasks, found.seeds, found.freedom) == (2, 10, 1.0)


def test_equal_values_prove_nothing() -> None:
    found = seed_mean([0.5, 0.5, 0.5], [0, 1, 2])
    assert found.p_above(0.0) is None
    assert found.low is None
    assert "equal" in found.reason


@pytest.mark.parametrize("design", [(5, 5), (2, 5), (5, 1), (25, 1), (1, 5), (3, 3)])
@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_a_change_that_is_none_is_seldom_called_one(design: tuple[int, int], effect: float) -> None:
    tasks, seeds = design
    if tasks == 1 and effect:
        pytest.skip("what a change does to the one task is the change")
    draw, repeats = np.random.default_rng(5), 300
    task = [number for number in range(tasks) for _ in range(seeds)]
    alarms = 0
    for _ in range(repeats):
        shared = draw.standard_normal((tasks, 1))
        old = shared + draw.standard_normal((tasks, seeds))
        new = shared + draw.standard_normal((tasks, seeds))
        new += effect * draw.standard_normal((tasks, 1))
        found = seed_difference(new.flatten().tolist(), old.flatten().tolist(), task)
        p = found.p_above()
        alarms += p is not None and p <= 0.05
    assert alarms <= binom.ppf(0.999, repeats, 0.05)


@pytest.mark.parametrize("spread", [0.016, 0.05])
def test_a_drop_of_a_tenth_over_five_seeds_is_caught(spread: float) -> None:
    draw, repeats = np.random.default_rng(6), 200
    caught = 0
    for _ in range(repeats):
        old = 0.8 + 0.1 * draw.standard_normal(5)
        new = old - 0.1 + spread * draw.standard_normal(5)
        p = seed_difference(old.tolist(), new.tolist(), [0] * 5).p_above()
        caught += p is not None and p <= 0.05
    assert caught >= 0.9 * repeats


def test_sides_without_partners_are_compared_by_task_where_they_share_tasks() -> None:
    new = seed_contrast([1.0, 1.2, 2.0, 2.4], [0, 0, 1, 1], [0.5, 1.0, 2.0], [0, 1, 1])
    assert new.value == pytest.approx((1.1 - 0.5 + 2.2 - 1.5) / 2)
    assert new.tasks == 2
    apart = seed_contrast([1.0, 1.2, 0.9], [0, 0, 0], [0.5, 0.6], [0, 0])
    assert apart.value == pytest.approx(1.0333333 - 0.55, abs=1e-6)
    assert apart.freedom == 1.0
    assert seed_contrast([1.0, 1.2], [0, 0], [0.5], [0]).low is None


def test_what_all_seeds_share_widens_the_interval() -> None:
    values, tasks = [0.1, 0.2, 0.3, 0.25], [0, 1, 2, 3]
    plain, more = seed_mean(values, tasks), seed_mean(values, tasks, sampling_error=0.1)
    assert more.error is not None
    assert plain.error is not None
    assert more.error > plain.error
    assert more.freedom > plain.freedom


def test_the_order_of_seeds_does_not_matter() -> None:
    values, tasks = [0.1, 0.2, 0.35, 0.25], [0, 0, 1, 1]
    found = {
        round(seed_mean([values[i] for i in order], [tasks[i] for i in order]).low or 0, 12)
        for order in itertools.permutations(range(4))
    }
    assert len(found) == 1
