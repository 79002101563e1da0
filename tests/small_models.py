"""Small models to record, made here, and another account of what they choose."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from modeval.counting.count import count_choices
from modeval.trace.fold import document_block
from modeval.types import RoutingCounts

MODULES = 4


class Gate(nn.Module):
    """Chooses the two largest logits."""

    def __init__(self, width: int = 8, top_k: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(MODULES, width))
        self.top_k = top_k
        self.num_experts = MODULES

    def forward(self, hidden):
        logits = hidden.reshape(-1, hidden.shape[-1]) @ self.weight.T
        weight, chosen = logits.softmax(-1).topk(self.top_k)
        return logits, weight, chosen


class Block(nn.Module):
    """A routed block in the style of current libraries."""

    def __init__(self, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.gate = gate or Gate()
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(MODULES)])

    def forward(self, hidden):
        _, weight, chosen = self.gate(hidden)
        flat = hidden.reshape(-1, 8)
        out = torch.stack([expert(flat) for expert in self.experts], 1)
        picked = out.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 8))
        return hidden + (weight.unsqueeze(-1) * picked).sum(1).view_as(hidden)


class Model(nn.Module):
    """Embedding and blocks, called with ids and a mask; may checkpoint its blocks."""

    def __init__(self, blocks: int = 2, *, reentrant: bool | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 8)
        self.layers = nn.ModuleList([Block() for _ in range(blocks)])
        self.reentrant = reentrant

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            if self.reentrant is None:
                hidden = layer(hidden)
            else:
                hidden = checkpoint(layer, hidden, use_reentrant=self.reentrant)
        return hidden


GATES = {"layers.*.gate": lambda output: (output[2], output[1])}


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def by_hand(model: Model, ids, rule, mask=None, *, rules: int) -> RoutingCounts:
    """Count without hooks: run the blocks one by one."""
    hidden, layers = model.embed(ids), []
    rule = rule.unsqueeze(1).expand(ids.shape).clone()
    if mask is not None:
        rule[mask == 0] = -1
    block = document_block(torch.arange(len(ids)), 64).unsqueeze(1).expand(ids.shape).reshape(-1)
    for layer in model.layers:
        _, weight, chosen = layer.get_submodule("gate")(hidden)
        weight = weight / weight.sum(-1, keepdim=True)
        layers.append(
            count_choices(
                rule.reshape(-1),
                chosen,
                weight,
                rules=rules,
                modules=MODULES,
                block=block,
                blocks=64,
            ).tensors()
        )
        hidden = layer(hidden)
    return RoutingCounts(**{name: torch.stack([x[name] for x in layers]) for name in layers[0]})


def same(mine: RoutingCounts, other: RoutingCounts) -> None:
    whole = other.pooled().tensors()
    for name, part in mine.pooled().tensors().items():
        torch.testing.assert_close(part, whole[name], rtol=1e-6, atol=1e-6)


def mixtral(**settings):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **{
            "vocab_size": 48,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": MODULES,
            "num_experts_per_tok": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        | settings
    )
    model = transformers.MixtralForCausalLM(config).eval()
    for name, part in model.named_parameters():
        if "lm_head" in name or "gate.weight" in name:
            part.data.normal_()
    return model


def padded(rows: list[list[int]], *, left: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for number, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return ids, mask.long()
