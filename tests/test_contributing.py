"""What CONTRIBUTING says of adding choices is true: its examples are built, trained and read."""

import re
import sys
import tomllib
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gate_cards import cohort_card

import modeval
from modeval.errors import TraceError
from modeval.gate.gate import gate
from modeval.gate.policy import Policy, Requirement
from modeval.nn import create
from modeval.nn.bank import BankMLP
from modeval.nn.layer import Choices
from modeval.nn.mlp import MLPNetwork
from modeval.nn.scorers import FreeScorer
from modeval.report.verdicts.formats import GateFormat
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec, from_dict
from modeval.spec.gatings import Soft
from modeval.spec.own import Code
from modeval.trace.importers.formats import FORMATS
from modeval.trace.importers.import_files import import_source
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

TEXT = (Path(__file__).parents[1] / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def example(kind: str, name: str) -> types.ModuleType:
    """Return the one example of a kind as a module of a name."""
    [text] = blocks(f"python {kind}")
    module = types.ModuleType(name)
    exec(text, module.__dict__)
    return module


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
    assert (stepper.engine, stepper.engine_note) == ("fused", "")
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


def test_the_metric_of_the_example_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("metric", "modeval.metrics.example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = replace(module.ROW, home="example")
    joint = torch.tensor([[0.5, 0.1], [0.3, 0.1]], dtype=torch.float64)
    assert row.function(joint).item() == pytest.approx(0.8)
    assert row.bounds(2, 2) == (0, 1)


def test_the_importer_of_the_example_imports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [routed] = example("importer", "example").FORMATS
    monkeypatch.setitem(FORMATS, routed.name, routed)
    (tmp_path / "a.log").write_text(
        "".join(f"routed layer={layer} experts={layer},2\n" for layer in (0, 1)), encoding="utf-8"
    )
    imported = import_source([tmp_path / "a.log"], tmp_path / "a.trace", name="routed")
    assert imported.rows == 2
    (tmp_path / "b.log").write_text("routed layer=x experts=1\n", encoding="utf-8")
    with pytest.raises(TraceError, match="line 1"):
        import_source([tmp_path / "b.log"], tmp_path / "b.trace", name="routed")


def test_the_format_of_verdicts_of_the_example_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("verdicts", "modeval.report.verdicts.tap")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    tap = GateFormat("--tap", "Test Anything Protocol.", "gate.tap", "tap")
    requirement = Requirement(metric="collapse_worst", comparison="max", limit=0.5)
    card = cohort_card({"collapse_worst": [0.1, 0.1]})
    text = tap.render(gate([("card.json", card)], Policy(requirements=(requirement,))), 0)
    assert text.splitlines()[:2] == ["TAP version 14", "1..1"]
    assert text.splitlines()[2].startswith("ok 1 - ")


def test_the_model_of_the_example_is_trained_and_scored(tmp_path: Path) -> None:
    (tmp_path / "pair.py").write_text("\n".join(blocks("python own")))
    own = Code(f"{tmp_path / 'pair.py'}:Pair")
    training = TrainSpec(steps=2, seeds=((0, 0), (1, 0)))
    modeval.train(tmp_path / "run", model=ModelSpec(own=own), training=training, device="cpu")
    card = modeval.score(tmp_path / "run", precision=0.1)
    assert card.models[0].title == "Pair"
    assert "hard_gap" in {score.metric for score in card.scores}


def test_every_file_that_is_named_is_there() -> None:
    root = Path(__file__).parents[1] / "modeval"
    for name in re.findall(r"`((?:spec|nn|train|metrics|trace|report)/[\w/]+\.py)`", TEXT):
        assert (root / name).is_file(), name
