"""Adapters and their fusion against the library of that name, which goes with no transformers 5.

What it says to given numbers lies in ``fixtures/oracles/adapters.json``, with its versions and the
script that asked it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modeval.nn.aggregation import Value
from modeval.nn.bank import BankMLP
from modeval.nn.scorers import AttentionScorer, Made, Seen, not_seen
from modeval.spec.computing.computations import Adapter, ParallelAdapter

HELD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "fixtures/oracles/adapters.json").read_text(encoding="utf-8")
)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("computation", [Adapter(width=2), ParallelAdapter(width=2)])
def test_a_bottleneck_is_that_of_adapters(computation: Any) -> None:
    held = HELD[computation.kind]
    x, said = tensor(held["x"]), tensor(held["said"])
    width = x.shape[-1]
    bank: Any = BankMLP(1, 1, (width, width, width), computation).double()
    theirs = {name: tensor(values) for name, values in held["parameters"].items()}
    with torch.no_grad():
        bank.hidden.shared.weight.copy_(torch.eye(width))  # units that come in are above 0
        bank.readout.shared.weight.copy_(torch.eye(width))
        bank.hidden.own["down"].copy_(theirs["adapter_down.0.weight"].T)
        bank.hidden.own["down_bias"].copy_(theirs["adapter_down.0.bias"])
        bank.readout.own["up"].copy_(theirs["adapter_up.weight"].T)
    (first, bias), (second, second_bias) = bank.hidden.parts(), bank.readout.parts()
    before = (x.unsqueeze(1) @ first + bias.unsqueeze(2)).transpose(1, 2)
    units = bank.rectified(before).transpose(1, 2)
    seen = (units @ second + second_bias.unsqueeze(2)).squeeze(1)
    beside = x if computation.kind == "parallel-adapter" else 0.0  # theirs leaves f(x) to others
    torch.testing.assert_close(seen, said + beside, rtol=1e-5, atol=1e-6)


def test_fusion_is_that_of_adapters() -> None:
    held = HELD["fusion"]
    query, modules = tensor(held["query"]), tensor(held["modules"])
    theirs = {name: tensor(values) for name, values in held["parameters"].items()}
    width = query.shape[-1]
    scorer, value = AttentionScorer(1, width, width, width).double(), Value(1, width).double()
    with torch.no_grad():
        scorer.query.weight.copy_(theirs["query.weight"].T)
        scorer.key.weight.copy_(theirs["key.weight"].T)
        value.weight.copy_(theirs["value.weight"].T)
    # theirs adds a bias to the query; one on keys adds the same to all modules, which no softmax
    # feels. Here the bias is what the query says of one more input that is always 1.
    shift = torch.linalg.solve(theirs["query.weight"], theirs["query.bias"])
    rule = torch.zeros(query.shape[:2], dtype=torch.int64)
    seen = Seen(query, rule, not_seen, lambda: query + shift, not_seen, lambda: Made(modules))
    weight = scorer(seen).softmax(-1)
    torch.testing.assert_close(weight, tensor(held["weight"]), rtol=1e-5, atol=1e-6)
    mixed = value((weight.unsqueeze(-1) * modules).sum(2))
    torch.testing.assert_close(mixed, tensor(held["said"]), rtol=1e-5, atol=1e-6)


def test_the_file_says_what_made_it() -> None:
    script = Path(__file__).parents[2] / HELD["made_by"]
    assert script.is_file()
    assert HELD["versions"]["adapters"] == "1.3.0"
