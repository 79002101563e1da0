"""Tiny random models of many architectures, and a batch for them."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from modeval.record.routers.readers import BIASES

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "d_model": 32,
    "d_ff": 32,
    "d_kv": 8,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "num_hidden_layers": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "n_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "moe_top_k": 2,
    "top_k_experts": 2,
    "first_k_dense_replace": 0,
    "num_dense_layers": 0,
    "moe_layer_start_index": 0,
    "decoder_sparse_step": 1,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {"num_key_value_heads": 4}
SPARSE = {"mlp_layer_types": ["sparse", "sparse"]}
MROPE = {"rope_type": "default", "rope_theta": 1e4}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


@dataclass(frozen=True)
class Case:
    """A model type, what its tiny configuration needs beside SIZES, and its routed layers.

    A part of a model that no automatic class makes is named by ``folder.Class``, and ``kind`` is
    then the class of its configuration.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    layers: int = 2
    modules: int = 8
    choices: int = 2
    seq2seq: bool = False
    auto: str = "AutoModelForCausalLM"
    part: str = ""


CASES = [
    Case("mixtral"),
    Case("olmoe"),
    Case("qwen2_moe"),
    Case("qwen3_moe"),
    Case("qwen3_next", HYBRID),
    Case(
        "deepseek_v2",
        LATENT
        | {
            "topk_method": "group_limited_greedy",
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
        },
    ),
    Case("deepseek_v3", LATENT),
    Case("deepseek_v32", LATENT),
    Case("deepseek_v4"),
    Case("gpt_oss"),
    Case("granitemoe"),
    Case("granitemoe_swa"),
    Case("granitemoeshared"),
    Case(
        "granitemoehybrid",
        {"layer_types": ["attention", "attention"], "mamba_n_heads": 4, "mamba_d_head": 16},
    ),
    Case("phimoe"),
    Case(
        "dbrx",
        {
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {
                "hidden_size": 32,
                "ffn_hidden_size": 16,
                "moe_num_experts": 8,
                "moe_top_k": 2,
            },
            "max_seq_len": 64,
        },
    ),
    Case(
        "llama4_text",
        {"intermediate_size_mlp": 32, "interleave_moe_layer_step": 1, "attention_chunk_size": 32},
    ),
    Case(
        "switch_transformers",
        {
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "num_decoder_layers": 2,
            "expert_capacity": 3,
        },
        layers=3,
        choices=1,
        seq2seq=True,
    ),
    Case("jetmoe", {"kv_channels": 8}, layers=4),
    Case("ernie4_5_moe"),
    Case("glm4_moe"),
    Case("glm4_moe_lite", LATENT, layers=1),
    Case("glm_moe_dsa", LATENT),
    Case(
        "gemma4_text",
        {
            "enable_moe_block": True,
            "num_experts": 8,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
            "global_head_dim": 8,
            "num_global_key_value_heads": 2,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    Case("minimax"),
    Case("minimax_m2"),
    Case(
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 1,
            "expert_layer_offset": 0,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    Case("afmoe"),
    Case("aria_text", {"moe_num_shared_experts": 1}),
    Case("axk1", LATENT, layers=1),
    Case("axk2", LATENT, layers=1),
    Case("cohere2_moe"),
    Case("doge", {"is_moe": True, "num_experts": 16}, modules=16),
    Case(
        "dots1",
        {
            "moe_intermediate_size": 16,
            "n_shared_experts": 1,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "n_routed_experts": 8,
        },
    ),
    Case("exaone_moe"),
    Case("flex_olmo"),
    Case("flint", {"num_hidden_layers": 3}, layers=1),
    Case("hunyuan_v1_moe", {"head_dim": 8}),
    Case("hy_v3", layers=1),
    Case("hy_v4", layers=1),
    Case("kolibri1"),
    Case("laguna", layers=1),
    Case("lfm2_moe", {"layer_types": ["conv", "full_attention"]}),
    Case(
        "longcat_flash",
        LATENT | {"zero_expert_num": 2, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16},
        layers=1,
        modules=10,
    ),
    Case("mellum"),
    Case("mimo_v2_flash", layers=1),
    Case("openai_privacy_filter", auto="AutoModelForTokenClassification"),
    Case("solar_open"),
    Case("zaya", {"num_experts_per_tok": 1, "router_hidden_size": 8}, choices=1),
    Case("bailing_hybrid", LATENT | {"layer_types": ["linear_attention", "full_attention"]}),
    Case("beam", SPARSE),
    Case("dots3_note_text", LATENT, layers=1),
    Case(
        "hy_v4_vl_text",
        {"rope_parameters": MROPE | {"mrope_section": [1, 1, 2]}},
        layers=1,
        auto="AutoModel",
    ),
    Case("inkling_text"),
    Case("kimi_linear", LATENT | {"layer_types": ["linear_attention", "full_attention"]}, layers=1),
    Case("lara_mini"),
    Case("minimax_m3_vl_text"),
    Case("nemotron_h", layers=1),
    Case("qwen3_5_moe_text", HYBRID),
    Case("qwen3_vl_moe_text", auto="AutoModel"),
    Case(
        "DeepseekOcr2TextConfig",
        SPARSE | {"num_experts_per_tok": 2},
        part="deepseek_ocr2.DeepseekOcr2TextModel",
    ),
    Case(
        "DiffusionGemmaTextConfig",
        {
            "num_experts": 8,
            "moe_intermediate_size": 16,
            "enable_moe_block": True,
            "top_k_experts": 2,
            "global_head_dim": 8,
            "num_global_key_value_heads": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        part="diffusion_gemma.DiffusionGemmaEncoderTextModel",
    ),
    Case(
        "Glm4vMoeTextConfig",
        {
            "head_dim": 16,
            "rope_parameters": MROPE | {"mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0},
        },
        part="glm4v_moe.Glm4vMoeTextModel",
    ),
    Case(
        "Glm5NextTextConfig",
        LATENT
        | SPARSE
        | {"qk_rope_head_dim": 0, "layer_types": ["linear_attention", "full_attention"]},
        part="glm5_next.Glm5NextTextModel",
    ),
    Case("Inkling2LoopTextConfig", part="inkling2_loop.Inkling2LoopTextModel"),
    Case("Inkling2TextConfig", part="inkling2.Inkling2TextModel"),
    Case("Mistral4Config", LATENT | {"head_dim": 16}, part="mistral4.Mistral4ForCausalLM"),
    Case("MistralLarge4TextConfig", LATENT, part="mistral_large4.MistralLarge4TextModel"),
    Case("MuseSparkTextConfig", part="muse_spark.MuseSparkTextModel"),
    Case("Qwen3OmniMoeTextConfig", part="qwen3_omni_moe.Qwen3OmniMoeThinkerTextModel"),
    Case("Step3p7TextConfig", SPARSE | {"sliding_window": 8}, part="step3p7.Step3p7TextModel"),
    Case("UnlimitedOcrTextConfig", LATENT, layers=1, part="unlimited_ocr.UnlimitedOcrTextModel"),
]


NLLB = Case(
    "nllb-moe",
    {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_sparse_step": 2,
        "decoder_sparse_step": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    },
    seq2seq=True,
)


def build(case: Case) -> nn.Module:
    """Return a tiny random model; skip when this transformers has none of that type."""
    kind, make = _classes(case)
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers and torch, about settings of our sizes
        plain = kind()
        sizes = {
            name: value
            for name, value in SIZES.items()
            if name == "pad_token_id" or _has(plain, name)
        }
        torch.manual_seed(0)
        model: nn.Module = make(kind(**sizes | case.settings))
        _stir(model)
    return model.eval()


def _classes(case: Case) -> tuple[Any, Callable[[Any], nn.Module]]:
    """Return the class of the configuration, and what makes a model of it."""
    if case.part:
        folder, _, name = case.part.partition(".")
        home = f"transformers.models.{folder}"
        models = pytest.importorskip(f"{home}.modeling_{folder}", exc_type=ImportError)
        configs = importlib.import_module(f"{home}.configuration_{folder}")
        return getattr(configs, case.kind), getattr(models, name)
    if case.kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {case.kind}")
    auto = "AutoModelForSeq2SeqLM" if case.seq2seq else case.auto
    return transformers.CONFIG_MAPPING[case.kind], getattr(transformers, auto).from_config


def _has(config: object, name: str) -> bool:
    try:
        return getattr(config, name, None) is not None
    except AttributeError:
        return False
    except Exception as error:  # noqa: BLE001 - a private class of transformers
        return "PerLayer" in type(error).__name__


def _stir(model: nn.Module) -> None:
    """Make routing differ between tokens, and biases of the choice matter."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        parts = name.split(".")
        if parts[-1] == "tid2eid":  # a table of experts by token, zero when not trained
            tensor.data[:] = torch.rand(len(tensor), 8).topk(tensor.shape[1]).indices
        elif parts[-1] in BIASES:
            tensor.data.normal_(0.0, 0.3)
        elif tensor.ndim == 2 and {"gate", "router", "classifier", "wg"} & set(parts):
            tensor.data.normal_(0.0, 1.0)


def batch(case: Case) -> dict[str, torch.Tensor]:
    """Return token ids with padding on both sides."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 96, (3, 8), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    mask[1, -2:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if case.seq2seq:
        inputs["decoder_input_ids"] = torch.randint(3, 96, (3, 6), generator=generator)
        inputs["decoder_attention_mask"] = torch.ones(3, 6, dtype=torch.long)
        inputs["decoder_attention_mask"][2, -2:] = 0
    return inputs
