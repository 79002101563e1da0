"""The kernel counts what PyTorch counts: the same laws, the same refusals."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.counting import kernel
from modeval.counting.count import count_choices
from modeval.errors import TraceError
from modeval.native import KernelError
from modeval.types import RoutingCounts


@pytest.fixture(autouse=True, scope="module")
def always(compiler: None) -> Iterator[None]:
    """Count with the kernel however few rows there are."""
    kernel.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "ENOUGH", 1)
        yield


def draw(
    seed: int,
    samples: int = 700,
    *,
    modules: int = 20,
    choices: int = 8,
    padded: bool = False,
    batch: tuple[int, ...] = (),
    kind: torch.dtype = torch.int64,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, samples)
    chosen = torch.rand(*shape, modules, generator=generator).topk(choices).indices
    rule = torch.randint(-1 if padded else 0, 3, shape, generator=generator)
    if padded:
        chosen = chosen.masked_fill(torch.rand(chosen.shape, generator=generator) < 0.2, -1)
    weight = torch.rand(chosen.shape, generator=generator, dtype=torch.float64)
    return {
        "rule": rule,
        "chosen": chosen.to(kind),
        "weight": weight / weight.sum(-1, keepdim=True),
        "block": torch.randint(4, shape, generator=generator),
        "modules": modules,
    }


def fold(part: dict[str, Any], *, weighted: bool = True) -> RoutingCounts:
    given_weight = {"weight": part["weight"]} if weighted else {}
    return count_choices(
        part["rule"],
        part["chosen"],
        **given_weight,
        rules=3,
        modules=part["modules"],
        block=part["block"],
        blocks=4,
    )


def fold_with_torch(part: dict[str, Any], *, weighted: bool = True) -> RoutingCounts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "ENOUGH", 1 << 62)
        return fold(part, weighted=weighted)


def assert_same(found: RoutingCounts, expected: RoutingCounts) -> None:
    for name, tensor in expected.tensors().items():
        if name in ("selections", "samples", "coactivation"):
            assert torch.equal(found.tensors()[name], tensor), name
        else:
            torch.testing.assert_close(
                found.tensors()[name], tensor, rtol=1e-12, atol=1e-12, equal_nan=True
            )


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    ("modules", "choices"),
    [(2, 1), (5, 2), (9, 3), (8, 4), (64, 6), (64, 8), (300, 8), (12, 11), (40, 17)],
)
def test_the_kernel_counts_what_pytorch_counts(
    modules: int,
    choices: int,
    padded: bool,  # noqa: FBT001
    weighted: bool,  # noqa: FBT001
) -> None:
    part = draw(modules, modules=modules, choices=choices, padded=padded)
    assert_same(fold(part, weighted=weighted), fold_with_torch(part, weighted=weighted))


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("choices", [3, 8])
def test_choices_may_be_of_any_type(kind: torch.dtype, choices: int) -> None:
    part = draw(1, modules=100, choices=choices, kind=kind)
    assert_same(fold(part), fold_with_torch(part))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_weights_may_be_of_any_type(kind: torch.dtype) -> None:
    part = draw(2)
    part["weight"] = part["weight"].to(kind)
    assert_same(fold(part), fold_with_torch(part))


def test_a_batch_is_counted_one_by_one() -> None:
    part = draw(3, batch=(2, 3), padded=True)
    together = fold(part)
    assert_same(together, fold_with_torch(part))
    alone = {
        name: value if name == "modules" else value[1, 2].clone() for name, value in part.items()
    }
    assert_same(
        RoutingCounts(**{name: value[1, 2] for name, value in together.tensors().items()}),
        fold(alone),
    )


def test_one_labelling_serves_all_layers() -> None:
    part = draw(4, batch=(3,))
    part["rule"], part["block"] = part["rule"][:1], part["block"][:1]
    assert_same(fold(part), fold_with_torch(part))


@given(st.integers(0, 2**20), st.integers(0, 60), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_merging_two_streams_is_folding_their_concatenation(
    seed: int,
    cut: int,
    padded: bool,  # noqa: FBT001
    weighted: bool,  # noqa: FBT001
) -> None:
    whole = draw(seed, 60, padded=padded)
    ends = [
        {name: value if name == "modules" else value[part] for name, value in whole.items()}
        for part in (slice(cut), slice(cut, None))
    ]
    merged = fold(ends[0], weighted=weighted) + fold(ends[1], weighted=weighted)
    assert_same(merged, fold(whole, weighted=weighted))
    assert_same(fold(ends[1], weighted=weighted) + fold(ends[0], weighted=weighted), merged)


def test_sums_do_not_depend_on_threads() -> None:
    part = draw(5, 5000, padded=True)
    together, threads = fold(part), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = fold(part)
    finally:
        torch.set_num_threads(threads)
    for name, tensor in together.tensors().items():
        assert torch.equal(tensor, alone.tensors()[name])


def test_strange_weights_are_counted_as_pytorch_counts_them() -> None:
    part = draw(6, 5, modules=4, choices=2)
    part["rule"], part["block"] = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 0, 0, 1, 1])
    part["weight"] = torch.tensor(
        [[0.0, 1.0], [-0.1, 1.1], [math.nan, 0.5], [1e-320, 1.0], [math.inf, 0.0]],
        dtype=torch.float64,
    )
    assert_same(fold(part), fold_with_torch(part))


@pytest.mark.parametrize("wrong", [20, -2, 2**40])
@pytest.mark.parametrize("place", [0, 699])
@pytest.mark.parametrize("choices", [3, 8])
def test_a_choice_out_of_range_is_refused(wrong: int, place: int, choices: int) -> None:
    part = draw(7, choices=choices)
    part["chosen"][place, -1] = wrong
    with pytest.raises(TraceError, match=f"Module {wrong} is out of range: expected -1 to 19"):
        fold(part)


def test_counts_are_moved_on_before_a_counter_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    part = draw(8, 500)
    monkeypatch.setattr(kernel, "COUNTABLE", 64 * 200)
    assert kernel.rows_at_most(8) == 200
    assert_same(fold(part), fold_with_torch(part))


def test_settling_changes_no_sum() -> None:
    tables = kernel.Tables.zeros(2, 4, 2)
    tables.selections[1, 3], tables.samples[1], tables.pairs[0, 3] = 5, 5, 2
    before = {name: part.clone() for name, part in kernel.parts(tables, weighted=False).items()}
    kernel.settle(tables)
    assert not tables.selections.any()
    after = kernel.parts(tables, weighted=False)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])


def test_without_a_kernel_pytorch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KernelError("no compiler")

    monkeypatch.setattr(kernel, "load", fail)
    kernel._load_or_none.cache_clear()
    part = draw(9)
    try:
        assert kernel.kernel(10**9) is None
        assert_same(fold(part), fold_with_torch(part))
    finally:
        kernel._load_or_none.cache_clear()


def test_few_rows_ask_for_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "ENOUGH", 100)
    monkeypatch.setattr(kernel, "_load_or_none", None)
    assert kernel.kernel(99) is None
