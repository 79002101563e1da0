"""Ties, unknowns, huge counts: numbering changes nothing, NaN stays NaN, nothing runs for ever."""

import itertools
import time

import pytest
import torch

from modeval.errors import TraceError
from modeval.metrics import expected
from modeval.metrics.adaptation import matched_adaptation_distance
from modeval.metrics.information import adjusted_mutual_information
from modeval.metrics.matching import match
from modeval.metrics.table import METRICS, STATIC_METRICS

OF_JOINT = [name for name in STATIC_METRICS if METRICS[name].needs == "joint"]


def tables() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    two_each = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1, 2]] / 5
    drawn = [
        torch.randint(0, 3, (rules, 4), generator=generator).double() + 1e-9
        for rules in (3, 4, 6)
        for _ in range(4)
    ]
    return [two_each, *(table / table.sum() for table in drawn)]


@pytest.mark.parametrize("joint", tables())
def test_numbering_the_modules_anew_changes_no_metric_where_matchings_tie(
    joint: torch.Tensor,
) -> None:
    orders = [list(order) for order in itertools.permutations(range(joint.shape[1]))]
    again = torch.stack([joint[:, order] for order in orders])
    found = matched_adaptation_distance(again)
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=1e-9, atol=1e-12)


def test_the_matching_is_in_numbers_of_the_modules_as_they_were_given() -> None:
    joint = torch.eye(4, dtype=torch.float64)[[2, 0, 3, 1]]
    assert match(joint)[0].tolist() == [2, 0, 3, 1]
    assert match(joint[:, :2])[0].tolist() == [-1, 0, -1, 1]


@pytest.mark.parametrize("name", OF_JOINT)
def test_what_is_unknown_is_neither_the_best_nor_the_worst_value(name: str) -> None:
    joint = torch.full((3, 4), 1 / 12, dtype=torch.float64)
    joint[1, 2] = torch.nan
    try:
        value = METRICS[name].function(joint)
    except TraceError as error:
        assert "not finite" in str(error)  # noqa: PT017 - either is right
    else:
        assert value.isnan()


def test_adjusted_information_of_huge_counts_takes_no_time_and_is_no_other() -> None:
    share = torch.rand(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = time.perf_counter()
    found = [
        adjusted_mutual_information((share * size).round()).item() for size in (1e6, 1e12, 1e15)
    ]
    assert time.perf_counter() - start < 10
    assert found == pytest.approx([found[0]] * 3, abs=1e-5)


def test_moments_of_a_cell_stand_for_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    share = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table = (share * 1e6).round()
    summed = expected.expected_information(table)
    monkeypatch.setattr(expected, "WIDEST", 100)
    torch.testing.assert_close(expected.expected_information(table), summed, rtol=1e-5, atol=0)
