"""Claims of nothing, of specialists, and of several things at once."""

import numpy as np
import pytest
import torch
from worlds import World

from modeval.counting.units import document_units
from modeval.score.inference.equivalence import equivalence
from modeval.score.inference.estimate import Estimate
from modeval.score.inference.lifts import lifts, lifts_of_counts
from modeval.score.inference.multiple import every, false_discovery, holm


def test_nothing_is_said_only_when_more_than_the_margin_is_ruled_out() -> None:
    sure = Estimate(value=0.001, plugin=0.004, error=0.002, freedom=30.0)
    vague = Estimate(value=0.001, plugin=0.004, error=0.05, freedom=30.0)
    assert equivalence(sure, 0.02, p_something=0.5).answer == "nothing"
    found = equivalence(vague, 0.02, p_something=0.5)
    assert found.answer == "unproven"
    assert "may still be" in found.reason
    assert equivalence(sure, 0.02, p_something=0.001).answer == "something"


def test_without_an_error_nothing_is_proven_and_the_reason_is_passed_on() -> None:
    unknown = Estimate(value=0.0, plugin=0.0, reason="nothing is known of documents")
    found = equivalence(unknown, 0.02, p_something=None)
    assert found.answer == "unproven"
    assert found.reason == "nothing is known of documents"


def test_one_specialist_among_many_labels_is_named_and_blind_routing_names_none() -> None:
    blind = World(rules=16, modules=8, documents=480, lengths="equal", tokens=60)
    rows = blind.activation()
    draw, named = np.random.default_rng(0), 0
    for _ in range(10):
        named += int(lifts(blind.draw(draw, rows)).named().any())
    assert named <= 3
    rows = rows.clone()
    rows[3] = 0.02
    rows[3, 5] = 1 - 0.02 * 7
    found = lifts(blind.draw(draw, rows))
    assert found.tested
    assert found.named()[3, 5]
    assert (found.named().nonzero()[:, 0] == 3).all()
    assert 1 < found.low[3, 5] < found.lift[3, 5]


def test_lifts_of_counts_alone_are_told_and_untested() -> None:
    share = torch.full((5, 64), 1 / 64, dtype=torch.float64)
    share[1] = 0.0234 / 63
    share[1, 0] = 0.9766
    found = lifts_of_counts(share, torch.full((5,), 208_896.0, dtype=torch.float64))
    assert found.lift[1, 0] == pytest.approx(0.9766 * 64)
    assert not found.tested
    assert not found.named().any()
    assert "untested" in found.reason


def test_a_module_that_other_labels_never_use_has_a_finite_lift() -> None:
    found = lifts(document_units(torch.eye(2).repeat(20, 1) * 50, torch.arange(40) % 2))
    assert torch.isfinite(found.lift).all()
    assert torch.isfinite(found.low).all()
    assert torch.isfinite(found.p_value).all()


def test_several_claims_at_once() -> None:
    p = torch.tensor([0.001, 0.01, 0.02, 0.5], dtype=torch.float64)
    assert holm(p).tolist() == pytest.approx([0.004, 0.03, 0.04, 0.5])
    assert false_discovery(p).tolist() == pytest.approx([0.004, 0.02, 0.08 / 3, 0.5])
    assert every(p).item() == 0.5
