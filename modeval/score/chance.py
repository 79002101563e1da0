"""Chance: what routing that knows nothing of the rules would score, layer by layer.

One way for cohorts and traces: uniform routing, and routers that send each rule to K modules drawn
at random, exactly where the mean has a formula and else from the same maps for every model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics.alignment import alignment_bounds
from modeval.metrics.chance import (
    hash_alignment_distance,
    hash_collapse_avg,
    hash_inverse_mutual_information,
    hash_joints,
    uniform_joint,
)
from modeval.metrics.table import METRICS
from modeval.score.routing import LayerStack, Routing

HASH_MAPS = 2000
UNEVEN = 1e-9
"""Difference between weights of rules up to which formulas for rules that weigh alike hold."""


@dataclass(frozen=True, slots=True)
class ChanceLevel:
    """Chance of one metric in one layer.

    Attributes:
        uniform: value of uniform routing; nothing for metrics of single samples.
        hash_mean: mean value of routers that send each rule to K modules drawn at random.
        hashed: ``(H,)`` their values, in an order of its own for each layer.
        bounds: least and largest value that any routing can have.
    """

    uniform: float | None
    hash_mean: float | None
    hashed: Float64[Tensor, "maps"]
    bounds: tuple[float, float]


def levels(name: str, routing: Routing) -> list[ChanceLevel]:
    """Return the chance levels of a metric in each layer; random maps differ between layers."""
    generator = torch.Generator().manual_seed(0)
    return [
        _level(name, routing, group, number, generator) for _, group, number in routing.each_layer()
    ]


def _level(
    name: str, routing: Routing, group: LayerStack, number: int, generator: torch.Generator
) -> ChanceLevel:
    metric, modules = METRICS[name], group.modules
    weight = group.counts.prior(routing.prior)[:, number].mean(0)
    bounds = metric.bounds(len(weight), modules, routing.prior)
    order = torch.randperm(HASH_MAPS, generator=generator)
    if metric.needs != "joint" or (metric.labels and not group.labelled):
        return ChanceLevel(None, None, torch.zeros(0, dtype=torch.float64), bounds)
    known = group.choices[number]
    choices = known if 0 < known < modules else 1
    # mean values of random maps need no more digits, and layers then share them
    key = tuple(round(share, 3) for share in weight.tolist())
    hashed = _of_hash_maps(name, key, modules, choices)
    even = float(weight.max() - weight.min()) < UNEVEN
    mean = _hash_mean(name, len(weight), modules) if even and choices == 1 else None
    return ChanceLevel(
        uniform=_of_uniform(name, tuple(weight.tolist()), modules),
        hash_mean=float(hashed.mean()) if mean is None else mean,
        hashed=hashed[order],
        bounds=bounds,
    )


@lru_cache(maxsize=512)
def _of_uniform(name: str, prior: tuple[float, ...], modules: int) -> float:
    """Return what uniform routing scores."""
    weight = torch.tensor(prior, dtype=torch.float64)[:, None]
    return float(METRICS[name].function((weight / modules).expand(len(prior), modules)))


@lru_cache(maxsize=512)
def _of_hash_maps(
    name: str, prior: tuple[float, ...], modules: int, choices: int
) -> Float64[Tensor, "maps"]:
    """Return what random maps of rules to K modules score."""
    weight = torch.tensor(prior, dtype=torch.float64)[:, None]
    maps = _hash_maps(len(prior), modules, choices) * (weight / weight.sum())
    found: Tensor = METRICS[name].function(maps)
    return found


@lru_cache(maxsize=8)
def _hash_maps(rules: int, modules: int, choices: int) -> Float64[Tensor, "maps rules modules"]:
    """Return A of routers that send each rule to K modules drawn at random, 1/K each."""
    generator = torch.Generator().manual_seed(0)
    drawn = hash_joints(rules, modules, draws=HASH_MAPS, generator=generator, choices=choices)
    return drawn * rules


# --- formulas, for rules that weigh alike and one module for each --------------------------------


def _hash_alignment_score(rules: int, modules: int) -> float:
    """Return the mean alignment score: linear in the distance, and never below its chance level."""
    bounds = alignment_bounds(uniform_joint(rules, modules))
    room = float(bounds.chance - bounds.best)
    mean = hash_alignment_distance(rules, modules)
    return (float(bounds.chance) - mean) / room if room else 0.0


FORMULAS: dict[str, Callable[[int, int], float]] = {
    "alignment_distance": hash_alignment_distance,
    "alignment_score": _hash_alignment_score,
    "collapse_avg": hash_collapse_avg,
    "inverse_mutual_information": hash_inverse_mutual_information,
}


@lru_cache(maxsize=512)
def _hash_mean(name: str, rules: int, modules: int) -> float | None:
    formula = FORMULAS.get(name)
    return None if formula is None else formula(rules, modules)
