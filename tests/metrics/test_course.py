"""Scores over time agree with formulas that were written independently, in every convention."""

import math

import pytest
import torch

from modeval.metrics import course as metrics
from modeval.metrics.course import Course


def sequential(rules: int, seed: int) -> Course:
    """Return losses of rules that came one after another, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    loss = torch.rand(3, rules + 1, rules, dtype=torch.float64, generator=generator)
    return Course(loss, torch.eye(rules, dtype=torch.bool))


@pytest.mark.parametrize("rules", [2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_transfer_and_forgetting_are_those_of_lopez_paz_chaudhry_and_the_libraries(
    rules: int, seed: int
) -> None:
    course = sequential(rules, seed)
    for member in range(3):
        # accuracies, as the sources have them: R[i][j] after task i on task j, b at the start
        accuracy = [[-v for v in row] for row in course.loss[member, 1:].tolist()]
        start = [-v for v in course.loss[member, 0].tolist()]
        last = rules - 1
        bwt = sum(accuracy[last][i] - accuracy[i][i] for i in range(last)) / last
        fwt = sum(accuracy[i - 1][i] - start[i] for i in range(1, rules)) / last
        chaudhry = [
            max(accuracy[p][i] for p in range(i, last)) - accuracy[last][i] for i in range(last)
        ]
        avalanche = [accuracy[i][i] - accuracy[last][i] for i in range(last)]
        mammoth = [max(row[i] for row in accuracy) - accuracy[last][i] for i in range(last)]
        expected = {
            metrics.backward_transfer(course): bwt,
            metrics.forward_transfer(course): fwt,
            metrics.average_loss(course): -sum(accuracy[last]) / rules,
            metrics.forgetting(course): sum(chaudhry) / last,
            metrics.forgetting(course, convention="since-learned"): sum(avalanche) / last,
            metrics.forgetting(course, convention="ever"): sum(mammoth) / last,
        }
        for value, wanted in expected.items():
            assert float(value[member]) == pytest.approx(wanted)
        assert min(mammoth) >= 0


def test_interference_adds_up_to_what_was_lost_since_rules_were_learned() -> None:
    course = sequential(4, 0)
    changes = metrics.interference_matrix(course)
    assert torch.allclose(changes.cumsum(-2)[:, -1], course.loss[:, -1] - course.loss[:, 0])
    after = torch.stack([changes[:, rule + 1 :, rule].sum(-1) for rule in range(3)], -1)
    lost = metrics.forgetting(course, convention="since-learned")
    assert torch.allclose(after.mean(-1), lost)
    steps = sum(3 - rule for rule in range(3))
    assert torch.allclose(metrics.interference(course) * steps, after.sum(-1))


def test_a_rule_that_two_phases_in_a_row_draw_is_learned_after_the_second() -> None:
    drawn = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]]).bool()
    course = Course(torch.zeros(5, 3, dtype=torch.float64), drawn)
    assert course.met == [1, 3, 0]
    assert course.learned == [2, 3, 0]


def test_what_has_no_meaning_is_not_a_number() -> None:
    joint = Course(torch.ones(3, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.bool))
    for name in ("backward_transfer", "forward_transfer", "forgetting", "interference"):
        assert math.isnan(getattr(metrics, name)(joint))
    assert float(metrics.average_loss(joint)) == 1


def test_the_threshold_is_reached_at_the_end_at_the_latest() -> None:
    loss = torch.tensor([[8.0, 4.0, 2.0], [1.0, 1.0, 1.0], [5.0, 4.0, math.nan]]).double()
    found = metrics.steps_to_threshold(torch.tensor([10, 20, 30]), loss)
    assert found[:2].tolist() == [20, 10]
    assert math.isnan(found[2])
