"""The arithmetic of a step is what samples taken one by one, each through its modules, cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modeval.nn import Network, create
from modeval.spec import MODELS, DataSpec, ModelSpec
from modeval.train.arithmetic import step_arithmetic
from modeval.train.goal import losses
from modeval.train.stream import Stream, batches

SAMPLES, RULES = 3, 3
FAMILIES = {"binary": "mlp", "sets": "attention", "series": "recurrent"}


def two(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Send rows through two layers, the first of which may be a look-up of the rule."""
    return linear(p, f"{name}.readout", F.relu(linear(p, f"{name}.hidden", x)))


def linear(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x @ p[f"{name}.weight"]
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def part(p: dict[str, Tensor], name: str, m: int, x: Tensor) -> Tensor:
    y = x @ p[f"{name}.weight"][m]
    return y + p[f"{name}.bias"][m] if f"{name}.bias" in p else y


def looked_up(p: dict[str, Tensor], name: str, rules: int) -> Tensor:
    """Return two layers of the one-hot rules: rows of the first matrix, the last of its rows."""
    hidden = p[f"{name}.hidden.weight"][-rules:]
    if f"{name}.hidden.bias" in p:
        hidden = hidden + p[f"{name}.hidden.bias"]
    return linear(p, f"{name}.readout", F.relu(hidden))


def shares(
    name: str, p: dict[str, Tensor], modules: int, codes: Tensor | None = None
) -> Tensor | None:
    """Return the weights of each rule, where the rule alone decides and they are learned."""
    if name != "modular-op" or modules == 1:
        return None
    if codes is not None:
        return linear(p, "scorer.projection", codes).softmax(-1)
    return looked_up(p, "scorer.mlp", RULES).softmax(-1)


def mix(
    name: str, outputs: list[Tensor], logits: list[Tensor], table: Tensor | None, r: int
) -> Tensor:
    stacked = torch.stack(outputs)
    if len(outputs) == 1:
        return stacked[0]
    weight = torch.cat(logits).softmax(0) if name == "modular" else table[r]  # type: ignore[index]
    return (stacked * weight.view(-1, *[1] * (stacked.dim() - 1))).sum(0)


def mlp(name: str, p: dict[str, Tensor], modules: int, x: Tensor, rule: Tensor) -> Tensor:
    codes = looked_up(p, "encoder_rule", RULES)
    table, predictions = shares(name, p, modules, codes), []
    for numbers, r in zip(x, rule.tolist(), strict=True):
        a, b = (two(p, "encoder_number", number.view(1, 1)) for number in numbers)
        seen = torch.cat((a, b, codes[r : r + 1]), -1)
        own = [r] if name == "gt-modular" else range(modules)
        units = [F.relu(part(p, "experts.hidden", m, seen)) for m in own]
        outputs = [part(p, "experts.readout", m, u) for m, u in zip(own, units, strict=True)]
        logits = (
            [part(p, "scorer.logit", m, u).view(1) for m, u in zip(own, units, strict=True)]
            if name == "modular"
            else []
        )
        predictions.append(two(p, "decoder", mix(name, outputs, logits, table, r)))
    return torch.cat(predictions)


def encoded(p: dict[str, Tensor], x: Tensor, rule: Tensor) -> Tensor:
    features, weight = x.shape[-1], p["encoder.hidden.weight"]
    hidden = x @ weight[:features] + weight[features:][rule] + p["encoder.hidden.bias"]
    return linear(p, "encoder.readout", F.relu(hidden))


def attention(name: str, p: dict[str, Tensor], modules: int, x: Tensor, rule: Tensor) -> Tensor:
    table, predictions = shares(name, p, modules), []
    for sample, told in zip(x, rule, strict=True):
        code, positions = encoded(p, sample, told), len(told)
        query, key, value, place = (
            linear(p, f"projections.{k}", code) for k in ("query", "key", "value", "position")
        )
        width = place.shape[-1] // modules
        found = []
        for head in range(query.shape[-1] // width):
            at = slice(head * width, (head + 1) * width)
            each = query[:, at] @ key[:, at].T * width**-0.5
            each = each.masked_fill(torch.eye(positions, dtype=torch.bool), float("-inf"))
            found.append(each.softmax(-1) @ value[:, at])
        heads = len(found) // modules
        for t, r in enumerate(told.tolist()):
            own = [r] if name == "gt-modular" else range(modules)
            units = []
            for m in own:
                seen = [head[t : t + 1] for head in found[m * heads : (m + 1) * heads]]
                seen.append(place[t : t + 1, m * width : (m + 1) * width])
                units.append(F.relu(part(p, "experts.hidden", m, torch.cat(seen, -1))))
            outputs = [part(p, "experts.readout", m, u) for m, u in zip(own, units, strict=True)]
            logits = (
                [part(p, "scorer.logit", m, u).view(1) for m, u in zip(own, units, strict=True)]
                if name == "modular"
                else []
            )
            predictions.append(two(p, "decoder", mix(name, outputs, logits, table, r)))
    return torch.cat(predictions).view(*rule.shape, 1)


def recurrent(name: str, p: dict[str, Tensor], modules: int, x: Tensor, rule: Tensor) -> Tensor:
    table, predictions = shares(name, p, modules), []
    for sample, told in zip(x, rule, strict=True):
        code = encoded(p, sample, told)
        size = p["decoder.hidden.weight"].shape[0]
        state = cell = None
        for t, r in enumerate(told.tolist()):
            own = [r] if name == "gt-modular" else range(modules)
            states, cells, logits = [], [], []
            for m in own:
                gates = seen = part(p, "input_gates", m, code[t : t + 1])
                bias = [p[key][m] for key in ("state_gates.bias",) if key in p]
                before = sum(bias, torch.zeros(1, 4 * size))
                if state is not None:
                    before = part(p, "state_gates", m, state)
                gates = gates + before
                keep, forget, out = gates[:, : 3 * size].sigmoid().chunk(3, -1)
                new = keep * gates[:, 3 * size :].tanh()
                new = new if cell is None else new + forget * cell
                states.append(out * new.tanh())
                cells.append(new)
                if name == "modular":
                    both = F.relu(torch.cat((seen, before), -1))
                    logits.append(part(p, "scorer.logit", m, both).view(1))
            state = mix(name, states, logits, table, r)
            cell = mix(name, cells, logits, table, r)
            predictions.append(two(p, "decoder", state))
    return torch.cat(predictions).view(*rule.shape, -1)


def counted(network: Network, name: str, family: str, batch: tuple[Tensor, Tensor, Tensor]) -> int:
    """Count what PyTorch multiplies when every sample goes by itself through its modules."""
    p = {key: value[0].detach().requires_grad_() for key, value in network.named_parameters()}
    forward = {"mlp": mlp, "attention": attention, "recurrent": recurrent}[family]
    x, rule, target = batch
    with FlopCounterMode(display=False) as counter:
        prediction = forward(name, p, network.module_count, x, rule)
        losses(prediction[None], target[None], "regression").sum().backward()
    expected = network(x[None], rule[None]).prediction[0]
    torch.testing.assert_close(prediction, expected, rtol=1e-3, atol=1e-4)  # it is that network
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", ["monolithic", "modular", "modular-op", "gt-modular"])
@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_the_arithmetic_of_a_step_is_what_samples_cost_one_by_one(task: str, name: str) -> None:
    more = {"length": 4} if task != "binary" else {}
    data = DataSpec(task=task, rules=RULES, **more)  # type: ignore[arg-type]
    model = ModelSpec(**MODELS[name], encoder=8, width=24)
    network = create(data, model, (1,))
    batch = next(batches(Stream(data, ((0, 0),), SAMPLES, torch.device("cpu"))))
    one = (batch.inputs[0], batch.rule[0], batch.target[0])
    found = step_arithmetic(network, SAMPLES, data.length if data.sequence else 1)
    assert found == counted(network, name, FAMILIES[task], one)


@pytest.mark.parametrize(
    "choice", [{"scorer": "shared"}, {"aggregation": "parameters", "scorer": "rule"}]
)
def test_what_is_not_known_is_not_counted(choice: dict[str, str]) -> None:
    network = create(DataSpec(rules=RULES), ModelSpec(**choice), (1,))  # type: ignore[arg-type]
    assert step_arithmetic(network, SAMPLES) is None
