"""What CONTRIBUTING says of adding choices is true: its examples are built, trained and read."""

import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from modeval.nn import create
from modeval.nn.bank import BankMLP
from modeval.nn.layer import Choices
from modeval.nn.mlp import MLPNetwork
from modeval.nn.scorers import FreeScorer
from modeval.spec import DataSpec, ModelSpec, RunSpec, from_dict
from modeval.spec.gatings import Soft
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

TEXT = (Path(__file__).parents[1] / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def examples() -> Any:
    module = types.ModuleType("examples_of_contributing")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec("\n".join(blocks("python")), module.__dict__)
    return module


def test_the_gating_of_the_example_is_a_gating(examples: Any) -> None:
    gating = examples.Rectified(floor=0.1)
    weight = gating(torch.tensor([[[0.9, -3.0]]]))
    torch.testing.assert_close(weight, torch.tensor([[[1.0, 0.1]]]) / 1.1)
    network = create(DataSpec(rules=3), ModelSpec(scorer="rule", encoder=4, width=6), (0, 1))
    network.gating = gating
    stepper = Stepper(network, "regression")
    assert stepper.engine_note == "the fused kernels do not know the gating rectified"
    source = batches(Stream(DataSpec(rules=3), ((0, 0), (0, 1)), 8, torch.device("cpu")))
    assert stepper.step(next(source), torch.tensor(1e-3)).isfinite().all()


def test_the_computation_of_the_example_is_a_computation(examples: Any) -> None:
    experts = BankMLP(2, 3, (12, 6, 6), examples.Biased())
    scorer = FreeScorer(2, 3, 3, shared=False)
    network = MLPNetwork(
        2, rules=3, modules=3, encoder=4, experts=experts, width=6, choices=Choices(scorer, Soft())
    )
    source = batches(Stream(DataSpec(rules=3), ((0, 0), (0, 1)), 8, torch.device("cpu")))
    stepper = Stepper(network, "regression", engine="eager")
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    for _ in range(3):
        stepper.step(next(source), torch.tensor(1e-2))
    moved = {n for n, value in network.named_parameters() if not torch.equal(value, before[n])}
    assert {"experts.hidden.own_bias", "experts.readout.own_bias"} <= moved


def test_the_regime_of_the_example_is_read() -> None:
    [text] = [block for block in blocks("toml") if "train.phases" in block]
    values = tomllib.loads(text)
    spec = from_dict(RunSpec, {"data": {"rules": 4}, "train": {"steps": 3000, **values["train"]}})
    assert [end - first for first, end, _ in spec.train.stretches] == [1000, 1000, 1000]
    assert spec.train.phases[1].learns == ("experts.*",)


def test_every_file_that_is_named_is_there() -> None:
    root = Path(__file__).parents[1] / "modeval"
    for name in re.findall(r"`((?:spec|nn|train)/\w+\.py)`", TEXT):
        assert (root / name).is_file(), name
