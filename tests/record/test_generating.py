"""Generation: what is prompt, written, padding, ended or drafted, in each way that models write."""

# ruff: noqa: PT012, SIM117 - what must fail is the whole recording
import re
from typing import Any

import pytest
import torch
from small_models import (  # type: ignore[import-not-found, unused-ignore]
    mixtral,
    padded,
)

from modeval.errors import TraceError
from modeval.record.recording import record
from modeval.trace.files import concatenate, read_trace
from modeval.trace.trace import PHASES

pytest.importorskip("transformers")

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "eos_token_id": None,
    "pad_token_id": 0,
    "max_new_tokens": 3,
}


def rows(recording, phase: str) -> Any:
    """Return for each label the tokens that the first layer saw in a phase."""
    return recording.counts(phase).samples[0].sum(0).tolist()


@pytest.fixture(scope="module")
def model():
    return mixtral(num_hidden_layers=1)


OLD = "Cannot use prefill chunking without a cache|isin\\(\\) received an invalid combination"


def written(model, **inputs):
    """Generate; skip what the first releases of transformers 5 cannot do themselves."""
    try:
        return model.generate(**GREEDY | inputs)
    except (TypeError, ValueError) as error:
        if re.search(OLD, str(error)):
            pytest.skip(f"this transformers fails: {error}")
        raise


def generate(model, ids, mask=None, labels=(0, 1), **options):
    with torch.no_grad(), record(model, 2) as recording:
        recording.label(list(labels))
        written(model, input_ids=ids, attention_mask=mask, **options)
    return recording


def test_masks_of_ones_that_generate_drops_do_not_hide_decoding(model) -> None:
    ids, mask = padded([[5, 6, 7, 8], [9, 3, 7, 8]])
    recording = generate(model, ids, mask)
    assert rows(recording, "prefill") == [4.0, 4.0]
    assert rows(recording, "decode") == [2.0, 2.0]
    assert recording.header().padding == "excluded"
    assert recording.header().notes == ()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache_implementation": "static", "disable_compile": True},
        {"use_cache": False},
        {"prefill_chunk_size": 3},
        {"prefill_chunk_size": 1},
    ],
    ids=str,
)
def test_padding_is_left_out_however_the_model_caches(model, options: dict[str, Any]) -> None:
    ids, mask = padded([[5, 6, 7, 8], [7, 8]])
    recording = generate(model, ids, mask, **options)
    assert rows(recording, "prefill") == [4.0, 2.0]
    assert rows(recording, "decode") == [2.0, 2.0]
    assert recording.header().padding == "excluded"


def test_padding_that_generate_finds_by_itself_is_left_out(model) -> None:
    ids, _ = padded([[5, 6, 7, 8], [7, 8]])
    recording = generate(model, ids, None, cache_implementation="static", disable_compile=True)
    assert rows(recording, "prefill") == [4.0, 2.0]


@pytest.mark.parametrize("cached", [True, False])
def test_positions_go_on_through_generation(model, tmp_path, *, cached: bool) -> None:
    ids, mask = padded([[5, 6, 7, 8], [7, 8]])
    path = tmp_path / "live.trace"
    with torch.no_grad(), record(model, trace=path, tokens=True):
        model.generate(input_ids=ids, attention_mask=mask, use_cache=cached, **GREEDY)
    read = concatenate(list(read_trace(path)[1]))
    for document, length in ((0, 4), (1, 2)):
        mine = read[read.document == document]
        assert mine.position.tolist() == list(range(length + 2))
        assert [PHASES[one] for one in mine.phase] == ["prefill"] * length + ["decode"] * 2


class EndsAt:
    """Ends one sequence after so many tokens, as strings and rules of users do."""

    def __init__(self, row: int, length: int) -> None:
        self.row, self.length = row, length

    def __call__(self, input_ids, scores, **_):
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        done[self.row] = input_ids.shape[1] >= self.length
        return done


@pytest.mark.parametrize("cached", [True, False])
def test_sequences_ended_by_any_rule_are_not_counted_on(model, *, cached: bool) -> None:
    ids, mask = padded([[5, 6, 7, 8], [7, 8, 9, 10]])
    recording = generate(
        model, ids, mask, max_new_tokens=5, stopping_criteria=[EndsAt(0, 6)], use_cache=cached
    )
    assert rows(recording, "prefill") == [4.0, 4.0]
    assert rows(recording, "decode") == [1.0, 4.0]


def test_a_token_that_ends_nothing_is_counted(model) -> None:
    ids, mask = padded([[5, 6, 2, 2], [2, 8, 9, 2]])  # 2 ends sequences unless that is turned off
    bias = {(2,): 100.0}
    recording = generate(model, ids, mask, sequence_bias=bias, max_new_tokens=4)
    assert rows(recording, "decode") == [3.0, 3.0]


