"""How sure a number of one set of documents is: corrected values, and intervals that cover."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import World, shares_of

from modeval.counting.units import Units, document_units
from modeval.metrics.measuring import measure
from modeval.metrics.table import METRICS
from modeval.score.inference.documents import (
    LEAST_DOCUMENTS,
    LeaveOneOut,
    effective_documents,
    estimate,
    leave_one_out,
)
from modeval.types import RoutingCounts

NAMES = (
    "mutual_information",
    "completeness",
    "alignment_score",
    "effective_share",
    "load_cv",
    "collapse_worst",
    "imbalance_ratio",
    "dead_fraction",
)
WIDE = (-1e9, 1e9)


def measured(counts: RoutingCounts) -> Mapping[str, Tensor]:
    return measure(counts, NAMES)


def estimates_of(units: Units) -> dict[str, LeaveOneOut]:
    return leave_one_out(units, measured)


@pytest.mark.parametrize(
    "world",
    [
        World(lengths="equal"),
        World(told=0.3),
        World(told=0.9, shares=shares_of("7:1:1:1"), documents=300),
        World(modules=32, told=0.3),
    ],
    ids=["blind", "told", "strong and rare", "many modules"],
)
def test_intervals_hold_the_true_value_as_often_as_they_say(world: World) -> None:
    activation = world.activation(3)
    truth = {name: float(METRICS[name].function(activation / world.rules)) for name in NAMES}
    draw, repeats = np.random.default_rng(7), 40
    held = dict.fromkeys(NAMES, 0)
    given, told = 0, []
    for _ in range(repeats):
        found = estimates_of(world.draw(draw, activation))
        for name in NAMES:
            result = estimate(found[name], WIDE)
            if result.low is None or result.high is None:
                assert result.reason
                held[name] += 1  # no interval, no promise
                continue
            given += 1
            held[name] += result.low <= truth[name] + 1e-9 and truth[name] <= result.high + 1e-9
            if name == "mutual_information":
                told.append((result.value, result.plugin))
    assert given > 0.5 * repeats * len(NAMES)
    value, plugin = np.mean(told, axis=0) - truth["mutual_information"]
    assert abs(value) < 0.6 * abs(plugin)  # the bias that is left
    assert min(held.values()) >= 33  # 1 in 10,000 at a coverage of .95
    assert sum(held.values()) >= 0.92 * repeats * len(NAMES)


def test_without_a_document_is_what_counting_without_it_gives() -> None:
    draw = np.random.default_rng(0)
    units = World(documents=24).draw(draw, World().activation())
    found = estimates_of(units)["mutual_information"]
    for place in (0, 7, 23):
        kept = torch.tensor([number for number in range(24) if number != place])
        rest = document_units(units.mass[kept], units.label[kept], rules=4)
        expected = measure(rest.counts(), ["mutual_information"])["mutual_information"]
        torch.testing.assert_close(found.left[place], expected)


def test_a_giant_document_counts_as_one() -> None:
    table = torch.ones(60, 3).double() * 40
    table[5] *= 10_000
    units = document_units(table, torch.arange(60) % 3)
    worth = effective_documents(units)
    assert worth[0].item() == pytest.approx(20)
    assert worth[2].item() < 1.1 < LEAST_DOCUMENTS
    found = leave_one_out(units, lambda counts: measure(counts, ["mutual_information"]))
    assert "too few documents" in estimate(found["mutual_information"], WIDE).reason


def test_one_document_of_a_label_and_equal_documents_have_no_interval() -> None:
    alone = document_units(torch.rand(5, 3), torch.tensor([0, 0, 0, 0, 1]))
    found = estimate(estimates_of(alone)["mutual_information"], WIDE)
    assert found.low is None
    assert "too few documents" in found.reason
    alike = document_units(torch.ones(12, 3), torch.arange(12) % 2)
    found = estimate(estimates_of(alike)["mutual_information"], WIDE)
    assert found.low is None
    assert "the same without any" in found.reason


def test_the_mean_over_layers_and_one_of_them_come_from_one_measurement() -> None:
    world = World(told=0.3, documents=80, lengths="equal")
    draw = np.random.default_rng(3)
    one, two = (world.draw(draw, world.activation(seed)) for seed in (0, 1))
    both = document_units(torch.stack([one.mass, two.mass]), one.label, rules=4)
    found = estimates_of(both)
    single = estimates_of(one)
    for name in NAMES:
        left = estimate(found[name].over(lambda values: values[..., 0]), WIDE)
        alone = estimate(single[name], WIDE)
        assert left.value == pytest.approx(alone.value)
        assert left.low == pytest.approx(alone.low)
    mean = estimate(found["load_cv"].over(lambda values: values.mean(-1)), WIDE)
    assert mean.error is not None
    assert mean.error < alone.error if alone.error else True
    assert mean.error < (estimate(single["load_cv"], WIDE).error or 0)


def test_bounds_cut_intervals_but_never_leave_the_value_out() -> None:
    world = World(documents=60, lengths="equal")
    found = estimates_of(world.draw(np.random.default_rng(0), world.activation()))
    result = estimate(found["mutual_information"], (0.0, 1.0))
    assert result.low is not None
    assert result.high is not None
    assert 0 <= result.low <= result.value <= result.high
    assert result.plugin > result.value
