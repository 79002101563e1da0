"""The table of router classes, and how modules are counted without running them."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modeval.errors import TraceError
from modeval.record.routers.find import clean_name, find_routers
from modeval.record.routers.readers import READERS, Router, selected

# Model, class and meaning of the output of every router class of transformers 5.24.
CLASSES = """
AfmoeTokenChoiceRouter AriaTextTopKRouter AXK1TopkRouter AXK2TopkRouter BailingHybridTopkRouter
BeamTopKRouter Cohere2MoeTopKRouter DbrxRouter DeepseekOcr2TextTopkRouter DeepseekV2TopkRouter
DeepseekV3TopkRouter DeepseekV32TopkRouter DeepseekV4TopKRouter DiffusionGemmaTextRouter DogeCDMoE
Dots1TopkRouter Dots3NoteTextTopkRouter Ernie4_5_MoeTopKRouter Ernie4_5_VLMoeMoeBlock
ExaoneMoeTopkRouter FlexOlmoTopKRouter FlintTopKRouter Gemma4TextRouter Glm4MoeTopkRouter
Glm4MoeLiteTopkRouter Glm4vMoeTextTopkRouter Glm5NextTextTopkRouter GlmMoeDsaTopkRouter
GptOssTopKRouter GraniteMoeTopKRouter GraniteMoeSWATopKRouter GraniteMoeHybridTopKRouter
GraniteMoeSharedTopKRouter HunYuanMoEV1Gate HYV3TopKRouter HYV4TopkRouter HYV4VLTopkRouter
InklingTopkRouter Inkling2TopKRouter Inkling2LoopTopKRouter LaraMiniTopKRouter JambaTopKRouter
JetMoeAttention JetMoeTopKGating KimiLinearTopkRouter
Kolibri1TopKRouter LagunaTopKRouter Lfm2MoeTopKRouter Llama4Router LongcatFlashTopkRouter
MellumTopKRouter MiMoV2FlashTopkRouter MiniMaxTopKRouter MiniMaxM2TopKRouter
MiniMaxM3VLTopKRouter Mistral4TopkRouter MistralLarge4TextTopkRouter MixtralTopKRouter
MuseSparkTopkRouter NemotronHTopkRouter NllbMoeTop2Router OlmoeTopKRouter
OpenAIPrivacyFilterTopKRouter PhimoeTopKRouter Qwen2MoeTopKRouter Qwen3_5MoeTopKRouter
Qwen3MoeTopKRouter Qwen3NextTopKRouter Qwen3OmniMoeTextTopKRouter
Qwen3OmniMoeThinkerTextTopKRouter Qwen3OmniMoeTalkerTextTopKRouter Qwen3VLMoeTextTopKRouter
Qwen4ExpTextTopKRouter SolarOpenTopkRouter Step3p7TopKRouter SwitchTransformersTop1Router
UnlimitedOcrTextTopkRouter ZayaRouter
""".split()  # noqa: SIM905 - easier to compare with the list it came from


def test_all_78_router_classes_have_a_reader() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 78
    assert set(CLASSES) - set(READERS) == set()
    for entry in READERS.values():
        assert entry.read is not None or entry.inside in READERS


def router(**changes: Any) -> Router:
    settings: dict[str, Any] = {
        "name": "layers.0.gate",
        "module": nn.Identity(),
        "parent": nn.Identity(),
        "modules": 8,
        "choices": 2,
        "read": selected,
    }
    return Router(**settings | changes)


LOGITS = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
WEIGHT, CHOSEN = LOGITS.softmax(-1).topk(2)


@pytest.mark.parametrize(
    "output",
    [
        (LOGITS, WEIGHT, CHOSEN),
        (LOGITS, WEIGHT, CHOSEN, torch.ones(5, 1)),
        (CHOSEN, WEIGHT),
        (CHOSEN, WEIGHT, None),
        (torch.zeros(5, 8).scatter(1, CHOSEN, WEIGHT), CHOSEN),
        {"indices": CHOSEN, "weights": WEIGHT},
        LOGITS,
    ],
)
def test_outputs_in_any_order_are_read(output) -> None:
    choice = selected(router(), output)
    assert torch.equal(choice.chosen, CHOSEN)
    assert choice.weight is not None
    share = choice.weight / choice.weight.sum(-1, keepdim=True)
    torch.testing.assert_close(share, WEIGHT / WEIGHT.sum(-1, keepdim=True))


@pytest.mark.parametrize("part", ["e_score_correction_bias", "n_group"])
def test_logits_alone_are_not_read_where_more_decides(part: str) -> None:
    module: Any = nn.Identity()
    if part == "n_group":
        module.n_group = 4
    else:
        module.register_buffer(part, torch.zeros(8))
    with pytest.raises(TraceError, match=r"cannot be read.*takes part in the choice.*Say what"):
        selected(router(module=module), LOGITS)


def test_logits_without_a_number_of_choices_are_refused() -> None:
    with pytest.raises(TraceError, match=r"cannot be read.*Say what it means"):
        selected(router(choices=None), LOGITS)


def test_the_number_of_modules_is_read_from_weights_or_given() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    assert find_routers(model, "0").routers[0].modules == 6
    model = nn.Sequential(nn.Identity())
    with pytest.raises(TraceError, match=r"does not say how many modules.*modules=8"):
        find_routers(model, "0")
    assert find_routers(model, "0", modules=8).routers[0].modules == 8


def test_names_are_those_without_wrappers() -> None:
    name = "_orig_mod.layers.0._checkpoint_wrapped_module.gate"
    assert clean_name(name) == "layers.0.gate"


def test_a_router_within_a_router_is_not_a_second_one() -> None:
    class AfmoeTokenChoiceRouter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(4, 8)
            self.num_experts, self.top_k = 8, 2

    model = nn.ModuleDict(
        {"router": AfmoeTokenChoiceRouter(), "experts": nn.ModuleList([nn.Linear(4, 4)] * 3)}
    )
    assert [entry.name for entry in find_routers(model).routers] == ["router"]


def test_a_class_derived_from_a_router_is_read_like_it() -> None:
    class MixtralTopKRouter(nn.Linear):
        top_k = 2

    class Quantised(MixtralTopKRouter):
        pass

    found = find_routers(nn.ModuleDict({"gate": Quantised(4, 8)})).routers
    assert [(entry.modules, entry.choices, entry.found) for entry in found] == [(8, 2, "class")]


def test_the_table_is_sorted_by_hand_only_once() -> None:
    source = Path(selected.__code__.co_filename).read_text(encoding="utf-8")
    names = re.findall(r"\b\w+(?:Router|Gate|Gating)\b", source.split("READERS: dict")[0])
    assert len(names) == len(set(names))
