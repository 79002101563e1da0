"""Cross-stitch and sluice networks: columns that read each other."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeval.errors import SpecError
from modeval.nn import create
from modeval.nn.columns import OWN, Stitch
from modeval.spec import DataSpec, ModelSpec, RunSpec, from_dict
from modeval.spec.systems import named
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

DATA = DataSpec(rules=3)
SEEDS = (1, 2)
N, W = 20, 12


def built(name: str, *, start: bool = False, **settings: Any) -> Any:
    model, _ = named(name, {"encoder": 6, "width": W, **settings}, {})
    network = create(DATA, from_dict(ModelSpec, model), SEEDS)
    if not start:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return network.double()


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(len(SEEDS), N, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (len(SEEDS), N), generator=generator)


def by_hand(network: Any, x: Tensor, rule: Tensor, subspaces: int) -> Tensor:
    """Run each column of each seed by itself, from the definition."""
    one_hot = F.one_hot(rule, 3).double()
    parts = [network.encoder_number(x[..., [index]]) for index in (0, 1)]
    z = torch.cat((*parts, network.encoder_rule(one_hot)), -1)
    layers = [(network.experts, network.scorer)]
    layers += [(layer.experts, layer.scorer) for layer in network.layers]
    chosen = torch.zeros(len(SEEDS), N, W, dtype=torch.float64)
    for seed in range(len(SEEDS)):
        states = [z[seed]] * 3
        passed = []
        for number, (experts, scorer) in enumerate(layers):
            said = []
            for column, state in enumerate(states):
                hidden, readout = experts.hidden, experts.readout
                units = F.relu(state @ hidden.weight[seed, column] + hidden.bias[seed, column])
                said.append(units @ readout.weight[seed, column] + readout.bias[seed, column])
            pieces = torch.cat(said, -1).view(N, 3 * subspaces, -1)  # columns' subspaces in order
            read = torch.einsum("ij,njw->niw", scorer.alpha[seed], pieces).reshape(N, 3, W)
            old = [0.0] * 3 if number == 0 else states
            states = [old[column] + read[:, column] for column in range(3)]
            passed.append(torch.stack(states, 1))
        for sample in range(N):
            column = int(rule[seed, sample])
            each = torch.stack([states[sample, column] for states in passed])  # (L, W)
            skips = torch.tensor([0.0, 1.0], dtype=torch.float64)
            if network.skips is not None:
                skips = network.skips.weight[seed, column]
            chosen[seed, sample] = skips @ each
    return network.decoder(chosen)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "subspaces"), [("cross-stitch", 1), ("sluice", 2)])
def test_columns_read_each_other_as_the_definition_says(name: str, subspaces: int) -> None:
    network = built(name)
    x, rule = inputs()
    torch.testing.assert_close(network(x, rule).prediction, by_hand(network, x, rule, subspaces))


@pytest.mark.parametrize(("name", "subspaces"), [("cross-stitch", 1), ("sluice", 2)])
def test_columns_start_with_nine_tenths_of_their_own(name: str, subspaces: int) -> None:
    network = built(name, start=True)
    x, rule = inputs()
    for layer in network(x, rule).routed:
        own = layer.weight.gather(-1, rule.unsqueeze(-1)).double()
        rest = (1 - OWN) * (subspaces - 1) / (3 * subspaces - 1)
        torch.testing.assert_close(own, torch.full_like(own, OWN + rest))
        torch.testing.assert_close(layer.weight.sum(-1), torch.ones_like(rule, dtype=torch.double))


@pytest.mark.parametrize("name", ["cross-stitch", "sluice"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_column_that_is_knocked_out_is_read_by_no_other(name: str, layer: int) -> None:
    network = built(name)
    x, rule = inputs()

    def without_first(weight: Tensor, number: int) -> Tensor:
        return weight * torch.tensor([0.0, 1.0, 1.0]) if number == layer else weight

    routed = network(x, rule, route=without_first)
    assert float(routed.routed[layer].weight[..., 0].detach().abs().max()) == 0
    cut = [network.scorer, network.layers[0].scorer][layer]
    with torch.no_grad():
        cut.alpha[:, :, : cut.subspaces] = 0
    torch.testing.assert_close(routed.prediction, network(x, rule).prediction)


@pytest.mark.parametrize("name", ["cross-stitch", "sluice"])
def test_a_given_routing_is_read_as_it_is_even_where_nothing_was_read(name: str) -> None:
    network = built(name)
    x, rule = inputs()
    with torch.no_grad():
        for scorer in (network.scorer, network.layers[0].scorer):
            scorer.alpha.zero_()
    given = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    seen = network(x, rule, route=lambda weight, _: given.expand_as(weight))
    with torch.no_grad():
        for scorer in (network.scorer, network.layers[0].scorer):
            parts = torch.eye(scorer.subspaces, dtype=torch.float64)
            scorer.alpha.copy_(torch.kron(given.expand(3, 3), parts))
    torch.testing.assert_close(seen.prediction, network(x, rule).prediction)


def test_subspaces_that_share_nothing_cost_nothing() -> None:
    stitch = Stitch(subspaces=2, orthogonality=0.5)
    apart = torch.zeros(1, 1, 4, 4)
    apart[..., :2, :2], apart[..., 2:, 2:] = torch.randn(2, 2), torch.randn(2, 2)
    assert float(stitch.penalty(apart)) == 0
    weight = torch.randn(2, 3, 4, 4)
    expected = sum(
        0.5 * (weight[:, m, :, :2].mT @ weight[:, m, :, 2:]).square().sum((1, 2)) for m in range(3)
    )
    torch.testing.assert_close(stitch.penalty(weight), expected)


def test_the_penalty_of_a_sluice_network_drives_its_subspaces_apart() -> None:
    alike = []
    for weight in (1e-6, 1.0):
        network = built("sluice", start=True, orthogonality=weight).float()
        stepper = Stepper(network, "regression", engine="eager")
        source = batches(Stream(DATA, ((0, 1), (0, 2)), 16, torch.device("cpu")))
        for _, batch in zip(range(30), source, strict=False):
            stepper.step(batch, torch.tensor(1e-2))
        readout = network.experts.readout.weight.detach()
        alike.append(float(Stitch(2, 1.0).penalty(readout).mean()))
    assert alike[1] < 0.3 * alike[0]


@pytest.mark.parametrize(
    ("task", "choices", "reason"),
    [
        ("binary", {"scorer": "both", "aggregation": "stitch"}, "weights of its own"),
        ("binary", {"scorer": "rule", "gating": "gumbel", "aggregation": "stitch"}, "draws"),
        ("binary", {"scorer": "rule", "aggregation": "sluice", "layers": 2}, "weights each"),
        ("binary", {"scorer": "stitch", "aggregation": "sluice"}, "sums over layers"),
        (
            "binary",
            {"scorer": "stitch", "aggregation": "sluice", "layers": 2, "subspaces": 5},
            "divide it",
        ),
        ("series", {"scorer": "stitch", "aggregation": "stitch"}, "cells share a state"),
        ("binary", {"scorer": "rule", "aggregation": "stitch", "modules": 2}, "has a column"),
        ("binary", {"scorer": "stitch", "modules": 2}, "begins with module r"),
        ("binary", {"scorer": "stitch", "subspaces": 3}, "does not read it"),
    ],
)
def test_columns_that_cannot_be_are_refused(
    task: str, choices: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SpecError, match=reason):
        from_dict(RunSpec, {"data": {"task": task, "rules": 3}, "model": choices})
