"""RoutingCounts: the laws of a commutative monoid, and agreement with counting one by one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.counting.count import count, count_choices
from modeval.errors import TraceError
from modeval.types import RoutingCounts


def choices(seed, samples=40, *, rules=3, modules=5, top=2, blocks=4, padded=False):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(samples, modules, generator=generator).topk(top).indices
    weight = torch.rand(samples, top, generator=generator, dtype=torch.float64)
    rule = torch.randint(-1 if padded else 0, rules, (samples,), generator=generator)
    if padded:
        chosen = chosen.masked_fill(torch.rand(chosen.shape, generator=generator) < 0.2, -1)
    return {
        "rule": rule,
        "chosen": chosen,
        "weight": weight / weight.sum(-1, keepdim=True),
        "block": torch.randint(blocks, (samples,), generator=generator),
    }


def fold(part, *, rules=3, modules=5, blocks=4, weighted=True):
    return count_choices(
        part["rule"],
        part["chosen"],
        part["weight"] if weighted else None,
        rules=rules,
        modules=modules,
        block=part["block"],
        blocks=blocks,
    )


def assert_same(first, second):
    for name, tensor in first.tensors().items():
        torch.testing.assert_close(tensor, second.tensors()[name], rtol=1e-12, atol=1e-12)


seeds = st.integers(0, 2**20)


@given(seeds, st.integers(0, 40), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_merging_two_streams_is_folding_their_concatenation(seed, cut, padded, weighted):
    whole = choices(seed, padded=padded)
    parts = [
        {name: value[part] for name, value in whole.items()}
        for part in (slice(cut), slice(cut, None))
    ]
    merged = fold(parts[0], weighted=weighted) + fold(parts[1], weighted=weighted)
    assert_same(merged, fold(whole, weighted=weighted))


@given(seeds, seeds, seeds)
@settings(max_examples=15, deadline=None)
def test_order_does_not_matter(first, second, third):
    a, b, c = (fold(choices(seed)) for seed in (first, second, third))
    assert_same(a + b, b + a)
    assert_same((a + b) + c, a + (b + c))


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_zero_is_neutral(seed):
    counts = fold(choices(seed))
    assert_same(RoutingCounts.zeros(rules=3, modules=5, blocks=4) + counts, counts)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("blocks", [1, 40])
def test_choices_are_counted_as_one_by_one(padded, blocks):
    part = choices(0, 200, blocks=blocks, padded=padded)
    counts = fold(part, blocks=blocks)
    expected = RoutingCounts.zeros(rules=3, modules=5, blocks=blocks)
    for rule, block, chosen, weight in zip(
        part["rule"].tolist(),
        part["block"].tolist(),
        part["chosen"].tolist(),
        part["weight"].tolist(),
        strict=True,
    ):
        if rule < 0:
            continue
        taken = [(m, w) for m, w in zip(chosen, weight, strict=True) if m >= 0]
        expected.samples[block, rule] += 1
        expected.selection_entropy[block, rule] += math.log(max(len(taken), 1))
        for module, share in taken:
            expected.mass[block, rule, module] += share
            expected.selections[block, rule, module] += 1
            expected.entropy[block, rule] += -share * math.log(share)
            for other, _ in taken:
                expected.coactivation[module, other] += 1
    assert_same(counts, expected)


def test_dense_weights_and_the_same_choices_give_the_same_counts():
    part = choices(1)
    dense = torch.zeros(40, 5, dtype=torch.float64).scatter_(1, part["chosen"], part["weight"])
    counts = count(
        part["rule"], dense, rules=3, block=part["block"], blocks=4, chosen=part["chosen"]
    )
    assert_same(counts, fold(part))


@pytest.mark.parametrize("rules", [3, 50])
def test_dense_routing_selects_the_largest_weight(rules):
    generator = torch.Generator().manual_seed(0)
    rule = torch.randint(rules, (500,), generator=generator)
    weight = torch.rand(500, 4, generator=generator, dtype=torch.float64).softmax(-1)
    counts = count(rule, weight, rules=rules)
    one = torch.nn.functional.one_hot(rule, rules).double()
    torch.testing.assert_close(counts.mass[0], one.T @ weight)
    largest = torch.nn.functional.one_hot(weight.argmax(-1), 4).double()
    assert torch.equal(counts.selections[0], one.T @ largest)
    assert torch.equal(counts.coactivation, torch.diag(largest.sum(0)))


def test_members_of_a_batch_do_not_touch_each_other():
    parts = [choices(seed) for seed in range(3)]
    stacked = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    batched = fold(stacked)
    for index, part in enumerate(parts):
        alone = fold(part)
        for name, tensor in batched.tensors().items():
            torch.testing.assert_close(tensor[index], alone.tensors()[name])


def test_one_labelling_serves_all_layers():
    part = choices(2)
    layers = torch.stack([part["chosen"], part["chosen"].flip(-1)])
    counts = count_choices(part["rule"][None], layers, rules=3, modules=5)
    assert counts.mass.shape == (2, 1, 3, 5)
    torch.testing.assert_close(counts.mass[0], counts.mass[1])


def test_blocks_pool_to_the_counts_without_blocks():
    part = choices(3)
    pooled = fold(part).pooled()
    assert_same(pooled, fold({**part, "block": torch.zeros_like(part["block"])}, blocks=1))


def test_views_differ_only_by_the_weights():
    counts = count_choices(
        torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.25]]), rules=1, modules=3
    )
    assert counts.conditional().tolist() == [[0.75, 0.25, 0.0]]
    assert counts.conditional(view="assignment").tolist() == [[0.5, 0.5, 0.0]]
    assert counts.softness(view="assignment").item() == pytest.approx(math.log(2))


def test_priors_weigh_rules_alike_or_by_their_samples():
    counts = count(torch.tensor([0, 0, 0, 1]), torch.eye(2)[[0, 0, 0, 1]], rules=2)
    assert counts.joint().tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert counts.joint("empirical").tolist() == [[0.75, 0.0], [0.0, 0.25]]


def test_a_rule_without_samples_is_named():
    counts = count(torch.tensor([0, 2]), torch.eye(2), rules=3)
    with pytest.raises(TraceError, match="Rule 1 has no samples"):
        counts.joint()
    with pytest.raises(TraceError, match="Rule 1 has no samples"):
        counts.softness()


def test_a_rule_whose_samples_are_unknown_is_named():
    counts = count(torch.tensor([0, 1]), torch.eye(2), rules=2)
    counts.samples[0, 1] = math.nan
    with pytest.raises(TraceError, match="Rule 1 has no samples"):
        counts.joint()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([[2.0, 1.0]], "sum to 3"),
        ([[1.5, -0.5]], "negative"),
        ([[math.nan, 1.0]], "not a number"),
        ([[0.0, 0.0]], "No sample of rule 0 was routed"),
    ],
)
def test_weights_that_are_no_distribution_are_refused(weight, message):
    counts = count(torch.tensor([0]), torch.tensor(weight), rules=1)
    with pytest.raises(TraceError, match=message):
        counts.conditional()


@pytest.mark.parametrize(
    ("rule", "chosen", "block", "message"),
    [
        (3, 0, 0, "Rule 3 is out of range: expected -1 to 2"),
        (0, 5, 0, "Module 5 is out of range"),
        (0, -2, 0, "Module -2"),
        (0, 0, 4, "Block 4"),
    ],
)
def test_numbers_out_of_range_are_refused(rule, chosen, block, message):
    part = {
        "rule": torch.tensor([rule]),
        "chosen": torch.tensor([[chosen]]),
        "weight": torch.ones(1, 1),
        "block": torch.tensor([block]),
    }
    with pytest.raises(TraceError, match=message):
        fold(part)


def test_counts_of_other_shapes_do_not_add():
    first, second = (RoutingCounts.zeros(rules=2, modules=m) for m in (2, 3))
    with pytest.raises(TraceError, match="do not add"):
        first + second


def test_the_size_does_not_depend_on_the_length_of_the_stream():
    sizes = [
        sum(tensor.nbytes for tensor in fold(choices(0, samples)).tensors().values())
        for samples in (10, 20_000)
    ]
    assert sizes[0] == sizes[1]


def test_long_streams_are_cut_in_parts_without_a_seam():
    part = choices(5, 70_000)
    counts = fold(part)
    assert counts.samples.sum() == 70_000
    assert counts.selections.sum() == 140_000
    assert torch.equal(counts.coactivation.diagonal(), counts.selections.sum((0, 1)))


def test_an_empty_batch_counts_nothing():
    counts = fold(choices(0, 0))
    assert_same(counts, RoutingCounts.zeros(rules=3, modules=5, blocks=4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no second device")
def test_a_second_device_counts_the_same():
    part = choices(4)
    there = fold({name: tensor.cuda() for name, tensor in part.items()})
    assert_same(there.to("cpu"), fold(part))
