"""Rules that are made of skills, and rules that are variants of one another.

A skill is an operation on two numbers. A rule uses some of them: all at once, and their results are
added; one after the other, each with the result of the one before it in the place of the first
number; or in a tree (see :mod:`modeval.spec.layouts`). Which rule uses which skills is the true
skill matrix. A model is told the number of the rule, as always, unless it is told its skills.

Source: Ponti et al. 2022 (Polytropon), Andreas et al. 2016 (neural module networks).
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from modeval.data.binary import named_operations
from modeval.spec import DataSpec
from modeval.spec.layouts import FIRST, SECOND, layout, skills_of_rules


def skill_matrix(spec: DataSpec) -> Int64[Tensor, "rules skills"]:
    """Return the true skill matrix Z: 1 where a rule uses a skill.

    Without skills each rule is one of its own, and Z is the unit matrix.

    >>> skill_matrix(DataSpec(skills=3, rules=2))
    tensor([[0, 1, 1],
            [1, 0, 1]])
    """
    if not spec.skills:
        return torch.eye(spec.rules, dtype=torch.int64)
    matrix = torch.zeros(spec.rules, spec.skills, dtype=torch.int64)
    for rule, used in enumerate(skills_of_rules(spec)):
        matrix[rule, list(used)] = 1
    return matrix


def compose_coefficients(
    spec: DataSpec, alpha: Float64[np.ndarray, " skills"], beta: Float64[np.ndarray, " skills"]
) -> tuple[Float64[np.ndarray, " rules"], Float64[np.ndarray, " rules"]]:
    """Return the coefficients of rules that are made of linear skills.

    Additive: ``sum_s (alpha_s x1 + beta_s x2)``. Else at each place ``alpha_s l + beta_s r``, l and
    r being what its layout gives it. Either is linear again, so that all that is known of linear
    rules holds.
    """
    first, second = np.zeros(spec.rules), np.zeros(spec.rules)
    for rule, used in enumerate(skills_of_rules(spec)):
        if spec.composition == "additive":
            first[rule], second[rule] = alpha[list(used)].sum(), beta[list(used)].sum()
            continue
        results = {FIRST: (1.0, 0.0), SECOND: (0.0, 1.0)}
        for number, place in enumerate(layout(spec)):
            skill = used[place.skill]
            both = zip(results[place.left], results[place.right], strict=True)
            one, two = (alpha[skill] * left + beta[skill] * right for left, right in both)
            results[number] = (one, two)
        first[rule], second[rule] = results[len(used) - 1]
    return first, second


def composed_operations(
    spec: DataSpec, pair: Float[Tensor, "*batch 2"], rule: Int64[Tensor, "*batch"]
) -> Float[Tensor, "*batch 1"]:
    """Apply the named operations that each rule is made of."""
    used = torch.tensor(skills_of_rules(spec), device=rule.device)[rule]  # (..., skills per rule)
    if spec.composition == "additive":
        results = [named_operations(pair, skill) for skill in used.unbind(-1)]
        return torch.stack(results).sum(0)
    made = {FIRST: pair[..., :1], SECOND: pair[..., 1:]}
    for number, place in enumerate(layout(spec)):
        both = torch.cat((made[place.left], made[place.right]), -1)
        made[number] = named_operations(both, used[..., place.skill])
    return made[used.shape[-1] - 1]


def vary(
    spec: DataSpec, values: Float64[np.ndarray, "rules ..."]
) -> Float64[np.ndarray, "rules ..."]:
    """Return parameters of rules of which all but the first of a group are variants of that one.

    A variant is the first of its group plus ``spread`` times the parameters that it would have had:
    duplicates where the spread is 0.
    """
    if spec.variants == 1:
        return values
    rules = np.arange(spec.rules)
    first = rules - rules % spec.variants
    share = np.where(rules == first, 0.0, spec.spread)
    varied: np.ndarray = values[first] + share.reshape(-1, *[1] * (values.ndim - 1)) * values
    return varied
