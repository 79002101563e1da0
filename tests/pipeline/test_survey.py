"""The claims of the survey are measured; those that hold by construction hold to the bit."""

from pathlib import Path

import pytest
import torch

from modeval.pipeline.laboratory import Claim, Found, judged
from modeval.pipeline.survey import CLAIMS, survey


@pytest.mark.slow
def test_every_claim_is_measured_and_told(tmp_path: Path) -> None:
    told: list[Found] = []
    found = survey(tmp_path, steps=8, seeds=2, watch=told.append)
    assert list(found) == told
    assert [each.claim for each in found] == [claim.text for claim in CLAIMS]
    exact = {claim.text for claim in CLAIMS if claim.exact}
    assert {each.claim for each in found if each.verdict == "holds to the bit"} == exact
    assert all((each.low is None) == (each.claim in exact) for each in found)


def test_a_verdict_is_that_of_the_interval() -> None:
    claim = Claim("text", "effect", lambda _: torch.zeros(1))
    values = torch.tensor([0.2, 0.4, 0.3, 0.5])
    up, down = judged(claim, values), judged(claim, -values)
    assert (up.verdict, down.verdict) == ("holds", "contradicted")
    assert up.low is not None
    assert up.low == pytest.approx(0.35 - 3.1824 * 0.12910 / 2, abs=1e-4)
    assert judged(claim, values - 0.35).verdict == "not shown"


def test_an_exact_claim_fails_by_the_smallest_difference() -> None:
    claim = Claim("text", "effect", lambda _: torch.zeros(1), exact=True)
    assert judged(claim, torch.zeros(3)).verdict == "holds to the bit"
    assert judged(claim, torch.tensor([0.0, 1e-30])).verdict == "fails"
