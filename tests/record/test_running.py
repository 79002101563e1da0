"""Recording while a model trains, in any precision, compiled, with inputs of any shape."""

# ruff: noqa: PT012, SIM117 - what must fail is the whole recording
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Block, Model  # type: ignore[import-not-found, unused-ignore]
from torch import nn

from modeval.errors import TraceError
from modeval.record import device_counts
from modeval.record.recording import record
from modeval.trace.files import open_trace

# --- training, precision, compilation ------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_does_not_count_twice(ids, *, reentrant: bool) -> None:
    torch.manual_seed(0)
    model = Model(reentrant=reentrant).train()
    calls = []
    model.get_submodule("layers.0.gate").register_forward_hook(lambda *_: calls.append(1))
    with record(model, 2) as recording:
        recording.label([0, 1, 1])
        hidden = model(ids)
        hidden.sum().backward()
    assert len(calls) == 2  # it really ran twice
    assert recording.counts().samples.sum((1, 2)).tolist() == [15.0, 15.0]
    assert recording.counts("train").samples.sum().item() == 30
    assert recording.counts("decode").samples.sum().item() == 0


def test_recording_changes_no_gradient(ids) -> None:
    torch.manual_seed(0)
    model = Model().train()
    model(ids).sum().backward()
    plain = [part.grad.clone() for part in model.parameters() if part.grad is not None]
    model.zero_grad()
    with record(model):
        model(ids).sum().backward()
    recorded = [part.grad for part in model.parameters() if part.grad is not None]
    for mine, other in zip(recorded, plain, strict=True):
        assert torch.equal(mine, other)


def test_half_precision_and_inference_mode(ids) -> None:
    torch.manual_seed(0)
    model = Model().eval().to(torch.bfloat16)
    with torch.inference_mode(), record(model) as recording:
        model(ids)
        recording.counts()
        model(ids)
    assert recording.counts().samples.sum().item() == 60


def test_autocast_does_not_round_counts(monkeypatch) -> None:
    monkeypatch.setattr(device_counts, "PAIRS", 1)
    torch.manual_seed(0)
    model = Model().eval()
    ids = torch.randint(0, 32, (3, 333))
    with torch.no_grad(), record(model, blocks=1) as recording:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(ids)
            counts = recording.counts()
    pairs = counts.coactivation.sum((1, 2)) - counts.coactivation.diagonal(0, 1, 2).sum(1)
    assert pairs.tolist() == [999 * 2.0] * 2
    counts.conditional()


def test_compiled_models_are_recorded(model: Model, ids) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled: Any = torch.compile(model, backend="eager")
        with torch.no_grad():
            compiled(ids)
            with record(compiled) as recording:
                compiled(ids)
    assert recording.layers == ("layers.0.gate", "layers.1.gate")
    assert recording.counts().samples.sum().item() == 30


# --- shapes of inputs ----------------------------------------------------------------------------


def test_images_are_labelled_by_sample() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Linear(16, 8), Block())
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model(torch.randn(2, 3, 4, 4))
    assert recording.counts().samples.sum((0, 1)).tolist() == [3.0, 3.0]


def test_samples_without_positions() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Block())
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1, 1])
        model(torch.randn(3, 6))
    assert recording.counts().samples.sum((0, 1)).tolist() == [1.0, 2.0]


class Unpadding(Model):  # type: ignore[misc, unused-ignore]
    """Takes padding out before its blocks, as kernels for ragged batches do."""

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)[attention_mask > 0]
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def test_rows_without_padding_keep_their_labels(ids) -> None:
    torch.manual_seed(0)
    model, mask = Unpadding().eval(), torch.ones_like(ids)
    mask[0, :2] = 0
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1, 1])
        model(ids, attention_mask=mask)
    assert recording.counts().samples.sum((0, 1)).tolist() == [6.0, 20.0]


class Patches(Model):  # type: ignore[misc, unused-ignore]
    """Turns a batch into some other number of tokens."""

    def forward(self, input_ids):
        return super().forward(torch.cat([input_ids.flatten(), input_ids[0, :2]]).unsqueeze(0))


def test_tokens_of_unknown_samples_need_one_label(ids) -> None:
    torch.manual_seed(0)
    model = Patches().eval()
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([1, 1, 1])
        model(ids)
    assert recording.counts().samples.sum((0, 1)).tolist() == [0.0, 34.0]
    with pytest.raises(TraceError, match="tokens of a vision tower can be labelled only when"):
        with torch.no_grad(), record(model, 2) as recording:
            recording.label([0, 1, 1])
            model(ids)


def test_tokens_without_a_label_may_be_left_out(ids, tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Tower(Model):  # type: ignore[misc, unused-ignore]
        """Routes text, and patches beside it."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = Patches()

        def forward(self, input_ids, attention_mask=None):
            self.patches(input_ids)
            return super().forward(input_ids, attention_mask)

    model, path = Tower().eval(), tmp_path / "live.trace"
    with torch.no_grad(), record(model, 2, partial=True, trace=path) as recording:
        recording.label([0, 1, 1])
        model(ids, attention_mask=torch.ones_like(ids))
    counted = {layer.name: layer.status for layer in recording.coverage().layers}
    assert counted["layers.0.gate"] == "recorded"
    assert counted["patches.layers.0.gate"] == "nothing counted"
    assert "2 layers ran on tokens that could be given no label" in open_trace(path).header.notes[0]
