"""Samples that no module took are counted: dropped for want of capacity, or wanted by none."""

from typing import Any

import pytest
import torch

from modeval.evaluate.cohort import evaluate
from modeval.evaluate.subject import Subject
from modeval.nn import create
from modeval.score.cohorts import score
from modeval.spec import DataSpec, ModelSpec
from modeval.spec.gatings import ExpertChoice, Soft, Switch
from modeval.types import shares

DATA = DataSpec(rules=4)


@pytest.mark.parametrize(
    "gating", [Switch(capacity=0.5), Switch(capacity=0.0), ExpertChoice(), Soft()]
)
def test_the_scorecard_says_which_share_of_the_samples_no_module_took(gating: Any) -> None:
    model = ModelSpec(scorer="both", gating=gating, encoder=8, width=16)
    network = create(DATA, model, [0])
    with torch.no_grad():
        for parameter in network.scorer.parameters():  # type: ignore[union-attr]
            parameter.mul_(3)
    subject = Subject(
        title="a model", origin="run", data=DATA, model=model, objective_known=True,
        seeds=((0, 0),), sources=("",), faults=("",), selection="last", network=network,
    )  # fmt: skip
    card = score(subject, evaluate(subject, precision=0.1))
    [found] = [
        each.value for each in card.scores if each.metric == "unrouted_share" and each.seed is None
    ]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4_096, 2, generator=generator)
    rule = torch.randint(4, (1, 4_096), generator=generator)
    with torch.no_grad():
        weight = network(x, rule).routed[0].weight
    dropped = 1 - float(shares(weight).sum() / 4_096)
    assert found == pytest.approx(dropped, abs=0.05)
    if isinstance(gating, Switch) and gating.capacity:
        assert dropped >= 0.5  # there is room for half of the samples
    elif isinstance(gating, ExpertChoice):
        assert 0 < dropped < 1
    else:
        assert found == pytest.approx(0, abs=1e-6)
