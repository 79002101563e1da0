"""Sets, p values, safe shares and foresight: laws, and simulations of what they promise."""

import json

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from modeval.ablate.result import Contribution, check_shares, kept_of
from modeval.ablate.sets import ModuleSet, best_of, plan_sets, random_sets, removed_alone
from modeval.ablate.statistics import (
    Measured,
    at_most,
    change_of,
    foresight,
    kept_by_scores,
    random_of,
    safe_shares,
)
from modeval.errors import DataError
from modeval.score.ablation import Change, Kept

MODULES = [8, 8]


def layers(draw: np.random.Generator) -> list[Contribution]:
    """Return layers whose scores are noise: they know nothing of what modules are worth."""
    return [
        Contribution(
            f"layer {number}",
            2,
            *(draw.exponential(size=(2, count)) for _ in range(4)),
        )
        for number, count in enumerate(MODULES)
    ]


def cost(one: ModuleSet, worth: list[np.ndarray]) -> float:
    """Return a loss that is no sum: what is kept helps less the more of it there is."""
    return -sum(
        float(np.sqrt(layer[list(kept)].sum())) for layer, kept in zip(worth, one.kept, strict=True)
    )


def test_p_values_are_uniform_for_a_score_that_knows_nothing() -> None:
    """On 21 ranks: a chi-square test of all, and no more than 5 % at or below 1/20."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(1000):
        worth = [draw.lognormal(size=count) for count in MODULES]
        sets = plan_sets(
            layers(draw), shares=[0.5], by=["routed"], random=20, alone=False, seed=number
        )
        losses = [cost(one, worth) for one in sets]
        found.append(at_most(losses[0], losses[1:]))
    ranks = np.rint(np.array(found) * 21).astype(int)
    assert chisquare(np.bincount(ranks, minlength=22)[1:]).pvalue > 0.01
    assert 0.03 < (np.array(found) <= 0.05).mean() < 0.07


def test_a_score_that_knows_all_beats_chance_and_one_that_knows_the_opposite_does_not() -> None:
    worth = [np.arange(8.0), np.arange(8.0)[::-1]]
    tables = [layer[np.newaxis] for layer in worth]
    for sign, expected in ((1, 1 / 21), (-1, 1.0)):
        right = [Contribution("x", 1, sign * t, sign * t, sign * t, sign * t) for t in tables]
        sets = plan_sets(right, shares=[0.5], by=["weight"], random=20, alone=False, seed=1)
        losses = [cost(one, worth) for one in sets]
        assert at_most(losses[0], losses[1:]) == pytest.approx(expected)


def test_every_module_is_kept_as_often_as_another_by_chance() -> None:
    sets = random_sets([6], [2], 1 / 3, 3000, seed=5)
    times = np.bincount([module for one in sets for module in one.kept[0]], minlength=6)
    assert chisquare(times).pvalue > 0.01
    assert {len(set(one.kept[0])) for one in sets} == {2}
    assert sets == random_sets([6], [2], 1 / 3, 3000, seed=5)


def test_intervals_of_a_change_hold_it_as_often_as_they_say() -> None:
    """Documents of unequal lengths, whose losses change by a skewed amount each."""
    draw = np.random.default_rng(1)
    held = []
    for _ in range(1500):
        tokens = draw.integers(20, 200, size=40).astype(float)
        added = tokens * (0.1 + draw.exponential(0.1, size=40) - 0.1)
        change = change_of(added, tokens)
        assert change.low is not None
        assert change.high is not None
        held.append(change.low <= 0.1 <= change.high)
    assert 0.91 < np.mean(held) < 0.975


def test_one_document_has_no_interval_and_equal_losses_have_none_to_fear() -> None:
    assert change_of(np.array([3.0]), np.array([10.0])) == Change(0.3, None, None)
    same = change_of(np.array([1.0, 2.0]), np.array([10.0, 20.0]))
    assert same.low == pytest.approx(0.1)
    assert same.high == pytest.approx(0.1)


def test_what_is_shared_by_all_sets_is_no_error_of_a_change() -> None:
    """Documents are very different, and a set adds the same to each: the interval is narrow."""
    draw = np.random.default_rng(2)
    base, tokens = draw.normal(300, 200, size=60), np.full(60, 100.0)
    measured = Measured(base, tokens, np.repeat([0, 1], 30), 2)
    change, (first, second) = measured.change(base + 5)
    assert change.value == first.value == second.value == pytest.approx(0.05)
    assert change.high == pytest.approx(0.05)
    whole, _ = measured.whole()
    assert whole.high is not None
    assert whole.high - whole.value > 0.3


def kept(score: str, share: float, *changes: tuple[float, float]) -> Kept:
    by_label = tuple(Change(value, 2 * value - high, high) for value, high in changes)
    return Kept(
        score=score,
        share=share,
        kept=((0,),),
        change=by_label[0],
        by_label=by_label,
        p=1.0,
        p_by_label=(1.0,) * len(by_label),
    )


def test_the_safe_share_is_bounded_by_the_worst_label_and_by_every_larger_share() -> None:
    levels = [
        kept("reap", 0.75, (0.001, 0.005), (0.01, 0.03)),
        kept("reap", 0.5, (0.001, 0.01), (0.015, 0.019)),
        kept("reap", 0.25, (0.5, 0.6), (0.0, 0.01)),
        kept("routed", 0.75, (0.03, 0.04), (0.0, 0.0)),
        kept("routed", 0.5, (0.0, 0.0), (0.0, 0.0)),
    ]
    reap, routed = safe_shares(levels, 0.02)
    assert (reap.measured, reap.sure) == (0.5, 1.0)
    assert (routed.measured, routed.sure) == (1.0, 1.0)


def test_foresight_is_one_for_the_truth_and_uniform_for_noise() -> None:
    worth = [np.arange(1.0, 9.0), np.arange(8.0, 0.0, -1)]

    def told(tables: list[np.ndarray], seed: int) -> list[tuple[float, float]]:
        found = [Contribution("x", 1, t[None], t[None], t[None], t[None]) for t in tables]
        sets = plan_sets(found, shares=[0.5], by=["routed"], random=20, alone=True, seed=seed)
        losses = [
            sum(float(w.sum() - w[list(k)].sum()) for w, k in zip(worth, one.kept, strict=True))
            for one in sets
        ]
        changes = [(Change(loss, None, None), ()) for loss in losses]
        return [(f.correlation, f.p) for f in foresight(sets, changes, found, ["routed"], seed=0)]

    for value, p in told(worth, 0):
        assert value == pytest.approx(1.0)
        assert p == pytest.approx(0.001)
    draw = np.random.default_rng(3)
    noise = [told([draw.exponential(size=8) for _ in worth], seed) for seed in range(150)]
    for number in range(2):
        assert kstest([each[number][1] for each in noise], "uniform").pvalue > 0.01


def test_shares_that_leave_too_few_modules_are_refused() -> None:
    check_shares((0.75, 0.25), (8, 16), 2)
    for share, message in ((0.2, "keeps 2 of 8"), (1.0, "between 0 and 1"), (0.0, "between")):
        with pytest.raises(DataError, match=message):
            check_shares((share,), (8, 16), 3)


def test_sets_are_known_by_their_modules_and_shares_round_up() -> None:
    one, other = ModuleSet("reap", 0.5, ((2, 1),)), ModuleSet("random", 0.25, ((1, 2),))
    assert one.key("zero") == other.key("zero") != one.key("swap")
    assert json.loads(json.dumps(one.key("zero"))) == one.key("zero")
    assert [kept_of(share, 8) for share in (0.875, 0.76, 0.1)] == [7, 7, 1]
    assert best_of(np.zeros(4), 2) == (0, 1)
    sets = plan_sets(
        layers(np.random.default_rng(0)), shares=[], by=[], random=20, alone=True, seed=0
    )
    assert [removed_alone(each, MODULES) for each in sets][:9][-1] == (1, 0)


def test_kept_sets_stand_beside_random_ones_of_their_size() -> None:
    sets = [
        ModuleSet("reap", 0.5, ((0, 1),)),
        *(ModuleSet("random", 0.5, ((1, 2),)) for _ in range(20)),
    ]
    changes = [
        (Change(value, None, None), (Change(-value, None, None),))
        for value in np.arange(21.0).tolist()
    ]
    random = random_of(sets, changes)
    (found,) = kept_by_scores(sets, changes, random)
    assert random[0].kept == (2,)
    assert found.p == pytest.approx(1 / 21)
    assert found.p_by_label == (1.0,)
