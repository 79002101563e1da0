"""Scores of routing while a model trains, through the trainer's own loggers."""

import functools
import sys
import types
import warnings
from typing import Any

import pytest
import torch
from small_models import (  # type: ignore[import-not-found, unused-ignore]
    MODULES,
    Model,
    hooks_of,
    mixtral,
)
from torch import nn

from modeval.errors import DependencyError, SpecError
from modeval.record.callbacks import (
    Sampler,
    follow,
    headline,
    lightning_callback,
    trainer_callback,
)
from modeval.record.recording import record

KEYS = {"routing/collapse_mean", "routing/collapse_worst_layer", "routing/dead_modules"}
TOLD_APART = {
    "routing/inverse_mutual_information_mean",
    "routing/inverse_mutual_information_best_layer",
}


def test_headline_of_routing_that_is_known() -> None:
    model = nn.Sequential(nn.Embedding(2, 4), nn.Linear(4, 4))
    first = {"1": lambda out: torch.zeros_like(out[..., :1], dtype=torch.long)}
    ids = torch.tensor([[0], [1]])
    with torch.no_grad(), record(model, 2, routers=first) as recording:
        recording.label([0, 1])
        model(ids)
    values = headline(recording)
    assert values["routing/collapse_mean"] == pytest.approx(1.0)
    assert values["routing/dead_modules"] == 3
    assert values["routing/inverse_mutual_information_mean"] == pytest.approx(1.0)

    seen: list[torch.Tensor] = []
    apart = {"1": lambda out: seen[-1].unsqueeze(-1)}
    model[0].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad(), record(model, 2, routers=apart) as recording:
        recording.label([0, 1])
        model(ids)
    assert headline(recording)["routing/inverse_mutual_information_mean"] == pytest.approx(0.0)


def _note(logged: list[tuple[int, dict[str, float]]], step: int, values: dict[str, float]) -> None:
    logged.append((step, values))


def test_one_step_of_every_n_is_recorded_and_hooks_are_gone_between() -> None:
    model = Model().eval()
    logged: list[tuple[int, dict[str, float]]] = []
    ids = torch.randint(0, 32, (2, 4))
    sampler = Sampler(3)
    for step in range(7):
        sampler.begin(model, step)
        assert (hooks_of(model) > 0) == (step % 3 == 0)
        with torch.no_grad():
            model(ids)
        sampler.end(functools.partial(_note, logged, step))
        assert hooks_of(model) == 0
    assert [step for step, _ in logged] == [0, 3, 6]
    assert all(set(values) == KEYS for _, values in logged)
    sampler.begin(model, 0)
    sampler.close()
    assert hooks_of(model) == 0


def test_a_step_without_a_forward_is_a_warning() -> None:
    sampler = Sampler(1)
    sampler.begin(Model(), 0)
    with pytest.warns(UserWarning, match="Routing was not logged in this step: .*recorded nothing"):
        sampler.end(lambda values: pytest.fail("logged"))


def test_steps_must_be_positive() -> None:
    with pytest.raises(SpecError, match="every=0: expected 1 or more"):
        Sampler(0)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A few sequences with a domain each."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.tensor([3 + index, 4, 5, 6])
        mask = torch.tensor([1, 1, 1, index % 2])
        return {"input_ids": ids, "attention_mask": mask, "labels": ids, "domain": index % 3}


def trainer_of(model, folder, callbacks=()):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=4,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=Rows(), callbacks=list(callbacks)
    )


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_a_hugging_face_trainer_logs_the_scores(tmp_path, *, alone: bool) -> None:
    model = mixtral()
    options = {"labels": 3, "label_from": "domain"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of accelerate and torch, about machines without a GPU
        if alone:
            trainer = trainer_of(model, tmp_path, [trainer_callback(2, **options)])
        else:
            trainer = trainer_of(model, tmp_path)
            follow(trainer, 2, **options)
        trainer.train()
    found = [entry for entry in trainer.state.log_history if "routing/collapse_mean" in entry]
    assert len(found) == 2
    assert all(set(entry) >= (KEYS | TOLD_APART) for entry in found)
    assert all(0 <= entry["routing/dead_modules"] <= 2 * MODULES for entry in found)
    assert hooks_of(model) == 0


def test_a_lightning_callback_logs_the_scores(monkeypatch) -> None:
    package, inner = types.ModuleType("lightning"), types.ModuleType("lightning.pytorch")
    inner.__dict__["Callback"] = object
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", inner)

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mixtral()
            self.logged: list[dict[str, float]] = []

        def log_dict(self, values) -> None:
            self.logged.append(values)

    module, trainer = Module(), types.SimpleNamespace(global_step=0)
    callback = lightning_callback(2, labels=["a", "b"], label_from="domain")
    for step in range(3):
        trainer.global_step = step
        batch = {"input_ids": torch.randint(3, 48, (2, 5)), "domain": ["a", "b"]}
        callback.on_train_batch_start(trainer, module, batch, step)
        module.model(input_ids=batch["input_ids"]).logits.sum().backward()
        callback.on_train_batch_end(trainer, module, None, batch, step)
    assert [set(values) for values in module.logged] == [KEYS | TOLD_APART] * 2
    callback.on_train_batch_start(trainer, module, batch, 0)
    callback.on_exception(trainer, module, RuntimeError())
    assert hooks_of(module) == 0


class Dead(Model):  # type: ignore[misc, unused-ignore]
    """Uses two of its four modules in the second layer."""

    def __init__(self) -> None:
        super().__init__()
        gate: Any = self.get_submodule("layers.1.gate")
        gate.weight.data[:] = 0
        gate.register_forward_hook(
            lambda module, args, out: (*out[:2], torch.tensor([[0, 1]]).expand(out[2].shape))
        )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("layers.worst.dead_fraction>0.3", 0.5),
        ("dead_fraction >= 0.5", 0.5),
        ("layers.worst.dead_fraction>0.5", None),
        ("layers.worst.effective_modules<3", 2.0),
        ("layers.mean.dead_fraction>0.4", None),
    ],
)
def test_an_alarm_sounds_when_its_bound_is_crossed(text: str, value: float | None) -> None:
    torch.manual_seed(0)
    model, sampler = Dead().eval(), Sampler(1, stop_when=text)
    sampler.begin(model, 0)
    with torch.no_grad():
        model(torch.randint(0, 32, (4, 32)))
    logged: list[tuple[int, dict[str, float]]] = []
    if value is None:
        sampler.end(functools.partial(_note, logged, 0))
        assert sampler.alarm == ""
    else:
        with pytest.warns(UserWarning, match=f"Training stops, as .* it is {value:.4g}"):
            sampler.end(functools.partial(_note, logged, 0))
        assert sampler.alarm
    assert any(name.endswith("_layer") and name not in KEYS for name in logged[0][1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dead_fraction", "expected a metric and a bound"),
        ("layers.worst.colapse>0.3", "'colapse' is no metric that one step tells"),
        ("dead_fraction>much", "'much' is no number"),
    ],
)
def test_an_alarm_that_says_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Sampler(1, stop_when=text)


@pytest.mark.slow
def test_a_trainer_stops_at_an_alarm(tmp_path) -> None:
    model = mixtral()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trainer_of(model, tmp_path)
        follow(trainer, 2, stop_when="layers.worst.effective_modules<99")
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_missing_package_is_named(monkeypatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match="pip install lightning"):
        lightning_callback()
    with pytest.raises(DependencyError, match=r"modeval-cli\[hf\]"):
        trainer_callback()
