"""Collapse: are some modules left without work?"""

import torch
from jaxtyping import Float64
from torch import Tensor

ROUNDING = 1e-12  # a distance from perfect below this is rounding of sums to 1

Joint = Float64[Tensor, "*batch rules modules"]
Scalar = Float64[Tensor, "*batch"]


def usage(joint: Joint) -> Float64[Tensor, "*batch modules"]:
    """Return p(m), the share of all routing that each module gets."""
    return joint.sum(-2)


def conditional(joint: Joint) -> Joint:
    """Return A, each rule's routing on its own: rows divided by their sums."""
    return joint / joint.sum(-1, keepdim=True)


def exact_zero(distance: Scalar) -> Scalar:
    """Return distances with what is rounding of zero set to zero."""
    return torch.where(distance < ROUNDING, 0.0, distance)


def collapse_avg(joint: Joint) -> Scalar:
    """How much of the modules' fair share of work is missing, over all modules?

    ``M/(M-1) sum_m max(0, 1/M - p(m))``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 0 (M = R), uniform 0, collapsed 1. A single module
        cannot collapse: 0.

    Source: Mittal, Bengio, Lajoie 2022 (arXiv 2206.02713), equation 16. It is M/(M-1) times the
    total variation distance between p and the uniform distribution.

    >>> collapse_avg(torch.tensor([[0.5, 0.0], [0.5, 0.0]], dtype=torch.float64)).item()
    1.0
    """
    modules = joint.shape[-1]
    missing = (1 / modules - usage(joint)).clamp(min=0).sum(-1)
    return exact_zero((missing * (modules / max(modules - 1, 1))).clamp(max=1))


def collapse_worst(joint: Joint) -> Scalar:
    """How far is the least used module from its fair share?

    ``1 - M min_m p(m)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 0 (M = R), uniform 0, collapsed 1. One dead module
        is enough for 1: look at ``dead_fraction`` for how many.

    Source: Mittal, Bengio, Lajoie 2022 (arXiv 2206.02713), equation 17.

    >>> collapse_worst(torch.full((2, 2), 0.25, dtype=torch.float64)).item()
    0.0
    """
    return exact_zero((1 - joint.shape[-1] * usage(joint).amin(-1)).clamp(max=1))
