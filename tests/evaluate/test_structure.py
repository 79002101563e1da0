"""Structure without routing: parts that were built are found, and none where none are."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import modeval
from modeval.cli.main import app
from modeval.data.tasks import draw, stack_tasks
from modeval.errors import SpecError
from modeval.evaluate.structure import redundancy as alike
from modeval.evaluate.structure.chain import chain_of, lesioned
from modeval.evaluate.structure.clusters import clusterability, normalised_cut
from modeval.evaluate.structure.lesions import combined_p, lesion_test
from modeval.evaluate.structure.masks import chance_of_overlap, learned_masks, overlap_of
from modeval.evaluate.structure.monolithic import monolithic_chain
from modeval.evaluate.structure.redundancy import against_untrained, redundancy
from modeval.nn import create
from modeval.pipeline.structure import structure, structure_of_run
from modeval.spec import DataSpec, ModelSpec
from modeval.types import Batch

SMALL: Any = {"encoder": 6, "width": 12}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(*widths: int, seed: int = 0) -> Any:
    layers: list[nn.Module] = []
    generator = draws(seed)
    for into, out in itertools.pairwise(widths):
        layer = nn.Linear(into, out)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(out, into, generator=generator))
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def two_parts(noise: float = 0.02) -> Any:
    """Return a network of two halves that hardly touch: the first two inputs, and the others."""
    network = mlp(4, 8, 8, 2)
    with torch.no_grad():
        for layer in network[::2]:
            out, into = layer.weight.shape
            apart = torch.arange(out)[:, None] * 2 // out != torch.arange(into) * 2 // into
            layer.weight[apart] *= noise
    return network


def two_rules(network: nn.Module, samples: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples of which rule 0 wants the first output, and rule 1 the second."""
    x = torch.randn(samples, 4, generator=draws(1))
    rule = torch.arange(samples) % 2
    with torch.no_grad():
        wanted = network(x)
    return x, torch.stack((wanted.gather(1, rule[:, None]).squeeze(1), rule), 1), rule


def own_output(prediction: Tensor, target: Tensor) -> Tensor:
    said = prediction.gather(1, target[:, 1:].long()).squeeze(1)
    return (said - target[:, 0]).abs()


# --- clusters ------------------------------------------------------------------------------------


def test_the_normalised_cut_is_what_its_sum_says() -> None:
    generator = np.random.default_rng(0)
    half = generator.random((6, 6))
    graph, labels = half + half.T, np.array([0, 0, 1, 1, 2, 2])
    expected = sum(
        sum(graph[i, j] for i in range(6) for j in range(6) if labels[i] == k != labels[j])
        / sum(graph[i, j] for i in range(6) for j in range(6) if labels[i] == k)
        for k in range(3)
    )
    assert normalised_cut(graph, labels) == pytest.approx(expected)


def test_a_network_of_two_halves_falls_apart_and_its_halves_are_found() -> None:
    found = clusterability(chain_of(two_parts()), clusters=2, shuffles=39)
    assert found.p_value == 1 / 40
    assert found.z is not None
    assert found.z > 3
    for layer in found.labels:
        half = len(layer) // 2
        assert len({*layer[:half]}) == len({*layer[half:]}) == 1
        assert layer[0] != layer[-1]
    same = clusterability(chain_of(two_parts()), clusters=2, shuffles=39)
    assert same == found


def test_p_values_of_clusters_keep_their_size_where_weights_have_no_order() -> None:
    hits = [
        clusterability(chain_of(mlp(3, 6, 6, 2, seed=seed)), clusters=2, shuffles=19).p_value <= 0.1
        for seed in range(40)
    ]
    assert sum(hits) <= 9  # 4 expected; more than 12 once in a hundred


def test_units_without_any_weight_belong_to_no_part() -> None:
    network = two_parts()
    with torch.no_grad():
        network[0].weight[0] = 0
        network[2].weight[:, 0] = 0
    found = clusterability(chain_of(network), clusters=2, shuffles=19)
    assert found.labels[1][0] == -1


# --- lesions -------------------------------------------------------------------------------------


def test_parts_that_serve_one_rule_each_are_told_from_random_ones() -> None:
    network = two_parts(noise=0.0)
    x, target, rule = two_rules(network)
    labels = [[0] * 4 + [1] * 4] * 2
    found = lesion_test(
        chain_of(network), labels, lambda: own_output(network(x), target), rule, partitions=39
    )
    assert found.change.diagonal().min() > 0
    assert float(found.change[0, 1].abs() + found.change[1, 0].abs()) == pytest.approx(0, abs=1e-6)
    assert found.coherence.tolist() == pytest.approx([1, 1])
    assert found.coherence_p <= 0.05
    assert float(found.coherence_chance.mean()) < 0.9


