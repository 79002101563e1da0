"""The user's own code: one protocol, a cohort of it, and its copy in the run folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import modeval
from modeval.cli.main import app
from modeval.errors import CodeError, SpecError
from modeval.nn import create
from modeval.nn.own.network import OwnNetwork
from modeval.nn.own.resolve import resolved
from modeval.nn.routes import on_largest
from modeval.spec import DataSpec, ModelSpec, RunSpec, TrainSpec, digest_of, title_of, to_dict
from modeval.spec import own as own_code
from modeval.spec.own import Code, OwnGating
from modeval.train.files import read_network, take_code
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches
from modeval.types import Noise

FILE = Path(__file__).parents[2] / "fixtures" / "own.py"
DATA = DataSpec(rules=3)
run = CliRunner()


def own(name: str, file: Path = FILE, data: DataSpec = DATA, **sizes: Any) -> ModelSpec:
    return resolved(data, ModelSpec(own=Code(f"{file}:{name}"), width=8, **sizes))


def written(folder: Path, body: str, head: str = "import torch\nfrom torch import nn\n") -> Path:
    path = folder / "mine.py"
    path.write_text(head + body)
    return path


MODEL = """
class Model(nn.Module):
    def __init__(self, task, model):
        super().__init__()
        self.linear = nn.Linear(task.features, task.outputs)
        self.drop = nn.Dropout(0.5)
        self.router = nn.Linear(task.features, 2)
    def forward(self, inputs, rule):
        {body}
