"""A tiny Mixtral and texts for it, as users have them."""

import json
from pathlib import Path

import pytest
import torch

WORDS = ["court", "judge", "loop", "while", "rose", "moon", "the", "of"]


def make_model(path: Path) -> Path:
    """Make a tiny Mixtral and a tokenizer of whole words, saved as users save theirs."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {word: number for number, word in enumerate(["<pad>", "<unk>", "</s>", *WORDS])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=2,
    )
    transformers.MixtralForCausalLM(config).save_pretrained(path)
    return path


def write_texts(tmp_path: Path) -> Path:
    """Write texts of three domains with words of their own."""
    rows = [
        {"text": " ".join(WORDS[start : start + 2] * (1 + number % 5)), "domain": name}
        for number in range(12)
        for start, name in ((0, "law"), (2, "code"), (4, "poems"))
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path
