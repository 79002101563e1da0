"""Tests against permuted labels: they keep their size whatever labels and lengths are."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor
from worlds import World, shares_of

from modeval.counting.units import Units, coarser, document_units
from modeval.metrics.alignment import alignment_distance, alignment_score
from modeval.metrics.information import entropies
from modeval.metrics.matching import match
from modeval.score.inference.draws import p_value
from modeval.score.inference.lengths import Lengths, scatter
from modeval.score.inference.permutation import (
    drawn_labels,
    permutations_for,
    permute_labels,
    untestable,
)
from modeval.score.inference.pooling import Labelling
from modeval.types import Prior


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statistics(joint: Tensor) -> Tensor:
    parts = entropies(joint)
    module = match(joint)[0]
    return torch.stack(
        [
            parts.mutual_information,
            parts.homogeneity,
            parts.v_measure,
            alignment_score(joint, matching=module),
            -alignment_distance(joint, matching=module),
        ],
        -1,
    )


GROWTH = torch.tensor([1, 1, 1, 0.5, 0.5], dtype=torch.float64)


def p_of(units: Units, seed: int, permutations: int = 99, prior: Prior = "uniform") -> Tensor:
    drawn = permute_labels(
        units,
        statistics,
        generator=generator(seed),
        permutations=permutations,
        prior=prior,
        powers=GROWTH,
    )
    return p_value(statistics(units.joint(prior)), drawn)


WORLDS = {
    "alike": World(),
    "7:1:1:1, equal lengths": World(shares=shares_of("7:1:1:1"), lengths="equal", documents=400),
    "7:1:1:1": World(shares=shares_of("7:1:1:1")),
    "9:1": World(rules=2, shares=shares_of("9:1"), documents=100),
    "half a percent": World(rules=2, shares=shares_of("199:1"), documents=1000, tokens=20),
    "more rules than modules": World(rules=16, modules=4, documents=64),
    "few documents": World(documents=20),
    "one giant document": World(giant=100_000),
}


@pytest.mark.parametrize("name", WORLDS)
def test_a_blind_router_is_called_significant_no_more_often_than_the_level_says(name: str) -> None:
    world, repeats = WORLDS[name], 60
    activation, draw = world.activation(), np.random.default_rng(1)
    found = torch.stack([p_of(world.draw(draw, activation), seed) for seed in range(repeats)])
    allowed = int(binom.ppf(0.9995, repeats, 0.05))
    assert (found <= 0.05).sum(0).max() <= allowed
    assert found.mean(0).min() > 0.35  # p values of a true null are spread evenly


@pytest.mark.parametrize("prior", get_args(Prior))
@pytest.mark.parametrize(
    "world",
    [
        World(longer=10.0, lengths="equal"),
        World(longer=0.1, shares=shares_of("7:1:1:1"), lengths="equal"),
        World(rules=2, documents=105, shares=shares_of("1:20"), tokens=20, longer=100.0),
        # without regard to lengths the blind router of these was significant in half of all cases
        World(
            rules=2,
            documents=105,
            shares=shares_of("20:1"),
            tokens=20,
            longer=100.0,
            lengths="equal",
        ),
    ],
)
def test_a_label_of_long_documents_makes_no_blind_router_significant(
    world: World, prior: Prior
) -> None:
    activation, draw = world.activation(), np.random.default_rng(1)
    found = torch.stack([p_of(world.draw(draw, activation), s, prior=prior) for s in range(40)])
    assert (found <= 0.05).sum(0).max() <= int(binom.ppf(0.9995, 40, 0.05))


def test_where_labels_differ_in_length_what_tells_them_apart_is_seen_as_well() -> None:
    world = World(longer=0.1, shares=shares_of("7:1:1:1"), told=0.15, lengths="equal")
    activation, draw = world.activation(), np.random.default_rng(1)
    found = torch.stack([p_of(world.draw(draw, activation), seed)[0] for seed in range(20)])
    assert (found <= 0.05).sum() >= 16  # 2 when lengths were not regarded


def test_documents_that_are_equally_long_are_permuted_nearly_as_they_are() -> None:
    units = World(lengths="equal").draw(np.random.default_rng(0), World().activation())
    plain, scaled = (
        permute_labels(units, statistics, generator=generator(), permutations=20, powers=powers)
        for powers in (None, GROWTH)
    )
    assert (scaled / plain - 1).abs().max() < 0.05
    assert (scaled.mean(0) / plain.mean(0) - 1).abs().max() < 0.01


def test_scatter_is_that_of_documents_and_of_tokens() -> None:
    draw = np.random.default_rng(0)
    size = np.repeat([10, 100, 1000], 2000)
    shares = draw.beta(9.5, 9.5, len(size))  # variance 1/80, squared distance 4/80 in all
    first = draw.binomial(size, shares)
    table = torch.from_numpy(np.stack([first, size - first], 1).astype(float))
    own, chance = scatter(document_units(table, torch.from_numpy(np.arange(len(size)) % 2)))
    assert own.item() == pytest.approx(4 / 80, rel=0.1)
    assert chance.item() == pytest.approx(1 - 4 / 80, rel=0.1)


def test_what_tells_labels_apart_is_seen() -> None:
    world = World(told=0.3, shares=shares_of("7:1:1:1"))
    units = world.draw(np.random.default_rng(0), world.activation())
    assert p_of(units, 0).max() == 0.01


def test_documents_in_groups_see_nearly_what_single_documents_see() -> None:
    world = World(told=0.045, documents=240, lengths="equal")
    activation, draw = world.activation(), np.random.default_rng(5)
    drawn = [world.draw(draw, activation) for _ in range(40)]
    single = torch.stack([p_of(units, 0)[0] for units in drawn])
    grouped = torch.stack([p_of(coarser(units, 60), 0)[0] for units in drawn])
    assert 0.2 < (single <= 0.05).double().mean() < 0.95
    assert ((single <= 0.05) ^ (grouped <= 0.05)).sum() <= 8


def test_each_label_keeps_its_documents_and_groups_of_one_size_exchange_labels() -> None:
    units = coarser(document_units(torch.rand(103, 3), torch.arange(103) % 2, rules=2), 26)
    assert sorted(units.documents.unique().tolist()) == [1, 4]
    draws = drawn_labels(units, 50, generator())
    for size in (1, 4):
        own = draws[:, units.documents == size]
        assert (own.sort(-1).values == own[0].sort().values).all()
    assert (draws != units.label).any()


def test_labels_within_documents_are_exchanged_within_them_alone() -> None:
    units = document_units(torch.rand(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]))
    units = Units(
        **{
            **units.tensors(),
            "cluster": torch.tensor([0, 0, 0, 1, 1, 1]),
            "stratum": torch.tensor([1, 1, 1, 2, 2, 2]),
        },
        rules=2,
    )
    draws = drawn_labels(units, 50, generator())
    assert (draws[:, :3].sum(-1) == 1).all()
    assert (draws[:, 3:].sum(-1) == 2).all()


def test_a_layer_that_saw_only_some_documents_is_tested_on_those() -> None:
    table = torch.rand(2, 40, 3).double()
    table[1, :30] = 0
    units = document_units(table, torch.arange(40) % 2)
    drawn = permute_labels(units, statistics, generator=generator(), permutations=50)
    assert torch.isfinite(drawn).all()


def test_what_cannot_be_tested_says_what_to_record() -> None:
    few = document_units(torch.rand(4, 3), torch.tensor([0, 0, 0, 1]))
    assert "relabelled in only 4 ways: record more documents" in untestable(few)
    assert "record texts of two" in untestable(
        document_units(torch.rand(9, 3), torch.zeros(9).long())
    )
    assert "nothing is known of single documents" in untestable(None)
    assert not untestable(document_units(torch.rand(40, 3), torch.arange(40) % 2))


def test_a_document_that_is_most_of_its_label_is_no_matter_only_where_labels_weigh_alike() -> None:
    world = World(giant=1_000_000)
    units = world.draw(np.random.default_rng(0), world.activation())
    assert untestable(units) == ""
    assert "--prior uniform" in untestable(units, "empirical")
    even = World(lengths="equal").draw(np.random.default_rng(0), world.activation())
    assert untestable(even, "empirical") == ""


def test_many_layers_get_more_permutations() -> None:
    assert permutations_for(1) == 999
    assert permutations_for(48) == 1199


@pytest.mark.parametrize(("rules", "modules"), [(3, 40), (12, 40), (12, 2)])
def test_sums_of_labels_are_those_of_a_matrix_product(rules, modules):
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(rules, (5, 30), generator=generator)
    label[label == 1] = 0  # a rule without units
    cells = torch.rand((30, 2, modules), generator=generator, dtype=torch.float64)
    member = torch.nn.functional.one_hot(label, rules).double()
    wanted = torch.einsum("dur,ulm->drlm", member, cells)
    torch.testing.assert_close(Labelling.of(label, rules).sums(cells), wanted)


@pytest.mark.parametrize("longer", [1.0, 10.0])
def test_permuted_values_are_changed_only_where_labels_and_lengths_go_together(longer):
    world = World(rules=3, modules=4, documents=30, lengths="equal", longer=longer)
    units = world.draw(np.random.default_rng(0), world.activation())

    def drawn(powers: torch.Tensor | None) -> torch.Tensor:
        return permute_labels(
            units, statistics, generator=generator(), permutations=19, powers=powers
        )

    changed = drawn(GROWTH) != drawn(None)
    assert bool(changed.any()) == (longer > 1)


def test_labels_and_lengths_alone_tell_whether_they_go_together():
    world = World(rules=2, documents=20, lengths="equal", longer=3.0)
    long = world.draw(np.random.default_rng(0), world.activation())
    size = long.mass.sum(-1, keepdim=True)
    labels = drawn_labels(long, 99, generator())

    def unlike(table: Tensor) -> bool:
        units = document_units(table, long.label)
        own, drawn = Labelling.of(units.label[None], 2), [Labelling.of(labels, 2)]
        return bool(Lengths.of(units).unlike(own, drawn, torch.ones(2).double()))

    assert unlike(long.mass)
    other = torch.rand(20, 8, generator=generator(), dtype=torch.float64)
    assert unlike(size * other / other.sum(-1, keepdim=True))
    assert not unlike(long.mass / size)
    assert not unlike(long.mass[torch.arange(20).reshape(2, 10).T.flatten()])  # in turns
