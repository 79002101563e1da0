"""Measuring: all static metrics of folded routing at once."""

import dataclasses

import pytest
import torch

from modeval.counting.count import count
from modeval.errors import TraceError
from modeval.metrics import STATIC_METRICS, measure


@pytest.fixture
def counts():
    return count(torch.tensor([0, 1]), torch.eye(2), rules=2)


def test_what_was_asked_for_is_measured_and_nothing_else(counts):
    assert tuple(measure(counts)) == STATIC_METRICS
    assert tuple(measure(counts, ["imbalance", "collapse_avg"])) == ("imbalance", "collapse_avg")


def test_counts_without_single_samples_are_measured_but_for_softness(counts):
    sums = dataclasses.replace(counts, entropy=torch.full_like(counts.entropy, torch.nan))
    assert measure(sums, ["rule_specialization"])["rule_specialization"].isfinite().all()
    with pytest.raises(TraceError, match="only sums were recorded"):
        measure(sums, ["softness"])


def test_measuring_an_unknown_metric_is_refused(counts):
    with pytest.raises(TraceError, match="is not a metric"):
        measure(counts, ["colapse"])
    with pytest.raises(TraceError, match="needs more than folded counts"):
        measure(counts, ["saturation"])