@pytest.mark.parametrize("drafts", ["lookup", "assistant", "itself"])
def test_verified_tokens_are_decoded_and_drafts_are_not_counted(model, drafts: str) -> None:
    ids = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6]])
    options: dict[str, Any] = {"prompt_lookup_num_tokens": 2}
    if drafts != "lookup":
        options = {"assistant_model": mixtral() if drafts == "assistant" else model}
    recording = generate(model, ids, torch.ones_like(ids), [1], max_new_tokens=6, **options)
    assert rows(recording, "prefill") == [0.0, 8.0]
    assert rows(recording, "decode")[1] >= 5
    assert any("rejected" in note for note in recording.header().notes)
    plain = generate(model, ids, torch.ones_like(ids), [1], max_new_tokens=6)
    assert plain.header().notes == ()


def test_labels_of_tokens_go_on_while_decoding(model) -> None:
    ids, mask = padded([[5, 6, 7, 8]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([[0, 0, 1, 1]])
        written(model, input_ids=ids, attention_mask=mask, prefill_chunk_size=3)
    assert rows(recording, "prefill") == [2.0, 2.0]
    assert rows(recording, "decode") == [0.0, 2.0]


def test_a_mask_given_by_hand_holds_for_the_prompt(model) -> None:
    ids, mask = padded([[5, 6, 7, 8], [7, 8, 9, 3]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1], mask=[[1, 1, 0, 0], [0, 1, 1, 1]])
        model.generate(input_ids=ids, attention_mask=mask, **GREEDY)
    assert rows(recording, "prefill") == [2.0, 3.0]
    assert rows(recording, "decode") == [2.0, 2.0]


def test_returned_sequences_share_a_label_only_while_generating(model) -> None:
    ids, mask = padded([[5, 6, 7], [7, 8, 9]])
    recording = generate(model, ids, mask, do_sample=True, num_return_sequences=2)
    assert rows(recording, "prefill") == [6.0, 6.0]
    with pytest.raises(TraceError, match="2 labels were given for a batch of 4"):
        with torch.no_grad(), record(model, 2) as recording:
            recording.label([0, 1])
            model(input_ids=ids.repeat(2, 1), attention_mask=mask.repeat(2, 1))


def test_a_run_that_fails_and_is_tried_again_counts_once(model) -> None:
    ids, mask = padded([[5, 6, 7], [7, 8, 9]])

    class Breaks(EndsAt):
        def __call__(self, input_ids, scores, **_):
            raise MemoryError

    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        with pytest.raises(MemoryError):
            broken = GREEDY | {"stopping_criteria": [Breaks(0, 0)]}
            model.generate(input_ids=ids, attention_mask=mask, **broken)
        model.generate(input_ids=ids, attention_mask=mask, **GREEDY)  # its labels still hold
    assert rows(recording, "prefill") == [3.0, 3.0]
    assert rows(recording, "decode") == [2.0, 2.0]


def test_continuous_batching_is_refused_where_it_is_called(model) -> None:
    with record(model) as recording:
        with pytest.raises(TraceError, match=r"batches requests continuously.*model\.generate"):
            model.generate_batch([[5, 6, 7]])
        model(torch.tensor([[5, 6]]))
    assert recording.counts().samples.sum() == 2
    assert "generate_batch" not in vars(model)
    assert "prepare_inputs_for_generation" not in vars(model)


def test_several_tokens_after_others_are_prefill_and_said_to_be(model) -> None:
    ids, _ = padded([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad(), record(model) as recording:
        out = model(input_ids=ids[:, :3], use_cache=True)
        name = "cache" if "cache" in out else "past_key_values"
        out = model(input_ids=ids[:, 3:5], **{name: getattr(out, name)})
        model(input_ids=ids[:, 5:], **{name: getattr(out, name)})
    assert rows(recording, "prefill") == [5.0]
    assert rows(recording, "decode") == [1.0]
    assert any("1 calls of several tokens after others" in x for x in recording.header().notes)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_canvases_that_are_denoised_are_no_prompt_and_have_a_mask_of_their_own() -> None:
    """The decoder of a diffusion model fills a canvas beside a padded prompt of the same size."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip("this transformers has no such model")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    text = transformers.DiffusionGemmaTextConfig(
        **size, vocab_size=64, num_hidden_layers=1, num_key_value_heads=2, num_experts=4,
        moe_intermediate_size=16, top_k_experts=2, global_head_dim=8,
        num_global_key_value_heads=2, layer_types=["full_attention"], pad_token_id=0,
    )  # fmt: skip
    config = transformers.DiffusionGemmaConfig(
        text_config=text,
        vision_config={"model_type": "gemma4_vision", "num_hidden_layers": 1} | size,
        canvas_length=4, image_token_id=60, boi_token_id=61, eoi_token_id=62,
    )  # fmt: skip
    network = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    ids, mask = padded([[7, 8], [5, 6, 7, 8]])
    canvas = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
    with torch.no_grad(), record(network) as recording:
        network(input_ids=ids, attention_mask=mask, decoder_input_ids=canvas)
    assert recording.counts().samples.sum((1, 2)).tolist() == [6.0, 8.0]
    with torch.no_grad(), record(network) as recording:
        network.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=4, max_denoising_steps=2
        )
    encoder, decoder = recording.counts().samples.sum((1, 2)).tolist()
    assert encoder == 6.0
    assert decoder % 8 == 0
