"""Merging agrees with the formulas of the papers, with libraries, and with what was permuted."""

import pytest
import torch
from torch import Tensor

from modeval.errors import SpecError
from modeval.merge import (
    Units,
    average,
    dare,
    greedy_soup,
    match_units,
    mode_barrier,
    permute_units,
    task_arithmetic,
    ties,
)


def vectors(models: int = 3, size: int = 400, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(models, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (2.0, 1.0, 0.5)])
@pytest.mark.parametrize("density", [0.2, 0.9])
def test_ties_is_that_of_peft_in_its_convention(weights: tuple[float, ...], density: float) -> None:
    peft = pytest.importorskip("peft.utils.merge_utils", reason="of the extra oracle")
    tau = vectors()
    theirs = peft.ties(list(tau), torch.tensor(weights, dtype=torch.float64), density)
    torch.testing.assert_close(ties(tau, density, weights), theirs)
    base = vectors(1, seed=9)[0]
    theirs = base + peft.task_arithmetic(list(tau), torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close(task_arithmetic(base, base + tau, weights=weights), theirs)


def test_ties_by_hand_in_both_conventions() -> None:
    tau = torch.tensor([[3.0, -1.0, 0.1], [1.0, 2.0, 0.2], [-2.0, 0.5, 0.3]])
    assert ties(tau).tolist() == pytest.approx([2.0, 1.25, 0.2])
    weights = (1.0, 1.0, 3.0)  # sums: -2, 2.5; 3 + 1 against 3 x 2
    assert ties(tau, 1.0, weights).tolist()[:2] == pytest.approx([2.0, (2 + 1.5) / 2])
    by_weight = ties(tau, 1.0, weights, "weight").tolist()
    assert by_weight[:2] == pytest.approx([-2.0, (2 + 1.5) / 4])


def test_ties_with_equal_weights_of_one_is_the_same_in_both_conventions() -> None:
    tau = vectors()
    torch.testing.assert_close(ties(tau, 0.5), ties(tau, 0.5, (1.0,) * 3, "weight"))


def test_dare_keeps_the_mean_over_draws() -> None:
    tau = vectors(2, 50)
    generator = torch.Generator().manual_seed(1)
    drawn = [
        dare(tau, torch.rand(tau.shape, generator=generator, dtype=tau.dtype), 0.25)
        for _ in range(4_000)
    ]
    torch.testing.assert_close(torch.stack(drawn).mean(0), tau, atol=0.15, rtol=0.05)


def test_averages_soups_and_unlearning() -> None:
    tau = vectors()
    torch.testing.assert_close(
        average(tau, (2.0, 1.0, 1.0)), tau.mul(torch.tensor([[2.0], [1], [1]])).sum(0) / 4
    )
    base = vectors(1, seed=5)[0]
    torch.testing.assert_close(task_arithmetic(base, (base + tau)[:1], -1.0), base - tau[0])
    wanted = tau[:2].mean(0)
    soup, chosen = greedy_soup(tau, lambda theta: float((theta - wanted).norm()))
    assert sorted(chosen) == [0, 1]
    torch.testing.assert_close(soup, wanted)


def layer(seed: int = 0, *stack: int) -> Units:
    generator = torch.Generator().manual_seed(seed)
    return Units(
        torch.randn(*stack, 5, 8, generator=generator),
        torch.randn(*stack, 8, 3, generator=generator),
        torch.randn(*stack, 8, generator=generator),
    )


def run(units: dict[str, Tensor]) -> Tensor:
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(7))
    return torch.relu(x @ units["into"] + units["bias"].unsqueeze(-2)) @ units["out"]


def named(units: Units) -> dict[str, Tensor]:
    return {"into": units.into, "out": units.out, "bias": units.bias}


def test_a_permuted_copy_has_no_barrier_once_its_units_are_matched() -> None:
    one = layer()
    two = permute_units(one, torch.randperm(8, generator=torch.Generator().manual_seed(3)))
    target = run(named(one))

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return (run(parameters) - target).abs().mean()

    assert float(loss(named(two))) == pytest.approx(0, abs=1e-6)
    assert float(mode_barrier(loss, named(one), named(two))) > 0.1
    matched = permute_units(two, match_units(one, two))
    assert float(mode_barrier(loss, named(one), named(matched))) == pytest.approx(0, abs=1e-6)


def test_layers_are_matched_each_by_itself() -> None:
    one = layer(0, 2, 3)
    orders = torch.stack([torch.randperm(8) for _ in range(6)]).view(2, 3, 8)
    two = permute_units(one, orders)
    matched = permute_units(two, match_units(one, two))
    for mine, its in zip(named(one).values(), named(matched).values(), strict=True):
        assert torch.equal(mine, its)


def test_a_barrier_is_that_of_its_formula() -> None:
    def loss(at: dict[str, Tensor]) -> Tensor:
        return (at["w"] ** 2 - 1).abs().sum(-1)

    one, two = {"w": torch.tensor([[-1.0], [0.0]])}, {"w": torch.tensor([[1.0], [0.0]])}
    assert mode_barrier(loss, one, two).tolist() == [1.0, 0.0]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(SpecError, match="2 weights for 3"):
        average(vectors(), (1.0, 2.0))
    with pytest.raises(SpecError, match="density = 0"):
        ties(vectors(), 0)