"""


def draw(seeds: int, samples: int = 7, data: DataSpec = DATA) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (seeds, samples, *((data.length,) if data.sequence else ()))
    inputs = torch.randn(*shape, data.features, generator=generator)
    return inputs, torch.randint(data.rules, shape, generator=generator)


@pytest.mark.parametrize("name", ["TwoLayers", "Hooked"])
def test_a_seed_of_a_cohort_of_ones_own_model_is_that_seed_alone(name: str) -> None:
    spec = own(name)
    whole, alone = create(DATA, spec, (3, 5, 8)), create(DATA, spec, (5,))
    assert whole.note == ""  # stacked
    for network, seeds in ((whole, ((0, 3), (0, 5), (0, 8))), (alone, ((0, 5),))):
        stepper = Stepper(network, "regression")
        source = batches(Stream(DATA, seeds, 8, torch.device("cpu")))
        for _ in range(3):
            drawn = Noise(torch.zeros(len(seeds), 8, 0), torch.tensor(0.0))
            stepper.step(next(source), torch.tensor(1e-2), drawn)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[key][1:2], value)


@pytest.mark.parametrize("name", ["TwoLayers", "Hooked"])
def test_routing_of_ones_own_model_can_be_changed_from_outside(name: str) -> None:
    network = create(DATA, own(name), (0, 1))
    inputs, rule = draw(2)
    soft, hard = network(inputs, rule), network(inputs, rule, route=on_largest)
    torch.testing.assert_close(hard.routed[0].weight, on_largest(soft.routed[0].weight, 0))
    assert not torch.allclose(soft.prediction, hard.prediction)


def test_a_model_that_cannot_be_stacked_runs_in_turn_and_says_why(tmp_path: Path) -> None:
    body = """
        weight = self.router(inputs).softmax(-1)
        return self.drop(self.linear(inputs)) * (1.0 if float(inputs.sum()) else 2.0), weight"""
    network = create(DATA, own("Model", written(tmp_path, MODEL.format(body=body))), (0, 1))
    assert "one after the other" in network.note
    inputs, rule = draw(2)
    noise = Noise(torch.tensor([[[0.25]] * 7, [[0.75]] * 7]), torch.tensor(0.0))
    quiet, one, again = network(inputs, rule), *(network(inputs, rule, noise=noise),) * 2
    torch.testing.assert_close(one.prediction, again.prediction)
    assert not torch.allclose(quiet.prediction, one.prediction)  # it drops in training alone
    alone = create(DATA, own("Model", tmp_path / "mine.py"), (1,))
    one_alone = alone(inputs[1:], rule[1:], noise=Noise(noise.uniform[1:], noise.progress))
    torch.testing.assert_close(one.prediction[1:], one_alone.prediction)


def test_dropout_has_a_chance_of_its_own_for_each_seed(tmp_path: Path) -> None:
    body = "return self.drop(self.linear(inputs)), self.router(inputs).softmax(-1)"
    network = create(DATA, own("Model", written(tmp_path, MODEL.format(body=body))), (0, 0))
    assert network.chance == 1
    inputs, rule = draw(1)
    noise = Noise(torch.tensor([[[0.25]] * 7, [[0.75]] * 7]), torch.tensor(0.0))
    both = network(inputs.expand(2, -1, -1), rule.expand(2, -1), noise=noise).prediction
    assert not torch.equal(both[0], both[1])


def test_routing_that_looks_at_the_batch_is_noticed(tmp_path: Path) -> None:
    body = "return self.linear(inputs), self.router(inputs - inputs.mean(0)).softmax(-1)"
    assert create(DATA, own("Model", written(tmp_path, MODEL.format(body=body))), (0,)).batchwise


@pytest.mark.parametrize("task", ["sets", "series"])
def test_sequences_may_be_routed_as_a_whole_or_by_position(task: Any, tmp_path: Path) -> None:
    data = DataSpec(task=task, rules=2, length=3)
    weights = "self.router(inputs).softmax(-1)"
    for given in (weights, f"{weights}[:, 0]"):
        path = written(tmp_path, MODEL.format(body=f"return self.linear(inputs), {given}"))
        network = create(data, own("Model", path, data), (0, 1))
        output = network(*draw(2, data=data))
        assert output.routed[0].weight.shape == (2, 7, 3, 2)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return self.linear(inputs)[:, 0], None", r"expected \(6, 1\)"),
        ("return self.linear(inputs), self.router(inputs)[0]", "a weight for each module"),
        ("return self.linear(inputs), self.router(inputs) / 0", "not finite"),
        ("return {}", "Model: forward returned dict: expected a prediction"),
        ("return self.linear(inputs), 3", "as routing weights forward returned int"),
        ("return self.linear(inputs), [rule.numpy()]", "returned ndarray"),
        ("return self.linear(inputs).long()", r"torch.int64: expected a prediction \(6, 1\)"),
        ("return self.linear(inputs), self.router(inputs).long()", "in floating point"),
        ("return self.linear(inputs) / 0 * 0", "not finite"),
        ("return self.linear(rule)", r"line \d+: RuntimeError"),
    ],
)
def test_what_breaks_the_protocol_is_named(body: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CodeError, match=said):
        own("Model", written(tmp_path, MODEL.format(body=body)))


NN = "from torch import nn\n"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("class Model:\n    pass\n", "Modle", "did you mean Model"),
        ("Model = 3\n", "Model", "expected a class"),
        ("1 / 0\n", "Model", "line 1: ZeroDivisionError"),
        ("raise SystemExit\n", "Model", "SystemExit"),
        ("def (:\n", "Model", "line 1: SyntaxError"),
        ("def Model(task):\n    return task\n", "Model", "expected a torch.nn.Module"),
        (f"{NN}class Model(nn.Module): pass\n", "Model", "Model has no forward: expected forward"),
        (
            f"{NN}class Model(nn.Module):\n    def forward(self, inputs, rule): return inputs\n",
            "Model",
            "no parameter that learns",
        ),
        (
            f"{NN}class Model(nn.Module):\n    def __init__(self, task, model, depth): pass\n",
            "Model",
            r"takes \(task, model, depth\): expected .* Model\(task, model\).*Give depth",
        ),
        (
            f"{NN}class Model(nn.Module):\n    def forward(self, inputs): return inputs\n",
            "Model",
            r"forward takes \(inputs\): expected forward\(inputs, rule\)",
        ),
        (
            f"{NN}class Model(nn.Module):\n    def forward(self, inputs, rule, mask): pass\n",
            "Model",
            "Give mask a default",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(
    text: str, name: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(CodeError, match=said):
        own(name, written(tmp_path, text, head=""))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("logits.softmax(0)", "seeds"),
        ("logits.softmax(1)", "samples"),
        ("logits.softmax(-1)[0]", "expected weights"),
        ("logits / 0", "not finite"),
    ],
)
def test_a_gating_that_mixes_seeds_or_samples_is_refused(
    body: str, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path, f"def gate(logits):\n    return {body}\n")
    with pytest.raises(CodeError, match=said):
        resolved(DATA, ModelSpec(gating=OwnGating(code=f"{path}:gate")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def gate(): return 1", r"gate takes \(\): expected gate\(logits\) -> weights"),
        ("def gate(logits, scale): return logits", "Give scale a default"),
        ("def gate(logits, *, scale): return logits", "Give scale a default"),
        ("def gate(logits): return logits\ngate.chance = 1", r"expected gate\(logits, noise\)"),
        ("def gate(logits): return logits\ngate.logits = 'two'", "as gate.logits = 1"),
        ("def gate(logits): return logits\ngate.sparse = 1", "expected True or False"),
        ("class gate:\n    def __call__(self, logits): return logits", r"gate = gate\(\)"),
        ("def gate(logits): return None", "returned NoneType: expected weights"),
        ("def gate(logits): return logits.long()", "torch.int64"),
        ("def gate(logits): return logits[..., :1]", r"returned \(2, 5, 1\): expected weights"),
    ],
)
def test_a_gating_of_another_form_is_told_its_form(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"{text}\n")
    with pytest.raises(CodeError, match=said):
        resolved(DATA, ModelSpec(gating=OwnGating(code=f"{path}:gate")))


SCORE = """
class Score(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.linear = nn.Linear(at.features, at.numbers)
    def forward(self, inputs):
        return {body}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def Score(inputs, rule): return inputs", r"made as Score\(at\), with a forward of some"),
        ("class Score(nn.Module): pass", "Score has no forward: expected forward of some of rule"),
        (SCORE.format(body="None"), r"returned NoneType: expected logits \(5, 3\) for inputs"),
        (SCORE.format(body="(self.linear(inputs), 1)"), "returned tuple"),
        (SCORE.format(body="self.linear(inputs).long()"), "torch.int64"),
        (SCORE.format(body="self.linear(inputs)[:, :1]"), r"\(5, 1\) for one member.*\(5, 3\)"),
        (SCORE.format(body="self.linear(inputs) / 0 * 0"), "not finite"),
    ],
)
def test_a_scorer_of_another_form_is_told_its_form(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"{text}\n")
    spec = resolved(DATA, ModelSpec(scorer="own", own_scorer=Code(f"{path}:Score")))
    with pytest.raises(CodeError, match=said):
        create(DATA, spec, (0,))


