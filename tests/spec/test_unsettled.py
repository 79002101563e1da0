"""Soft routing that training shakes: noise, dropout and temperature, and nothing at evaluation."""

import pytest
import torch

from modeval.errors import SpecError
from modeval.spec.gatings import anneals
from modeval.spec.unsettled import Unsettled
from modeval.types import Noise

LOGITS = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))


def noise(progress: float, modules: int = 4) -> Noise:
    generator = torch.Generator().manual_seed(1)
    return Noise(torch.rand(2, 50, 2 * modules, generator=generator), torch.tensor(progress))


def test_at_evaluation_it_is_softmax_at_the_last_temperature() -> None:
    gating = Unsettled(jitter=0.5, dropout=0.5, start=8.0, temperature=2.0)
    torch.testing.assert_close(gating(LOGITS), (LOGITS / 2).softmax(-1))


def test_temperature_falls_by_the_same_factor() -> None:
    gating = Unsettled(jitter=0, start=8.0, temperature=2.0)
    for progress, warm in ((0.0, 8.0), (0.5, 4.0), (1.0, 2.0)):
        torch.testing.assert_close(gating(LOGITS, noise(progress)), (LOGITS / warm).softmax(-1))
    assert anneals(gating)
    assert not anneals(Unsettled())


def test_jitter_scales_each_logit_within_its_share() -> None:
    weight = Unsettled(jitter=0.2)(LOGITS, noise(0.0))
    ratio = (weight.log() - weight.log()[..., :1]) / (LOGITS - LOGITS[..., :1])
    assert not torch.allclose(weight, LOGITS.softmax(-1))
    assert bool(ratio[..., 1:].isfinite().all())


def test_dropout_leaves_out_its_share_and_never_all() -> None:
    weight = Unsettled(jitter=0, dropout=0.6)(LOGITS, noise(0.0))
    gone = (weight == 0).float()
    assert float(gone.mean()) == pytest.approx(0.6, abs=0.06)
    torch.testing.assert_close(weight.sum(-1), torch.ones(2, 50))


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(SpecError, match="dropout = 1"):
        Unsettled(dropout=1.0)
