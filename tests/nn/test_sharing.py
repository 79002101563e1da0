"""Hard and soft sharing, prefixes and prompts: each from its own definition."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from modeval.errors import SpecError
from modeval.nn import create
from modeval.nn.bank import Bank
from modeval.spec import DataSpec, ModelSpec, RunSpec
from modeval.spec.computing.computations import Full
from modeval.spec.computing.sharing import BeforePositions, Head, Prefix, PromptTokens, Tied
from modeval.train.fused import Fused, KernelError
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

BINARY = DataSpec(rules=3)
SETS = DataSpec(task="sets", rules=3, length=4)
SEEDS = ((0, 1), (0, 2))


def built(data: DataSpec, computation: Any, **choices: Any) -> Any:
    given: dict[str, Any] = {"scorer": "oracle", "encoder": 6, "width": 24} | choices
    return create(data, ModelSpec(computation=computation, **given), (1, 2))


def batch_of(data: DataSpec) -> Any:
    return next(batches(Stream(data, SEEDS, 16, torch.device("cpu"))))


# --- prefix --------------------------------------------------------------------------------------


def test_a_prefix_is_keys_and_values_before_those_of_the_positions() -> None:
    network = built(SETS, Prefix(length=2))
    prefixes, before = network.prefixes, network.prefixes.before(network.projections)
    query, key, value = (torch.randn(2, 5, 6, 4, prefixes.key.shape[-1]) for _ in range(3))
    logits = (query @ key.mT) * query.shape[-1] ** -0.5
    found = before.found(query, logits.logsumexp(-1), logits.softmax(-1) @ value)
    for seed in range(2):
        for module in range(3):
            each = [  # (N, A, P, D)
                parameter[seed, module].expand(5, -1, -1, -1)
                for parameter in (prefixes.key, prefixes.value)
            ]
            whole = F.scaled_dot_product_attention(
                query[seed],
                torch.cat((each[0], key[seed]), -2),
                torch.cat((each[1], value[seed]), -2),
            )
            torch.testing.assert_close(found[seed, module], whole)


def test_a_prefix_of_small_keys_and_no_values_only_takes_its_share() -> None:
    network = built(SETS, Prefix(length=3))
    batch = batch_of(SETS)
    with torch.no_grad():
        network.prefixes.key.fill_(0)
        network.prefixes.value.fill_(0)
    query = torch.zeros(2, 1, 6, 4, network.head)
    found = torch.ones_like(query)
    total = torch.full(query.shape[:-1], 3.0).log()
    # three of the six equal keys are the prefix's, and its values are 0
    seen = network.prefixes.before(network.projections).found(query, total, found)
    torch.testing.assert_close(seen, torch.full((2, 3, 1, 6, 4, network.head), 0.5))
    assert network(batch.inputs, batch.rule).prediction.isfinite().all()


def test_modules_with_prefixes_share_all_but_those() -> None:
    network = built(SETS, Prefix())
    per_module = {
        name
        for name, value in network.named_parameters()
        if value.dim() > 1 and value.shape[1] == 3 and name.startswith(("experts", "prefixes"))
    }
    assert per_module == {"prefixes.key", "prefixes.value"}


# --- prompt tokens -------------------------------------------------------------------------------


def linear(layer: Any, x: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.add(x @ layer.weight[seed], layer.bias[seed])


def longer(network: Any, batch: Any, seed: int) -> torch.Tensor:
    """Return what one seed says, by plain attention over ``[tokens, encodings]``."""

    def heads(name: str, x: torch.Tensor) -> torch.Tensor:  # (N, L, E) -> (N, A, L, D)
        projected = linear(network.projections[name], x, seed)
        apart: torch.Tensor = projected.unflatten(-1, (network.heads, network.head))
        return apart.transpose(1, 2)

    def mlp(first: Any, second: Any, x: torch.Tensor) -> torch.Tensor:
        return linear(second, F.relu(linear(first, x, seed)), seed)

    encoder, experts, decoder = network.encoder, network.experts, network.decoder
    rule = batch.rule[seed]
    x = torch.cat((batch.inputs[seed], F.one_hot(rule, 3).to(batch.inputs)), -1)
    code = mlp(encoder.hidden, encoder.readout, x)
    itself = linear(network.projections["position"], code, seed)
    outputs = torch.zeros(rule.shape)
    for module in range(3):
        token = network.prefixes.token[seed, module]
        whole = torch.cat((token.expand(len(code), -1, -1), code), 1)
        # a position attends to all tokens and to all other positions
        mask = torch.cat((torch.ones(4, len(token)), 1 - torch.eye(4)), 1).bool()
        found = F.scaled_dot_product_attention(
            heads("query", code), heads("key", whole), heads("value", whole), attn_mask=mask
        )
        found = torch.cat((found.transpose(1, 2).flatten(2), itself), -1)
        said = mlp(experts.hidden.shared, experts.readout.shared, found)
        said = mlp(decoder.hidden, decoder.readout, said)
        outputs = torch.where(rule == module, said.squeeze(-1), outputs)
    return outputs


def test_prompt_tokens_are_one_longer_sequence_for_one_network() -> None:
    network, batch = built(SETS, PromptTokens(length=2)), batch_of(SETS)
    prediction = network(batch.inputs, batch.rule).prediction
    assert prediction.shape == (2, 16, 4, 1)  # the task's positions alone, no tokens
    for seed in range(2):
        torch.testing.assert_close(prediction[seed, ..., 0], longer(network, batch, seed))


def test_prompt_tokens_are_the_prefix_that_the_trunk_makes_of_them() -> None:
    tokens, prefix = built(SETS, PromptTokens(length=3)), built(SETS, Prefix(length=3))
    before = tokens.prefixes.before(tokens.projections)
    shared = {name: value for name, value in tokens.state_dict().items() if "prefixes" not in name}
    made = {"prefixes.key": before.key.detach(), "prefixes.value": before.value.detach()}
    prefix.load_state_dict(shared | made)
    batch = batch_of(SETS)
    torch.testing.assert_close(
        tokens(batch.inputs, batch.rule).prediction, prefix(batch.inputs, batch.rule).prediction
    )


def test_without_any_prompt_tokens_the_trunk_alone_remains() -> None:
    network, batch = (
        built(SETS, PromptTokens(), scorer="rule", aggregation="inputs"),
        batch_of(SETS),
    )
    alone = built(SETS, Full(), scorer="none", modules=1)
    held = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in alone.named_parameters():
            shared = re.sub(r"^(experts\.\w+)", r"\1.shared", name)
            value.copy_(held[shared].view_as(value))
    seen = network(batch.inputs, batch.rule, route=lambda weight, _: torch.zeros_like(weight))
    torch.testing.assert_close(seen.prediction, alone(batch.inputs, batch.rule).prediction)


def test_a_rule_moves_the_trunk_and_its_own_tokens_alone() -> None:
    network, batch = built(SETS, PromptTokens()), batch_of(SETS)
    rule = torch.ones_like(batch.rule)
    loss = network(batch.inputs, rule).prediction.square().sum()
    [token, key] = torch.autograd.grad(
        loss, [network.prefixes.token, network.projections["key"].weight]
    )
    assert int(key.count_nonzero()) > 0
    assert [bool(token[:, module].any()) for module in range(3)] == [False, True, False]
    per_module = {
        name
        for name, value in network.named_parameters()
        if value.dim() > 1 and value.shape[1] == 3 and name.startswith(("experts", "prefixes"))
    }
    assert per_module == {"prefixes.token"}


# --- hard sharing --------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [BINARY, SETS], ids=lambda data: data.task)
def test_heads_are_all_that_hard_sharing_gives_a_module(data: DataSpec) -> None:
    network = built(data, Head())
    hidden, readout = network.experts.hidden, network.experts.readout
    assert hidden.own == {}
    assert readout.shared is None
    assert sorted(readout.own) == ["bias", "weight"]
    weight, _ = hidden.parts()
    assert torch.equal(weight[:, 0], weight[:, 2])


def test_a_rule_moves_the_trunk_and_its_own_head_alone() -> None:
    network = built(BINARY, Head())
    batch = batch_of(BINARY)
    rule = torch.ones_like(batch.rule)
    loss = network(batch.inputs, rule).prediction.square().sum()
    [head, trunk] = torch.autograd.grad(
        loss, [network.experts.readout.own["weight"], network.experts.hidden.shared.weight]
    )
    assert int(trunk.count_nonzero()) > 0
    assert [int(head[:, module].count_nonzero()) > 0 for module in range(3)] == [False, True, False]


# --- soft sharing --------------------------------------------------------------------------------


def test_the_penalty_of_soft_sharing_is_the_squared_distance_of_all_pairs() -> None:
    network = built(BINARY, Tied(penalty_weight=0.5))
    batch = batch_of(BINARY)
    pairs = [(0, 1), (0, 2), (1, 2)]
    banks = (network.experts.hidden, network.experts.readout)
    expected = sum(
        0.5 * (each[:, a] - each[:, b]).square().flatten(1).sum(1)
        for bank in banks
        for each in bank.own.values()
        for a, b in pairs
    )
    torch.testing.assert_close(network(batch.inputs, batch.rule).penalty, expected)


@pytest.mark.slow
def test_the_dearer_the_distance_the_more_alike_are_modules() -> None:
    spread = []
    for weight in (1e-6, 1e-1):
        network = built(BINARY, Tied(penalty_weight=weight))
        stepper = Stepper(network, "regression", engine="eager")
        source = batches(Stream(BINARY, SEEDS, 16, torch.device("cpu")))
        for _, batch in zip(range(60), source, strict=False):
            stepper.step(batch, torch.tensor(1e-2))
        bank: Bank = network.experts.hidden
        spread.append(float(bank.own["weight"].detach().var(1).mean()))
    assert spread[1] < 0.1 * spread[0]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "choices", "reason"),
    [
        (BINARY, {"computation": Prefix()}, "only sets attend"),
        (SETS, {"computation": Prefix(), "layers": 2}, "attend to nothing"),
        (SETS, {"computation": Prefix(), "scorer": "rule", "aggregation": "parameters"}, "keys"),
        (BINARY, {"computation": PromptTokens()}, "only sets attend"),
        (SETS, {"computation": PromptTokens(), "layers": 2}, "attend to nothing"),
        (BINARY, {"computation": Head(), "layers": 2}, "last layer alone"),
        (BINARY, {"computation": Tied(), "scorer": "none", "modules": 1}, "be drawn to"),
        (DataSpec(task="series", rules=3), {"computation": Head()}, "recurrent cells have none"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    data: DataSpec, choices: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SpecError, match=reason):
        RunSpec(data=data, model=ModelSpec(**({"scorer": "oracle"} | choices)))


@pytest.mark.parametrize("computation", [Head(), Tied(), Prefix(), PromptTokens()])
def test_no_kernel_takes_shared_modules_for_whole_ones(computation: Any) -> None:
    data = SETS if isinstance(computation, BeforePositions) else BINARY
    with pytest.raises(KernelError):
        Fused(built(data, computation), "regression")
