"""Skills: how well the skills that routing uses are those that rules are really made of."""

import torch
from jaxtyping import Float64
from torch import Tensor

from modeval.metrics.matching import match


def skill_match(
    joint: Float64[Tensor, "*batch rules modules"],
    skills: Float64[Tensor, "*alike rules skills"],
) -> Float64[Tensor, "*batch"]:
    """How much of what rules are made of does routing find, modules standing for skills?

    ``max over one-to-one maps of skills to modules of (1/R) sum_(r, s) min(A[r, m(s)], Z[r, s])``,
    the rows of the true skill matrix Z being shares as those of A are: the F1 of both as soft sets.

    Args:
        joint: distribution of rule and module; A is each row divided by its sum.
        skills: 1 where a rule uses a skill, else 0; each rule has one at least. Leading axes that
            the joint has and this has not are those of tables that are matched with the same.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 1: each rule is shared out evenly over the modules
        of its skills. Uniform routing K/M for K skills a rule and K to M skills in all; collapsed:
        the share of the most common skill, ``max_s mean_r Z[r, s]``. Where each rule is a skill of
        its own it is 1 - the alignment distance.

    Source: the F1 of matched skill matrices, after Ponti et al. 2023 (arXiv 2202.13914), section 5;
    as soft sets this project.

    >>> true = torch.tensor([[1.0, 1, 0], [0, 1, 1]]).double()
    >>> float(skill_match(true[:, [2, 0, 1]], true))
    1.0
    >>> float(skill_match(torch.ones(2, 3).double(), true))
    0.666...
    """
    activation = joint / joint.sum(-1, keepdim=True)
    shares = skills / skills.sum(-1, keepdim=True)
    overlap = torch.minimum(activation.unsqueeze(-2), shares.unsqueeze(-1)).mean(-3)
    return match(overlap)[1]


def discreteness(
    joint: Float64[Tensor, "*batch rules modules"],
) -> Float64[Tensor, "*batch"]:
    """How far are the modules of a rule all or nothing: as much as the most used, or not at all?

    ``1 - mean over r and m of 4 z (1 - z)``, ``z[r, m] = A[r, m] / max_m A[r, m]``

    Args:
        joint: distribution of rule and module; A is each row divided by its sum.

    Returns:
        ``(...)``, no unit, from 0 to 1. Perfect 1: each rule has some modules, alike, and nothing
        of the others; uniform and collapsed routing are 1, too, so it tells something only beside
        how well skills are matched. Lowest where each rule uses one module fully and all others
        half as much: 1/M.

    Source: whether relaxed skills have become binary, after Ponti et al. 2023 (arXiv 2202.13914),
    section 5; as a number this project.

    >>> float(discreteness(torch.tensor([[0.5, 0.5, 0.0]]).double()))
    1.0
    >>> round(float(discreteness(torch.tensor([[0.5, 0.25, 0.25]]).double())), 6)
    0.333333
    """
    most = joint.amax(-1, keepdim=True).clamp(min=1e-300)
    share = joint / most
    return 1 - (4 * share * (1 - share)).mean((-2, -1))
