"""Networks of the package equal the paper's equations, written plainly for one seed at a time."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeval.cli.bench.plain_pytorch import FAMILIES
from modeval.nn import count_parameters, create
from modeval.spec import MODELS, DataSpec, ModelSpec, attention_heads

Weights = dict[str, Tensor]

TASKS = {
    "binary": DataSpec(task="binary", rules=3),
    "sets": DataSpec(task="sets", rules=3, length=4),
    "series": DataSpec(task="series", rules=3, dimension=5, length=4),
}
SEEDS, SAMPLES = (3, 8), 6


def two(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Apply linear, rectifier, linear."""
    zero = torch.zeros(())
    hidden = x @ weights[f"{name}.hidden.weight"] + weights.get(f"{name}.hidden.bias", zero)
    return F.relu(hidden) @ weights[f"{name}.readout.weight"] + weights.get(
        f"{name}.readout.bias", zero
    )


def route(  # noqa: PLR0917
    scorer: str,
    weights: Weights,
    one_hot: Tensor,
    x: Tensor,
    hidden: list[Tensor],
    outputs: list[Tensor],
) -> Tensor:
    """Return the weights ``(N, M)`` of each sample by the definition of each scorer."""
    if scorer == "none":
        return torch.ones(len(one_hot), 1, dtype=one_hot.dtype)
    if scorer == "oracle":
        return one_hot
    if scorer == "rule":
        if "scorer.projection.weight" in weights:
            code = two(weights, "encoder_rule", one_hot)
            logits = code @ weights["scorer.projection.weight"] + weights["scorer.projection.bias"]
        else:
            logits = two(weights, "scorer.mlp", one_hot)
    elif scorer == "module":
        bias = weights.get("scorer.logit.bias", torch.zeros(len(hidden), 1))
        logits = torch.cat(
            [
                h @ w + b
                for h, w, b in zip(hidden, weights["scorer.logit.weight"], bias, strict=True)
            ],
            -1,
        )
    else:
        logits = torch.cat(
            [two(weights, "scorer.mlp", torch.cat((y, x, one_hot), -1)) for y in outputs], -1
        )
    return logits.softmax(-1)


