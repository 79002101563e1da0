"""The entropy budget: where the information that routing could carry goes.

``log M = imbalance + rule_specialization + input_distraction + softness``
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from modeval.errors import TraceError
from modeval.metrics.collapse import Joint, Scalar, exact_zero, usage
from modeval.metrics.information import Entropies, entropies, entropy
from modeval.types import Prior, RoutingCounts, View


class EntropyBudget(NamedTuple):
    """The four terms, each ``(...)`` in nats and at least 0; they add up to log M."""

    imbalance: Tensor
    rule_specialization: Tensor
    input_distraction: Tensor
    softness: Tensor

    def shares(self) -> "EntropyBudget":
        """Return each term as a share of log M, the four adding up to 1."""
        whole = sum(self[1:], self[0])
        if bool((whole <= 0).any()):
            raise TraceError(
                "modules = 1: log M is 0, so there is no entropy to share out. Score the budget "
                "of models with 2 or more modules."
            )
        return EntropyBudget(*(term / whole for term in self))


def entropy_budget(
    counts: RoutingCounts, *, prior: Prior = "uniform", view: View = "weight"
) -> EntropyBudget:
    """Return where routing entropy goes: idle modules, the rule, the input, or nowhere.

    ``log M = [log M - H(m)] + I(m; r) + I(m; x | r) + E[H(p(. | x, r))]``

    Args:
        counts: folded routing, batch ``(...)``.
        prior: weight of the rules.
        view: routing weights, or each of K chosen modules as 1/K (softness is log K then).

    Returns:
        Four terms ``(...)`` in nats. One-to-one routing with M = R: (0, log R, 0, 0); by input and
        not by rule: (0, 0, log M, 0); undecided: (0, 0, 0, log M); collapsed: (log M, 0, 0, 0).

    Raises:
        TraceError: a rule has no samples.

    Source: this project; the chain rule of information (Cover & Thomas, section 2.5).

    >>> undecided = torch.full((2, 2), 0.5)
    >>> from modeval.counting.count import count
    >>> budget = entropy_budget(count(torch.tensor([0, 1]), undecided, rules=2))
    >>> [round(term.item(), 4) for term in budget]
    [0.0, 0.0, 0.0, 0.6931]
    """
    joint = counts.joint(prior, view=view)
    return budget_terms(entropies(joint), counts.softness(prior, view=view), joint.shape[-1])


def budget_terms(parts: Entropies, softness: Scalar, modules: int) -> EntropyBudget:
    """Return the budget from entropies and the mean entropy of a sample's routing."""
    # By concavity softness <= H(m | r) <= H(m); sums of rounded weights may miss that by 1e-8.
    within = torch.minimum((parts.both - parts.rule).clamp(min=0), parts.module)
    soft = torch.minimum(softness, within)
    return EntropyBudget(
        imbalance=exact_zero(math.log(modules) - parts.module),
        rule_specialization=exact_zero(parts.module - within),
        input_distraction=exact_zero(within - soft),
        softness=soft,
    )


def imbalance(joint: Joint) -> Scalar:
    """How much routing entropy is lost because modules get unequal shares of the work?

    ``log M - H(m)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)`` in nats, from 0 to log M. Perfect 0 (M = R), uniform 0, collapsed log M.

    Source: this project, first term of the entropy budget.

    >>> imbalance(torch.full((2, 2), 0.25, dtype=torch.float64)).item()
    0.0
    """
    return exact_zero(math.log(joint.shape[-1]) - entropy(usage(joint)))


def rule_specialization(joint: Joint) -> Scalar:
    """How much routing entropy is spent on telling the rules apart?

    ``I(m; r) = H(m) - H(m | r)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)`` in nats, from 0 to log min(R, M). Perfect log R, uniform 0, collapsed 0.

    Source: this project, second term of the entropy budget.

    >>> round(rule_specialization(torch.eye(2, dtype=torch.float64) / 2).item(), 4)
    0.6931
    """
    parts = entropies(joint)
    nothing = torch.zeros_like(parts.rule)
    return budget_terms(parts, nothing, joint.shape[-1]).rule_specialization


def input_distraction(
    counts: RoutingCounts, *, prior: Prior = "uniform", view: View = "weight"
) -> Scalar:
    """How much routing entropy is spent on telling inputs of the same rule apart?

    ``I(m; x | r) = H(m | r) - E[H(p(. | x, r))]``

    Args:
        counts: folded routing, batch ``(...)``.
        prior: weight of the rules.
        view: routing weights, or each of K chosen modules as 1/K.

    Returns:
        ``(...)`` in nats, from 0 to log M. Perfect 0, uniform weights 0, collapsed 0; log M for a
        router that decides by the input alone. 0 by construction when routing sees only the rule.

    Raises:
        TraceError: a rule has no samples.

    Source: this project, third term of the entropy budget.

    >>> rule = torch.tensor([0, 0, 1, 1])
    >>> by_input = torch.eye(2)[[0, 1, 0, 1]]
    >>> from modeval.counting.count import count
    >>> round(input_distraction(count(rule, by_input, rules=2)).item(), 4)
    0.6931
    """
    return entropy_budget(counts, prior=prior, view=view).input_distraction


def softness(counts: RoutingCounts, *, prior: Prior = "uniform", view: View = "weight") -> Scalar:
    """How undecided is the routing of a single sample?

    ``E[H(p(. | x, r))]``

    Args:
        counts: folded routing, batch ``(...)``.
        prior: weight of the rules.
        view: routing weights, or each of K chosen modules as 1/K (gives log K).

    Returns:
        ``(...)`` in nats, from 0 to log M. Hard routing, so perfect and collapsed, 0; uniform
        weights log M.

    Raises:
        TraceError: a rule has no samples.

    Source: this project, fourth term of the entropy budget.

    >>> weight = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    >>> from modeval.counting.count import count
    >>> round(softness(count(torch.tensor([0, 1]), weight, rules=2)).item(), 4)
    0.3466
    """
    return entropy_budget(counts, prior=prior, view=view).softness