def test_p_values_of_lesions_keep_their_size_for_random_parts() -> None:
    network = mlp(4, 8, 2)
    x, target, rule = two_rules(network, samples=40)
    chain = chain_of(network)
    importance, coherence = [], []
    for seed in range(60):
        labels = (torch.randperm(8, generator=draws(seed)) % 2).tolist()
        found = lesion_test(
            chain,
            [labels],
            lambda: own_output(network(x), target),
            rule,
            partitions=19,
            generator=draws(1_000 + seed),
        )
        importance.append(found.importance_p <= 0.1)
        coherence.append(found.coherence_p <= 0.1)
    # 6 expected, more than 12 once in a hundred; ties make it cautious
    assert sum(importance) <= 12
    assert sum(coherence) <= 12


def test_fisher_combines_ranks_and_never_gives_zero() -> None:
    values = torch.randn(20, 3, generator=draws()).double()
    values[0] = 100
    assert combined_p(values) == 1 / 20
    values[0] = -100
    assert combined_p(values) == 1


def test_lesions_switch_units_off_after_the_activation_and_leave_the_network() -> None:
    network: Any = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1))
    chain = chain_of(network)
    x = torch.randn(5, 2, generator=draws())
    before = network(x)
    with lesioned(chain, [torch.tensor([True, True, True])]):
        torch.testing.assert_close(network(x), network[2].bias.expand(5, 1))
    assert torch.equal(network(x), before)


# --- masks ---------------------------------------------------------------------------------------


