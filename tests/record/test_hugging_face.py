"""Recording models of transformers: generation, decoders, several kinds of tokens."""

# ruff: noqa: SIM117 - what must fail is the whole recording
from pathlib import Path

import pytest
import torch
from small_models import MODULES, mixtral, padded, same  # type: ignore[import-not-found, unused-ignore]

from modeval.errors import TraceError
from modeval.record.recording import record
from modeval.trace.files import concatenate, read_trace
from modeval.trace.fold import fold
from modeval.trace.trace import PHASES


def test_generating_a_batch_counts_what_its_samples_count_one_by_one(tmp_path: Path) -> None:
    model = mixtral()
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    ids, mask = padded(rows)
    with torch.no_grad():  # stop after a token that ends one sequence early, not the others
        free = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None
        )
    stop = int(free[0, ids.shape[1] + 2])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": stop}
    path = tmp_path / "live.trace"
    with torch.no_grad(), record(model, 3, trace=path) as together:
        together.label([0, 1, 2])
        model.generate(input_ids=ids, attention_mask=mask, **options)
    with torch.no_grad(), record(model, 3) as apart:
        for number, row in enumerate(rows):
            apart.label([number], documents=[number])
            model.generate(
                input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)), **options
            )
    for phase in (None, "prefill", "decode"):
        same(together.counts(phase), apart.counts(phase))
        same(fold(path, phase=phase), together.counts(phase))
    prefill = together.counts("prefill").samples.sum((0, 1)) / 2
    assert prefill.tolist() == [4.0, 2.0, 3.0]
    decode = together.counts("decode").samples.sum((0, 1)) / 2
    assert decode[0] < decode.max()  # the first sequence really ended early
    assert "generate" not in vars(model)

    _, chunks = read_trace(path)
    read = concatenate(list(chunks))
    mine = read[(read.document == 1) & (read.layer == 0)]
    assert mine.position.tolist() == list(range(len(mine)))
    assert [PHASES[number] for number in mine.phase[:3]] == ["prefill", "prefill", "decode"]


def test_beams_belong_to_the_sample_they_grew_from() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7], [9]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, num_beams=2)
    prefill = recording.counts("prefill").samples.sum((0, 1)) / 2
    assert (prefill[0] / prefill[1]).item() == 3.0


def test_caches_of_fixed_size_tell_prefill_from_decode() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7], [9, 10, 11]])
    with torch.no_grad(), record(model) as recording:
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=3,
            do_sample=False,
            eos_token_id=None,
            cache_implementation="static",
        )
    assert recording.counts("prefill").samples.sum((1, 2)).tolist() == [6.0, 6.0]
    assert recording.counts("decode").samples.sum((1, 2)).tolist() == [4.0, 4.0]


def test_a_loop_written_by_hand_keeps_labels_while_decoding() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7], [9, 10, 11]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        out = model(input_ids=ids, attention_mask=mask, use_cache=True)
        name = "cache" if "cache" in out else "past_key_values"  # renamed in transformers 5.24
        for _ in range(2):
            following = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=following, **{name: getattr(out, name)})
    assert recording.counts("decode").samples.sum((0, 1)).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("reentrant", [False, True])
def test_hugging_face_checkpointing_does_not_count_twice(*, reentrant: bool) -> None:
    model = mixtral().train()
    older = model.gradient_checkpointing_enable
    enable = getattr(model, "activation_checkpointing_enable", older)
    enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    ids, mask = padded([[5, 6, 7], [9]])
    with record(model) as recording:
        model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
    assert recording.counts("train").samples.sum((1, 2)).tolist() == [4.0, 4.0]


def test_fused_kernels_that_replace_a_block_are_refused() -> None:
    model = mixtral()
    for layer in model.model.layers:
        layer.mlp.forward = lambda hidden: hidden
    ids, mask = padded([[5, 6, 7]])
    with pytest.raises(TraceError, match=r"2 expected, 2 hooked, 0 recorded.*fused kernel"):
        with torch.no_grad(), record(model):
            model(input_ids=ids, attention_mask=mask)


def test_targets_mask_the_padding_of_a_decoder() -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.SwitchTransformersConfig(
        vocab_size=48,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_heads=2,
        num_layers=2,
        num_decoder_layers=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        num_experts=MODULES,
        decoder_start_token_id=0,
    )
    model = transformers.SwitchTransformersForConditionalGeneration(config).eval()
    ids, mask = padded([[5, 6, 7], [9]], left=False)
    targets = torch.tensor([[4, 5, 2], [4, 2, -100]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model(input_ids=ids, attention_mask=mask, labels=targets)
    counted = {layer.name.partition(".")[0]: layer.counted for layer in recording.coverage().layers}
    assert counted == {"encoder": 4, "decoder": 5}
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, eos_token_id=None)
    decoder = [layer for layer in recording.coverage().layers if layer.name.startswith("decoder")]
    assert all(layer.counted == 8 for layer in decoder)


def test_text_and_image_experts_get_their_own_tokens() -> None:
    transformers = pytest.importorskip("transformers")
    models = pytest.importorskip("transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe")
    torch.manual_seed(0)
    configs = transformers.models.ernie4_5_vl_moe
    if not hasattr(configs, "Ernie4_5_VLMoeTextConfig"):
        pytest.skip("transformers calls it by another name")
    config = configs.Ernie4_5_VLMoeTextConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        moe_intermediate_size=[16, 16],
        moe_k=2,
        moe_num_experts=MODULES,
        moe_num_shared_experts=1,
        mlp_layer_types=["sparse", "sparse"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    )
    model = models.Ernie4_5_VLMoeTextModel(config).eval()
    _, mask = padded([[5, 6, 7, 8], [9, 10]])
    types = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    positions = torch.arange(4).expand(3, 2, 4)
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model(
            inputs_embeds=torch.randn(2, 4, 32),
            attention_mask=mask,
            position_ids=positions,
            moe_mm_token_type_ids=types,
        )
    counts = recording.counts().samples.sum(1)
    by_layer = dict(zip(recording.layers, counts.tolist(), strict=True))
    assert by_layer["layers.0.mlp.text_moe.gate"] == [2.0, 1.0]
    assert by_layer["layers.0.mlp.vision_moe.gate"] == [2.0, 1.0]