@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_ones_own_gating_and_scorer_take_the_place_of_others(task: Any) -> None:
    data = DataSpec(task=task, rules=3)
    data = data if task == "binary" else replace(data, length=3)
    spec = resolved(
        data,
        ModelSpec(
            scorer="own",
            own_scorer=Code(f"{FILE}:Cosine"),
            gating=OwnGating(code=f"{FILE}:squared"),
            layers=2,
        ),
    )
    assert title_of(spec) == "Modular-Cosine (squared, 2 layers)"
    whole, alone = create(data, spec, (3, 5)), create(data, spec, (5,))
    inputs, rule = draw(2, data=data)
    output = whole(inputs, rule)
    torch.testing.assert_close(
        output.prediction[1:], alone(inputs[1:], rule[1:]).prediction, rtol=1e-4, atol=1e-5
    )
    gradients = torch.autograd.grad(output.prediction.sum(), list(whole.parameters()))
    assert all(bool(each.isfinite().all()) for each in gradients)


@pytest.mark.parametrize(
    "asked", ["inputs", "rule", "state, hidden", "outputs, rule", "inputs, rule, outputs"]
)
def test_a_scorer_sees_what_its_forward_names(asked: str, tmp_path: Path) -> None:
    sums = " + ".join(
        {"rule": "rule.unsqueeze(-1)"}.get(name, f"{name}.flatten(1).sum(1, keepdim=True)")
        for name in asked.split(", ")
    )
    body = f"""
class Score(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(at.numbers))
    def forward(self, {asked}):
        return ({sums}) * self.weight
"""
    path = written(tmp_path, body)
    spec = resolved(DATA, ModelSpec(scorer="own", own_scorer=Code(f"{path}:Score")))
    network = create(DATA, spec, (0, 1))
    assert isinstance(network(*draw(2)).prediction, torch.Tensor)
    module = "hidden" in asked or "outputs" in asked
    assert network.looks_at == ("rule" if asked == "rule" else "module" if module else "input")


def test_a_scorer_that_asks_for_something_else_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path, "class Score(nn.Module):\n    def forward(self, x):\n        return x\n"
    )
    spec = resolved(DATA, ModelSpec(scorer="own", own_scorer=Code(f"{path}:Score")))
    with pytest.raises(CodeError, match="asks for x"):
        create(DATA, spec, (0,))