def experts(weights: Weights, seen: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return hidden units and outputs of each module."""
    hidden = [
        F.relu(x @ w + b)
        for x, w, b in zip(
            seen, weights["experts.hidden.weight"], weights["experts.hidden.bias"], strict=True
        )
    ]
    outputs = [
        h @ w + b
        for h, w, b in zip(
            hidden, weights["experts.readout.weight"], weights["experts.readout.bias"], strict=True
        )
    ]
    return hidden, outputs


def mix(outputs: list[Tensor], weight: Tensor) -> Tensor:
    return sum((weight[:, [m]] * y for m, y in enumerate(outputs)), torch.zeros(()))


def plain_mlp(
    weights: Weights, scorer: str, x: Tensor, one_hot: Tensor, heads: int
) -> list[Tensor]:
    del heads
    numbers = [two(weights, "encoder_number", x[:, [index]]) for index in (0, 1)]
    seen = torch.cat((*numbers, two(weights, "encoder_rule", one_hot)), -1)
    modules = len(weights["experts.hidden.weight"])
    hidden, outputs = experts(weights, [seen] * modules)
    weight = route(scorer, weights, one_hot, x, hidden, outputs)
    return [two(weights, "decoder", mix(outputs, weight)), weight]


def plain_attention(
    weights: Weights, scorer: str, x: Tensor, one_hot: Tensor, heads: int
) -> list[Tensor]:
    """One set after another, one position after another, one head after another."""
    code = two(weights, "encoder", torch.cat((x, one_hot), -1))
    names = ("query", "key", "value", "position")
    query, key, value, position = (
        code @ weights[f"projections.{name}.weight"] + weights[f"projections.{name}.bias"]
        for name in names
    )
    modules, length = len(weights["experts.hidden.weight"]), x.shape[1]
    width = position.shape[-1] // modules
    predictions, shares = [], []
    for n, t in itertools.product(range(len(x)), range(length)):
        others = [s for s in range(length) if s != t]
        seen = []
        for m in range(modules):
            parts = []
            for head in range(m * heads, (m + 1) * heads):
                part = slice(head * width, (head + 1) * width)
                logits = key[n, others, part] @ query[n, t, part] * width**-0.5
                parts.append(logits.softmax(0) @ value[n, others, part])
            parts.append(position[n, t, m * width : (m + 1) * width])
            seen.append(torch.cat(parts)[None])
        hidden, outputs = experts(weights, seen)
        weight = route(scorer, weights, one_hot[n, [t]], x[n, [t]], hidden, outputs)
        predictions.append(two(weights, "decoder", mix(outputs, weight)))
        shares.append(weight)
    return [torch.stack(part).view(*x.shape[:2], -1) for part in (predictions, shares)]


def plain_recurrent(
    weights: Weights, scorer: str, x: Tensor, one_hot: Tensor, heads: int
) -> list[Tensor]:
    del heads
    modules, size = weights["state_gates.weight"].shape[:2]
    zero = torch.zeros(modules, 1)
    input_bias = weights.get("input_gates.bias", zero)
    state_bias = weights.get("state_gates.bias", zero)
    state = cell = torch.zeros(len(x), size, dtype=x.dtype)
    predictions, shares = [], []
    for t in range(x.shape[1]):
        code = two(weights, "encoder", torch.cat((x[:, t], one_hot[:, t]), -1))
        seen, states, cells = [], [], []
        for m in range(modules):
            from_input = code @ weights["input_gates.weight"][m] + input_bias[m]
            from_state = state @ weights["state_gates.weight"][m] + state_bias[m]
            keep_in, forget, out, new = (from_input + from_state).chunk(4, -1)
            cells.append(forget.sigmoid() * cell + keep_in.sigmoid() * new.tanh())
            states.append(out.sigmoid() * cells[-1].tanh())
            seen.append(F.relu(torch.cat((from_input, from_state), -1)))
        weight = route(scorer, weights, one_hot[:, t], x[:, t], seen, states)
        state, cell = mix(states, weight), mix(cells, weight)
        predictions.append(two(weights, "decoder", state))
        shares.append(weight)
    return [torch.stack(part, 1) for part in (predictions, shares)]


PLAIN = {"binary": plain_mlp, "sets": plain_attention, "series": plain_recurrent}

CASES = [
    (task, name, modules, match)
    for task, name, modules, match in itertools.product(
        TASKS, MODELS, (0, 2, 4), ("parameters", "width")
    )
    if not modules or name not in ("monolithic", "gt-modular")
]


@pytest.mark.parametrize(("task", "name", "modules", "match"), CASES)
def test_a_network_follows_the_equations(task: str, name: str, modules: int, match: str) -> None:
    data = TASKS[task]
    choice = dict(MODELS[name]) | ({"modules": modules} if modules else {})
    model = ModelSpec(**choice, encoder=6, width=24, heads=2, match=match)  # type: ignore[arg-type]
    network = create(data, model, SEEDS).double()
    torch.manual_seed(0)
    positions = (data.length,) if data.sequence else ()
    x = torch.randn(len(SEEDS), SAMPLES, *positions, data.features, dtype=torch.float64)
    rule = torch.randint(data.rules, x.shape[:-1])
    output = network(x, rule)
    one_hot = F.one_hot(rule, data.rules).double()
    heads = attention_heads(data, model)
    for seed in range(len(SEEDS)):
        weights = {key: value[seed].detach() for key, value in network.named_parameters()}
        prediction, weight = PLAIN[task](weights, model.scorer, x[seed], one_hot[seed], heads)
        torch.testing.assert_close(output.prediction[seed], prediction)
        torch.testing.assert_close(output.routed[0].weight[seed], weight)


@pytest.mark.parametrize("task", TASKS)
def test_routing_weights_lie_in_the_simplex(task: str) -> None:
    data = TASKS[task]
    network = create(data, ModelSpec(scorer="module", encoder=6, width=24), SEEDS)
    positions = (data.length,) if data.sequence else ()
    x = torch.randn(len(SEEDS), SAMPLES, *positions, data.features)
    weight = network(x, torch.randint(data.rules, x.shape[:-1])).routed[0].weight
    assert weight.min() >= 0
    torch.testing.assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "modular-shared"])
@pytest.mark.parametrize("rules", [2, 8])
def test_the_baseline_of_the_benchmark_has_as_many_parameters(
    task: str, name: str, rules: int
) -> None:
    data, model = DataSpec(task=task, rules=rules), ModelSpec(**MODELS[name])  # type: ignore[arg-type]
    plain = sum(parameter.numel() for parameter in FAMILIES[task](data, model).parameters())
    assert plain == count_parameters(create(data, model, (0,)))
