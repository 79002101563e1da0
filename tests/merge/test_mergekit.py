"""Merging against mergekit, in its conventions: with peft the other library that people use."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from modeval.merge import average, dare, task_arithmetic, ties

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip(
        "mergekit.merge_methods.generalized_task_arithmetic",
        reason="the oracle extra is not installed",
    )

WEIGHTS = [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (2.0, 1.0, 0.5), (1.0, 1.0, -1.0)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def merged(base: Tensor, models: Tensor, weights: tuple[float, ...], **settings: Any) -> Tensor:
    """Return what mergekit makes of models around a base."""
    method = theirs.GeneralizedTaskArithmeticMerge(
        consensus_method=settings.get("consensus"),
        sparsification_method=settings.get("sparsification"),
        default_normalize=False,
        default_rescale=False,
        method_name="one",
        method_pretty_name=None,
        method_reference_url=None,
    )
    group = theirs.TensorGroup.from_tensors([base, *models], base_index=0)
    of_models = range(1, 1 + len(models))  # inputs are told apart by their numbers
    result: Tensor = method.merge_group(
        group,
        weight=dict(zip(of_models, weights, strict=True)),
        density=dict.fromkeys(of_models, settings.get("density", 1.0)),
        normalize=settings.get("normalize", False),
        rescale=settings.get("rescale", False),
        int8_mask=False,
        **{"lambda": 1.0},
    )
    return result


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("density", [0.2, 0.9])
def test_ties_by_weight_is_that_of_mergekit(weights: tuple[float, ...], density: float) -> None:
    tau, base = drawn(3, 400), drawn(400, seed=9)
    found = merged(
        base,
        base + tau,
        weights,
        consensus=theirs.ConsensusMethod.sum,
        sparsification=theirs.SparsificationMethod.magnitude,
        density=density,
        normalize=True,
    )
    torch.testing.assert_close(base + ties(tau, density, weights, "weight"), found)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_task_arithmetic_and_averages_are_those_of_mergekit(weights: tuple[float, ...]) -> None:
    tau, base = drawn(3, 50), drawn(50, seed=9)
    found = merged(base, base + tau, weights)
    torch.testing.assert_close(task_arithmetic(base, base + tau, weights=weights), found)
    mean = merged(base, base + tau, weights, normalize=True)
    torch.testing.assert_close(average(base + tau, weights), mean)


def test_dare_drops_as_mergekit_does_and_keeps_the_mean_where_it_keeps_the_sum_of_sizes() -> None:
    tau, base = drawn(1, 400), torch.zeros(400, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        found = merged(
            base,
            tau,
            (1.0,),
            sparsification=theirs.SparsificationMethod.random,
            density=0.25,
            rescale=True,
        )
    kept = found != 0
    assert 0.15 < float(kept.double().mean()) < 0.35
    ours = dare(tau, 1.0 - 0.9 * kept.double().unsqueeze(0), 0.25)[0]
    assert torch.equal(ours != 0, kept)
    factor = tau.abs().sum() / tau[0][kept].abs().sum()
    torch.testing.assert_close(ours * 0.25 * factor, found, rtol=1e-5, atol=1e-6)
