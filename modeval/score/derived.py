"""Numbers for each rule and module of models whose scorecards have activation matrices alone."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from modeval.score.scorecard import Activation, Profile, Scorecard


def with_profiles(card: Scorecard) -> Scorecard:
    """Return a scorecard that has profiles of every model, derived where they are missing.

    Of what :mod:`modeval.score.profiles` gives for traces, an activation matrix tells

        module_share      p(m), its share of the work; uniform routing 1/M
        rule_main_share   A[r, m] of the module that gets most of the rule; uniform routing 1/M
    """
    known = {entry.model for entry in card.profiles}
    made = tuple(
        profile
        for activation in card.activations
        if activation.model not in known
        for profile in _derived(activation)
    )
    return replace(card, profiles=card.profiles + made)


def _derived(activation: Activation) -> Iterator[Profile]:
    matrix = torch.tensor(activation.matrix, dtype=torch.float64)
    rules, modules = matrix.shape
    weight = torch.full((rules,), 1 / rules, dtype=torch.float64)
    if activation.prior:
        weight = torch.tensor(activation.prior, dtype=torch.float64)
    yield Profile(
        model=activation.model,
        metric="module_share",
        axis="module",
        layer=activation.layer,
        seed=activation.seed,
        values=tuple((weight @ matrix).tolist()),
        chance=1 / modules,
    )
    yield Profile(
        model=activation.model,
        metric="rule_main_share",
        axis="rule",
        layer=activation.layer,
        seed=activation.seed,
        values=tuple(matrix.amax(1).tolist()),
        chance=1 / modules,
    )
