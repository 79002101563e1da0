"""Metrics of single tokens: known values, chance levels, refusals."""

import math

import pytest
import torch

from modeval.errors import TraceError
from modeval.metrics import (
    cross_layer_nmi,
    lexical_information,
    router_margin,
    saturation,
    semantic_information,
    semantic_information_null,
    shared_choice_chance,
    temporal_persistence,
    vocabulary_specialization,
    weight_entropy,
)

MODULES, TOP, TOKENS = 8, 2, 20_000


def random_choices(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, MODULES, generator=generator).topk(TOP).indices


def numbers(seed, high, count=TOKENS):
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed))


def generator():
    return torch.Generator().manual_seed(0)


def test_saturation_is_one_for_the_same_routing_and_k_over_m_by_chance():
    early, late = random_choices(0, TOKENS), random_choices(1, TOKENS)
    assert saturation(late.flip(-1), late).item() == 1
    assert saturation(early, late).item() == pytest.approx(TOP / MODULES, abs=0.01)


def test_padding_is_never_shared():
    empty = torch.full((3, 2), -1)
    assert saturation(empty, empty).item() == 0


@pytest.mark.parametrize(("ranks", "chance"), [(1, 0.125), (2, 0.4642857)])
def test_temporal_persistence_of_chance_is_that_of_mixtrals_table(ranks, chance):
    chosen = random_choices(0, 3, TOKENS)
    found = temporal_persistence(chosen, torch.zeros(TOKENS, dtype=torch.int64), ranks=ranks)
    assert found.shape == (3,)
    assert shared_choice_chance(MODULES, ranks) == pytest.approx(chance)
    assert found.sub(chance).abs().max() < 0.015


def test_persistence_does_not_cross_documents():
    chosen = torch.tensor([[0], [0], [1], [1]])
    assert temporal_persistence(chosen, torch.tensor([0, 0, 1, 1])).item() == 1
    with pytest.raises(TraceError, match="neighbouring tokens"):
        temporal_persistence(chosen, torch.tensor([0, 1, 2, 3]))


def test_vocabulary_specialization_leaves_rare_tokens_out():
    token = torch.tensor([0] * 10 + [1] * 9)
    chosen = torch.tensor([[0]] * 5 + [[1]] * 5 + [[2]] * 9)
    assert vocabulary_specialization(token, chosen, modules=3).item() == 0.5
    with pytest.raises(TraceError, match="20 occurrences"):
        vocabulary_specialization(token, chosen, modules=3, least=20)


def test_lexical_information_is_that_of_a_router_by_token():
    token = numbers(0, MODULES)
    by_token = torch.stack([token[:, None], torch.zeros_like(token)[:, None]])
    by_token[1] = random_choices(3, TOKENS)[:, :1]
    told, nothing = lexical_information(token, by_token).tolist()
    assert told == pytest.approx(math.log(MODULES), abs=1e-3)
    assert nothing == pytest.approx(0, abs=0.005)


def test_semantic_information_is_zero_for_a_router_by_token_even_when_tokens_tell_the_rule():
    token = numbers(0, 200)
    rule = token % 2
    by_token = (token % MODULES)[:, None]
    found = semantic_information(rule, token, by_token, generator=generator(), shuffles=5)
    assert found.item() == pytest.approx(0, abs=1e-9)


def test_semantic_information_of_rare_tokens_is_not_inflated():
    rule, token = numbers(0, 4, 2000), numbers(1, 500, 2000)
    chosen = random_choices(2, 2000)
    null = semantic_information_null(rule, token, chosen, generator=generator(), shuffles=10)
    found = semantic_information(rule, token, chosen, generator=generator(), shuffles=10)
    assert null.mean().item() > 0.3
    assert abs(found.item()) < 0.05


def test_semantic_information_is_that_of_a_router_by_rule_within_tokens():
    rule, token = numbers(0, 4), numbers(1, 50)
    found = semantic_information(rule, token, rule[:, None], generator=generator(), shuffles=5)
    assert found.item() == pytest.approx(math.log(4), abs=0.03)


def test_the_same_generator_gives_the_same_null():
    rule, token = numbers(0, 4, 500), numbers(1, 50, 500)
    chosen = random_choices(2, 500)
    first, second = (
        semantic_information_null(rule, token, chosen, generator=generator(), shuffles=3)
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_cross_layer_dependence_is_one_for_a_renaming_and_small_by_chance():
    first = numbers(0, MODULES)
    layers = torch.stack([first, (first + 3) % MODULES, numbers(1, MODULES)])
    found = cross_layer_nmi(layers, modules=MODULES)
    assert found.shape == (2,)
    assert found[0].item() == pytest.approx(1)
    assert found[1].item() < 0.01
    with pytest.raises(TraceError, match="pairs of layers"):
        cross_layer_nmi(first[None], modules=MODULES)


def test_router_margin_is_the_gap_at_the_cut():
    logits = torch.tensor([[[4.0, 1.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]]])
    assert router_margin(logits, choices=2).tolist() == [1.0]
    with pytest.raises(TraceError, match="from 1 to 3"):
        router_margin(logits, choices=4)


def test_weight_entropy_is_log_m_for_uniform_weights():
    assert weight_entropy(torch.full((3, 4), 0.25)).item() == pytest.approx(math.log(4))
    assert weight_entropy(torch.eye(4)).item() == 0


def test_no_tokens_are_refused():
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    with pytest.raises(TraceError, match="no tokens"):
        saturation(nothing, nothing)