def test_rules_that_use_other_halves_keep_other_weights() -> None:
    network = two_parts(noise=0.0)
    x, target, rule = two_rules(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = learned_masks(chain_of(network), x, target, rule, own_output, steps=150, sparsity=0.3)
    scale = float(target[:, 0].abs().mean())
    assert float(found.loss.max()) < 0.3 * scale
    assert float(found.density.max()) < 0.75
    assert float(found.overlap[0, 1]) < float(found.chance[0, 1])
    assert found.p_apart <= 0.05
    for name, value in network.state_dict().items():
        assert torch.equal(before[name], value)


def test_p_values_of_masks_that_know_nothing_of_each_other_are_uniform() -> None:
    generator, hits = draws(), torch.zeros(2)
    for _ in range(60):
        kept = [[torch.rand(size, generator=generator) < 0.4 for size in (40, 24)] for _ in "abc"]
        flat = torch.stack([torch.cat(mask) for mask in kept])
        overlap = float(overlap_of(flat)[[0, 0, 1], [1, 2, 2]].mean())
        hits += torch.tensor(chance_of_overlap(kept, overlap, generator)) <= 0.2
    assert int(hits.min()) >= 4  # 12 expected; less, or more than 21, once in two hundred
    assert int(hits.max()) <= 21


# --- redundancy ----------------------------------------------------------------------------------


def modular(*, copies: bool) -> Any:
    data, model = DataSpec(rules=3), ModelSpec(scorer="module", encoder=6, width=12)
    network: Any = create(data, model, (1, 2))
    if copies:
        order = torch.tensor([2, 0, 3, 1])
        with torch.no_grad():
            for layer in (network.experts.hidden, network.experts.readout):
                for name in ("own_weight", "own_bias", "weight", "bias"):
                    if isinstance(value := getattr(layer, name, None), Tensor):
                        value[:, 1:] = value[:, :1]
            for parameters in (network.experts.hidden.parts(), network.experts.readout.parts()):
                assert parameters[0].shape[1] == 3
            hidden, readout = network.experts.hidden, network.experts.readout
            hidden.weight[:, 1] = hidden.weight[:, 1][..., order]
            hidden.bias[:, 1] = hidden.bias[:, 1][..., order]
            readout.weight[:, 1] = readout.weight[:, 1][:, order]
    x = torch.randn(1, 64, 2, generator=draws()).expand(2, -1, -1)
    rule = torch.randint(3, (1, 64), generator=draws()).expand(2, -1)
    return data, model, network, Batch(x, rule, x[..., :1])


def test_copies_whose_hidden_units_stand_in_another_order_are_known_as_copies() -> None:
    _, _, network, batch = modular(copies=True)
    found = redundancy(network, batch)
    assert float(found.distance.max()) < 1e-8
    assert float(found.cka.min()) > 1 - 1e-6
    assert found.cosine is not None
    assert float(found.cosine.min()) > 1 - 1e-6


def test_copies_are_more_alike_than_untrained_modules_and_untrained_ones_are_not() -> None:
    for copies in (True, False):
        data, model, network, batch = modular(copies=copies)
        held = against_untrained(data, model, network, batch, untrained=19)
        assert {*held} == {"distance", "cka", "cosine"}
        for each in held.values():
            smallest = float(each.p_value.min())
            assert smallest == 1 / 20 if copies else smallest > 1 / 20


def test_measures_of_likeness_agree_with_their_definitions() -> None:
    said = torch.randn(1, 2, 30, 4, generator=draws()).double()
    one, two = (part - part.mean(0) for part in said[0])
    expected = (one.T @ two).norm() ** 2 / ((one.T @ one).norm() * (two.T @ two).norm())
    torch.testing.assert_close(alike.linear_cka(said)[0, 0, 1], expected)
    turned = said.clone()
    turned[0, 1] = 3 * said[0, 0] @ torch.linalg.qr(torch.randn(4, 4, generator=draws()).double()).Q
    assert float(alike.linear_cka(turned)[0, 0, 1]) == pytest.approx(1)


# --- runs and modules ----------------------------------------------------------------------------


FAMILIES: dict[str, Any] = {
    "binary": DataSpec(rules=3),
    "sets": DataSpec(task="sets", rules=3, length=4),
    "series": DataSpec(task="series", rules=3, length=4),
}


def monolithic(family: str, seeds: Sequence[int] = (4, 5)) -> tuple[Any, Batch, Any]:
    """Return a cohort of Monolithic models, samples, and what they are of."""
    data = FAMILIES[family]
    small: Any = SMALL | ({"heads": 2} if family == "sets" else {})
    network = create(data, ModelSpec(scorer="none", modules=1, **small), seeds)
    tasks = stack_tasks(data, [0] * len(seeds))
    generators = [draws(seed) for seed in seeds]
    return network, draw(data.clean, tasks, generators, samples=30), data


def with_rules(batch: Batch, seed: int, rules: int = 3) -> Tensor:
    one_hot = nn.functional.one_hot(batch.rule[seed], rules).float()
    return torch.cat((batch.inputs[seed], one_hot), -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_monolithic_model_is_taken_apart_into_layers_that_compute_the_same(family: str) -> None:
    network, batch, _ = monolithic(family)
    said = network(batch.inputs, batch.rule).prediction
    for seed in range(2):
        chain = monolithic_chain(network, seed)
        torch.testing.assert_close(chain.module(with_rules(batch, seed)), said[seed])
        for before, after, weight in chain.edges():
            assert weight.shape == (chain.sizes[before], chain.sizes[after])


@pytest.mark.parametrize("family", FAMILIES)
def test_units_of_each_group_can_be_switched_off_and_change_what_is_said(family: str) -> None:
    """Without all units of any one group the network says something else, and then as before."""
    network, batch, _ = monolithic(family)
    chain, inputs = monolithic_chain(network, 0), with_rules(batch, 0)
    before = chain.module(inputs)
    for group, _size in enumerate(chain.hidden):
        off = [torch.full((units,), place == group) for place, units in enumerate(chain.hidden)]
        with lesioned(chain, off):
            assert not torch.equal(chain.module(inputs), before)
    assert torch.equal(chain.module(inputs), before)


def test_a_cell_that_is_switched_off_is_one_that_the_network_never_had() -> None:
    network, batch, _ = monolithic("series", seeds=(4,))
    chain, inputs = monolithic_chain(network, 0), with_rules(batch, 0)
    off = [torch.zeros(units, dtype=torch.bool) for units in chain.hidden]
    off[1][2] = True
    with lesioned(chain, off):
        lesioned_says = chain.module(inputs)
    with torch.no_grad():
        network.state_gates.weight[0].view(-1, network.state, 4 * network.state)[:, 2] = 0
        network.decoder.hidden.weight[0, 2] = 0
    torch.testing.assert_close(lesioned_says, network(batch.inputs, batch.rule).prediction[0])


def test_a_query_that_is_switched_off_is_as_good_as_its_key() -> None:
    network, batch, _ = monolithic("sets")
    chain, inputs = monolithic_chain(network, 0), with_rules(batch, 0)
    said = []
    for group in (1, 2):
        off = [torch.zeros(units, dtype=torch.bool) for units in chain.hidden]
        off[group][3] = True
        with lesioned(chain, off):
            said.append(chain.module(inputs))
    torch.testing.assert_close(*said)


@pytest.mark.parametrize("family", FAMILIES)
def test_p_values_of_untrained_models_are_those_of_chance(family: str) -> None:
    """Layers are shuffled before they are multiplied, so an untrained model has any rank.

    Products of shuffled weights are not shuffled products: held against those, untrained models
    never had a p below .2, and trained ones needed as much more to show.
    """
    network, _, _ = monolithic(family, seeds=range(24))
    ranks = [
        clusterability(monolithic_chain(network, seed), clusters=3, shuffles=9).p_value
        for seed in range(24)
    ]
    assert 3 <= sum(p <= 0.3 for p in ranks) <= 13  # 7.2 expected; outside once in two hundred
    assert 6 <= sum(p <= 0.6 for p in ranks) <= 21


def test_masks_and_lesions_are_of_positions_where_each_has_a_rule() -> None:
    network, batch, _ = monolithic("sets")
    chain, inputs, rule = monolithic_chain(network, 0), with_rules(batch, 0), batch.rule[0]
    target = batch.target[0]

    def losses(said: Tensor, wanted: Tensor) -> Tensor:
        return (said - wanted).abs().mean(-1)

    masks = learned_masks(chain, inputs, target, rule, losses, steps=3)
    each = losses(chain.module(inputs), target).detach()
    assert masks.intact.tolist() == pytest.approx([float(each[rule == r].mean()) for r in range(3)])
    labels = [[unit % 2 for unit in range(units)] for units in chain.hidden]
    found = lesion_test(
        chain, labels, lambda: losses(chain.module(inputs), target), rule, partitions=19
    )
    assert found.change.shape == (2, 3)
    assert 0.05 <= found.importance_p <= 1


def test_any_module_of_linear_layers_is_told_of() -> None:
    network = two_parts()
    x, target, rule = two_rules(network)
    found = modeval.structure(network, x, target, rule, loss=own_output, permutations=19)
    assert found.clusters.p_value == 0.05
    assert found.lesions is not None
    assert found.lesions.coherence_p <= 0.1
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: structure(nn.Linear(2, 2)), "1 linear layers"),
        (lambda: structure(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1))), "do not follow"),
        (lambda: structure(mlp(2, 3, 1), layers=["0", "7"]), "no linear layer of that name"),
        (lambda: structure(mlp(2, 3, 1), torch.zeros(4, 2)), "go together"),
        (lambda: structure(mlp(2, 3, 1), masks=True), "masks need samples"),
        (lambda: structure(mlp(2, 3, 1), clusters=1), "expected 2 or more"),
        (
            lambda: structure(
                mlp(2, 3, 1), torch.zeros(4, 2), torch.zeros(4, 1), torch.ones(4).long()
            ),
            "Rule 0 has no samples",
        ),
    ],
)
def test_what_has_no_structure_is_refused_with_a_reason(call, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        call()


@pytest.mark.slow
def test_the_command_tells_of_each_seed_and_writes_all_numbers(tmp_path) -> None:
    run = CliRunner()
    for name, model in (("dense", "monolithic"), ("parts", "modular")):
        small = ["--rules", "2", "--steps", "30", "--seeds", "2", "--encoder", "6", "--width", "12"]
        made = run.invoke(app, ["train", "--out", str(tmp_path / name), "--model", model, *small])
        assert made.exit_code == 0, made.output
    out = tmp_path / "dense.json"
    dense = run.invoke(
        app, ["structure", str(tmp_path / "dense"), "--permutations", "19", "--json", str(out)]
    )
    assert dense.exit_code == 0, dense.output
    assert dense.output.count("normalised cut into 2 parts") == 2
    form = json.loads(out.read_text(encoding="utf-8"))
    assert len(form["dense"]) == 2
    parts = run.invoke(app, ["structure", str(tmp_path / "parts")])
    assert parts.exit_code == 0, parts.output
    assert parts.output.count("functional distance (0") == 2
    found = structure_of_run(tmp_path / "dense", permutations=19)
    assert json.loads(json.dumps(found.to_dict())) == form
