"""Modules that a user trained get the scorecard that the same model has as a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import modeval
from modeval.errors import SpecError
from modeval.metrics.over_time import OVER_TIME
from modeval.score.stored.files import read_scorecard, scorecard_text
from modeval.spec import DataSpec, ModelSpec, TrainSpec
from modeval.spec.own import Code
from modeval.train.files import read_network

FILE = Path(__file__).parents[2] / "fixtures" / "own.py"
TASK = DataSpec(rules=3)
SEEDS = ((0, 0), (1, 0), (1, 1))


class Router(nn.Module):
    """Routes by rule, and leaves the weights to whoever asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Sequential(nn.Embedding(3, 4), nn.Softmax(-1))
        self.experts = nn.Linear(2, 4)
        self.drop = nn.Dropout(0.9)

    def forward(self, x: torch.Tensor, rule: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.drop(self.experts(x)) * self.router(rule)
        return mixed.sum(-1, keepdim=True)


def score(modules: Any, **options: Any) -> Any:
    given = {"task": TASK, "seeds": SEEDS, "precision": 0.05, "device": "cpu"}
    return modeval.evaluate(modules, **{**given, **options})


def test_modules_score_to_the_digit_as_the_run_that_they_are_from(tmp_path: Path) -> None:
    own = ModelSpec(own=Code(f"{FILE}:TwoLayers"), width=8)
    training = TrainSpec(steps=3, seeds=SEEDS)
    modeval.train(tmp_path / "run", data=TASK, model=own, training=training, device="cpu")
    run = modeval.score(tmp_path / "run", precision=0.05, device="cpu")
    network: Any = read_network(tmp_path / "run")
    modules = []
    for seed in range(len(SEEDS)):
        module = network.members.make()
        stacked = network.members.tensors().items()
        module.load_state_dict({name: value[seed] for name, value in stacked})
        modules.append(module)
    card = score(modules)
    over_time = {row.name for row in OVER_TIME}  # what a log tells, and a module has none
    theirs = [each for each in run.scores if each.metric not in over_time]
    pairs = list(zip(card.scores, theirs, strict=True))
    assert len(pairs) > 100
    for ours, other in pairs:
        assert (ours.metric, ours.seed) == (other.metric, other.seed)
        assert ours.value == pytest.approx(other.value, rel=1e-4, abs=1e-6), ours.metric
    assert {"hard_gap", "causal_alignment_score", "keep_k"} <= {*card.metrics_of(card.models[0].id)}
    assert "hard_gap" in {each.metric for each in card.scores}


def test_routers_are_listened_to_and_everything_is_left_as_it_was() -> None:
    modules = [Router().train() for _ in SEEDS]
    before = {name: value.clone() for name, value in modules[0].state_dict().items()}
    card = score(modules, routers=["router"], title="Mine")
    assert (card.models[0].title, card.models[0].modules, card.models[0].origin) == (
        "Mine",
        4,
        "module",
    )
    assert "hard_gap" in {each.metric for each in card.scores}
    assert card == score(modules, routers="router", title="Mine")  # dropout is off
    assert all(module.training and module.drop.training for module in modules)
    assert not modules[0].router._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in modules[0].state_dict().items())


def test_without_a_way_to_its_weights_the_hard_gap_is_absent_and_the_rest_is_there() -> None:
    def forward(module: Router, inputs: torch.Tensor, rule: torch.Tensor) -> Any:
        return module(inputs, rule), module.router(rule)

    metrics = {each.metric for each in score([Router()], seeds=[(0, 0)], forward=forward).scores}
    assert "hard_gap" not in metrics
    assert {"in_distribution_loss", "alignment_score", "adaptation_distance"} <= metrics


def test_a_module_without_routing_has_losses_alone() -> None:
    def forward(module: nn.Module, inputs: torch.Tensor, rule: torch.Tensor) -> Any:
        return module(inputs)

    card = score(nn.Linear(2, 1), seeds=[(0, 0)], forward=forward)
    assert {each.metric for each in card.scores} == {
        "in_distribution_loss",
        "out_of_distribution_loss",
    }


def test_the_scorecard_is_read_back_compared_and_drawn_beside_runs(tmp_path: Path) -> None:
    card = score([Router() for _ in SEEDS], routers=["router"])
    path = tmp_path / "mine.json"
    path.write_text(scorecard_text(card), encoding="utf-8")
    assert read_scorecard(path) == card
    modeval.train(tmp_path / "run", data=TASK, training=TrainSpec(steps=2, seeds=SEEDS))
    run = modeval.score(tmp_path / "run", precision=0.05, device="cpu")
    assert modeval.compare(run, card) is not None
    assert len((run + card).models) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": None}, "task=DataSpec"),
        ({"seeds": [(0, 0)]}, "for 3 modules"),
        ({"seeds": [(0, 0), (0, 0), (0, 1)]}, "all different"),
        ({"routers": ["gate"]}, "its submodules are"),
        ({"task": DataSpec(task="sets", rules=3)}, "Give forward="),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        score([Router() for _ in SEEDS], **{"routers": ["router"], **options})
