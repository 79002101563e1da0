"""Wrappers around a model change neither what is recorded nor the names of its layers."""

import pytest
import torch
from small_models import MODULES, mixtral, padded  # type: ignore[import-not-found, unused-ignore]
from torch import nn

from modeval.record.recording import record

peft = pytest.importorskip("peft", reason="adapters are an extra: pip install peft")


pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about names that transformers changes


def adapted(**options):
    model = mixtral()
    config = peft.LoraConfig(r=2, lora_alpha=64, init_lora_weights=False, **options)
    return peft.get_peft_model(model, config).eval()


def recorded(model, watched: str):
    """Return what is recorded, and what the experts of the first layer were called with."""
    ids, mask = padded([[5, 6, 7], [9, 8, 7, 6]])
    given: list[torch.Tensor] = []
    experts = model.get_submodule(watched)
    handle = experts.register_forward_pre_hook(lambda module, args: given.append(args[1]))
    with torch.no_grad(), record(model) as recording:
        model(input_ids=ids, attention_mask=mask)
    handle.remove()
    chosen = given[0].reshape(2, 4, 2)[mask > 0]
    expected = torch.bincount(chosen.flatten(), minlength=MODULES).double()
    assert recording.counts().selections[0].sum((0, 1)).tolist() == expected.tolist()
    return recording


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"]},
        {"target_parameters": ["gate.weight"], "target_modules": []},
        {"target_modules": ["q_proj"], "modules_to_save": ["gate"]},
    ],
    ids=["attention", "gate", "saved gate"],
)
def test_adapters_keep_the_names_of_layers(options) -> None:
    model = adapted(**options)
    watched = "base_model.model.model.layers.0.mlp.experts"
    recording = recorded(model, watched)
    assert recording.layers == ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
    assert recording.header().source.engine.startswith("transformers ")
    with torch.no_grad(), record(model) as seen:
        ids, mask = padded([[5, 6, 7], [9]])
        model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=3, eos_token_id=None, do_sample=False
        )
    assert seen.counts("prefill").samples[0].sum() == 4
    assert seen.counts("decode").samples[0].sum() == 4


def test_experts_with_adapters_are_recorded() -> None:
    model = adapted(
        target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
    )
    recorded(model, "base_model.model.model.layers.0.mlp.experts")


def test_a_linear_gate_with_an_adapter_is_read_with_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.gate, self.top_k = nn.Linear(8, MODULES, bias=False), 1
            self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(MODULES))

        def forward(self, x):
            chosen = self.gate(x).argmax(-1)
            return torch.stack(
                [self.experts[e](v) for e, v in zip(chosen.tolist(), x, strict=True)]
            )

    config = peft.LoraConfig(r=2, lora_alpha=64, target_modules=["gate"], init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(Block()), config).eval()
    with torch.no_grad(), record(model) as recording:  # the experts confirm what is read
        model(torch.randn(60, 8))
    assert recording.layers == ("0.gate",)
    assert "were given as many tokens" in recording.header().notes[0]


def test_engines_that_hold_a_model_keep_its_names() -> None:
    class DeepSpeedEngine(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    ids, mask = padded([[5, 6, 7], [9]])
    with torch.no_grad(), record(DeepSpeedEngine(mixtral())) as recording:
        recording.model(input_ids=ids, attention_mask=mask)
    assert recording.layers == ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
    assert recording.counts().samples[0].sum() == 4