def test_specs_without_own_code_are_named_as_before() -> None:
    assert digest_of(DataSpec(), ModelSpec()) == digest_of(DataSpec(), ModelSpec(own=None))
    kept = RunSpec(model=ModelSpec(own=Code("a.py:B", "0" * 16)))
    assert kept.digest != RunSpec().digest
    assert to_dict(kept.model)["own"] == {"code": "a.py:B", "digest": "0" * 16}


@pytest.mark.parametrize(
    "choices", [{"scorer": "rule"}, {"gating": OwnGating(code="a.py:g")}, {"aggregation": "attend"}]
)
def test_choices_that_ones_own_model_does_not_read_are_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="routes by itself"):
        ModelSpec(own=Code("a.py:B"), **choices)


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Return a run of one's own model whose code was never loaded in this process."""
    mine = tmp_path / "mine.py"
    mine.write_text(FILE.read_text() + f"\n# {tmp_path}\n")
    code = f"{mine}:TwoLayers"
    training = TrainSpec(steps=2, seeds=((0, 0), (0, 1)))
    modeval.train(
        tmp_path / "run", data=DATA, model=ModelSpec(own=Code(code), width=8), training=training
    )
    own_code._LOADED.clear()
    return tmp_path / "run"


def test_a_run_that_brings_code_is_scored_with_consent_alone(trained: Path) -> None:
    with pytest.raises(CodeError, match="--trust-code"):
        modeval.score(trained)
    said = run.invoke(app, ["score", str(trained)])
    assert isinstance(said.exception, CodeError)
    assert not own_code._LOADED  # nothing ran
    card = modeval.score(trained, trust_code=True, precision=0.05)
    assert card.models[0].title == "TwoLayers"
    assert card.models[0].modules == 3
    assert {"hard_gap", "in_distribution_loss", "alignment_score"} <= {
        score.metric for score in card.scores
    }


def test_code_that_was_changed_is_noticed(trained: Path) -> None:
    copy = trained / "code" / "mine.py"
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(CodeError, match="was changed"):
        take_code(trained)
    source = trained.parent / "mine.py"
    source.write_text(source.read_text() + "\n\n")
    arguments = ["train", "--out", str(trained), "--model", f"{source}:TwoLayers", "--rules", "3"]
    more = ["--width", "8", "--steps", "2", "--model-seeds", "2", "-q"]
    said = run.invoke(app, [*arguments, *more])
    assert "model.own" in str(said.exception)


def test_a_run_of_ones_own_model_goes_on_as_if_it_had_never_stopped(trained: Path) -> None:
    flags = ["train", "--out", str(trained), "--resume", "--steps", "4", "-q"]
    assert "--trust-code" in str(run.invoke(app, flags).exception)
    assert run.invoke(app, [*flags, "--trust-code"]).exit_code == 0
    spec = resolved(DATA, ModelSpec(own=Code(f"{trained.parent / 'mine.py'}:TwoLayers"), width=8))
    whole = TrainSpec(steps=4, seeds=((0, 0), (0, 1)))
    modeval.train(trained.parent / "whole", data=DATA, model=spec, training=whole)
    for key, value in read_network(trained.parent / "whole").state_dict().items():
        assert torch.equal(value, read_network(trained).state_dict()[key]), key


def test_own_models_gatings_and_scorers_are_flags(tmp_path: Path) -> None:
    flags = ["--rules", "3", "--steps", "1", "--seeds", "1", "-q", "--out"]
    both = f"{FILE}:Hooked,modular"
    assert run.invoke(app, ["train", "--model", both, *flags, str(tmp_path / "m")]).exit_code == 0
    assert (tmp_path / "m" / "hooked" / "code" / "own.py").is_file()
    parts = ["--gating", f"{FILE}:squared", "--scorer", f"{FILE}:Cosine"]
    assert run.invoke(app, ["train", *parts, *flags, str(tmp_path / "p")]).exit_code == 0
    assert json.loads((tmp_path / "p" / "run.json").read_text())["status"] == "complete"
    assert isinstance(read_network(tmp_path / "m" / "hooked"), OwnNetwork)
    wrong = run.invoke(app, ["train", "--gating", "own", *flags, str(tmp_path / "q")])
    assert isinstance(wrong.exception, SpecError)
