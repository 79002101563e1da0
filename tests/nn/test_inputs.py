"""Prompts side by side, generated ones, and embeddings of rule and layer."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeval.errors import SpecError
from modeval.nn import create
from modeval.spec import DataSpec, ModelSpec, RunSpec, from_dict
from modeval.spec.systems import named

BINARY = DataSpec(rules=3)
SETS = DataSpec(task="sets", rules=3, length=4)
SEEDS = (1, 2)
N = 10


def built(name: str, data: DataSpec = BINARY, **settings: Any) -> Any:
    model, _ = named(name, {"encoder": 6, "width": 12, **settings}, {})
    network = create(data, from_dict(ModelSpec, model), SEEDS)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return network.double()


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(len(SEEDS), N, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (len(SEEDS), N), generator=generator)


def code(network: Any, x: Tensor, rule: Tensor) -> Tensor:
    one_hot = F.one_hot(rule, 3).to(x.dtype)
    parts = [network.encoder_number(x[..., [index]]) for index in (0, 1)]
    return torch.cat((*parts, network.encoder_rule(one_hot)), -1)


def given(weight: Tensor, _: int) -> Tensor:
    """Route to the first two prompts, the second of them half as much."""
    return torch.tensor([0.5, 0.25, 0.0], dtype=weight.dtype).expand_as(weight)


def test_prompts_side_by_side_are_one_longer_input() -> None:
    network = built("joined-prompts")
    x, rule = inputs()
    seen = network(x, rule, route=given).prediction
    bank = network.experts.hidden
    prompt, read = bank.own["prompt"], bank.own["read"]  # (S, M, 1, P), (S, M, P, H)
    assert read.shape[1] == 3
    standing = torch.cat((1.0 * prompt[:, 0], 0.5 * prompt[:, 1], 0.0 * prompt[:, 2]), -1)
    longer = torch.cat((standing.expand(-1, N, -1), code(network, x, rule)), -1)
    weight = torch.cat((read.flatten(1, 2), bank.shared.weight), 1)
    hidden = F.relu(longer @ weight + bank.shared.bias.unsqueeze(1))
    expected = network.decoder(network.experts.readout.shared(hidden))
    torch.testing.assert_close(seen, expected)


def test_prefixes_side_by_side_are_one_longer_sequence() -> None:
    network = built("joined-prefixes", SETS, width=24)
    prefixes = network.prefixes
    heads, head = prefixes.key.shape[2], prefixes.key.shape[-1]
    query, key, value = (torch.randn(2, 5, heads, 4, head).double() for _ in range(3))
    logits = (query @ key.mT) * head**-0.5
    alone = logits.softmax(-1) @ value
    beside = torch.tensor([1.0, 1.0, 0.0]).double().expand(2, 5, 4, 3)
    before = prefixes.before(network.projections)
    found = before.together(query, logits.logsumexp(-1), alone, beside).squeeze(1)
    for seed in range(2):
        both = [  # the keys, then the values, of the two that are there
            parameter[seed, :2].transpose(0, 1).flatten(1, 2).expand(5, -1, -1, -1)
            for parameter in (prefixes.key, prefixes.value)
        ]
        whole = F.scaled_dot_product_attention(
            query[seed],
            torch.cat((both[0], key[seed]), -2),
            torch.cat((both[1], value[seed]), -2),
        )
        torch.testing.assert_close(found[seed], whole)


def test_one_prefix_side_by_side_with_none_is_that_prefix() -> None:
    joined = built("joined-prefixes", SETS, width=24)
    single = built("prefix-per-rule", SETS, width=24)
    shared = {
        name: value
        for name, value in joined.state_dict().items()
        if name in dict(single.named_parameters())
    }
    single.load_state_dict({**single.state_dict(), **shared})
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, N, 4, SETS.features, generator=generator, dtype=torch.float64)
    rule = torch.randint(3, (2, N, 4), generator=generator)

    def second(weight: Tensor, _: int) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.0], dtype=weight.dtype).expand_as(weight)

    torch.testing.assert_close(
        joined(x, rule, route=second).prediction, single(x, rule, route=second).prediction
    )


def test_layers_differ_by_their_embedding_alone() -> None:
    network = built("layer-hypernetwork")
    x, rule = inputs()
    first, second = (layer.weight for layer in network(x, rule).routed)
    assert not torch.allclose(first, second)
    assert [name for name, _ in network.named_parameters() if "layers.0.scorer" in name] == []
    with torch.no_grad():
        network.scorer.layer[:, 1] = network.scorer.layer[:, 0]
    first, second = (layer.weight for layer in network(x, rule).routed)
    torch.testing.assert_close(first, second)


def test_a_generated_prompt_is_the_weighted_sum_of_prompts() -> None:
    network = built("generated-prompt")
    x, rule = inputs()
    output = network(x, rule)
    bank = network.experts.hidden
    made = output.routed[0].weight @ bank.own["prompt"].squeeze(2)  # (S, N, P)
    hidden = code(network, x, rule) @ bank.shared.weight + bank.shared.bias.unsqueeze(1)
    hidden = F.relu(hidden + made @ bank.own["read"].squeeze(1))
    expected = network.decoder(network.experts.readout.shared(hidden))
    torch.testing.assert_close(output.prediction, expected)


@pytest.mark.parametrize(
    ("task", "choices", "reason"),
    [
        ("binary", {"scorer": "both", "aggregation": "inputs"}, "stand before an input"),
        (
            "binary",
            {"scorer": "module", "aggregation": "inputs", "computation": "prompt"},
            "before any module",
        ),
        (
            "binary",
            {
                "scorer": "rule",
                "gating": "linear",
                "aggregation": "inputs",
                "computation": "prompt",
            },
            "less than not at all",
        ),
        (
            "sets",
            {"scorer": "rule", "aggregation": "inputs", "computation": "prompt"},
            "heads of its own",
        ),
        ("binary", {"scorer": "embedding", "level": "global", "layers": 2}, "embedding of each"),
    ],
)
def test_inputs_that_cannot_be_are_refused(task: str, choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        from_dict(RunSpec, {"data": {"task": task, "rules": 3}, "model": choices})
