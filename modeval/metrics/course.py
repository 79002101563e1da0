"""Scores over time: what a model kept, lost and gained while rules came one after another.

``L[p, r]`` is the loss on rule r after phase p of training, phase 0 being the start. A rule is met
in the first phase that draws it, and learned at the end of the first unbroken run of phases that
draw it: twice in a row, as when a network is pruned and trained again, is once. Losses are better
when lower, so that signs are turned where sources speak of accuracy.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

Convention = Literal["since-best", "since-learned", "ever"]


@dataclass(frozen=True, slots=True)
class Course:
    """How losses went through the phases of training.

    Attributes:
        loss: ``(..., P + 1, R)`` on each rule, at the start and after each of P phases.
        drawn: ``(P, R)`` whether a phase draws a rule as its own; what is replayed is not.
    """

    loss: Float64[Tensor, "*batch phases rules"]
    drawn: Bool[Tensor, "phases_drawn rules"]

    @property
    def met(self) -> list[int]:
        """Number of the first phase, from 1, that draws each rule; 0 where none does."""
        return [int(column.int().argmax()) + 1 if column.any() else 0 for column in self.drawn.mT]

    @property
    def learned(self) -> list[int]:
        """Number of the phase, from 1, after which each rule was learned; 0 where none was."""
        ends = []
        for column, met in zip(self.drawn.mT, self.met, strict=True):
            rest = column[met:] if met else column[:0]
            gap = (~rest).int()
            ends.append(met + (int(gap.argmax()) if gap.any() else len(rest)) if met else 0)
        return ends


@dataclass(frozen=True, slots=True)
class Merging:
    """What came of merging modules that were trained apart.

    Attributes:
        gap: ``(S,)`` how much the loss grew, the mean over rules.
        barrier: ``(S,)`` how far the loss rose on the line from a module to the next, on samples of
            both; the mean over modules.
        matched: ``(S,)`` the same once hidden units were matched; nothing where they cannot be.
    """

    gap: Float64[Tensor, "seeds"]
    barrier: Float64[Tensor, "seeds"]
    matched: Float64[Tensor, "seeds"] | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What the log of a run tells of its training, V validations of S seeds.

    Attributes:
        phases: names of the start and of its phases.
        steps: ``(V,)`` at which it was validated.
        loss: ``(S, V)`` then, over all rules.
        rule_loss: ``(S, V, R)`` on each rule.
        churn: ``(S,)`` mean share of samples that changed their module from one validation to the
            next; nothing where there is no routing.
        course: losses by phase; nothing where there is one phase.
        early: ``(S,)`` mean loss of rules met after the first phase, at the first validation in
            the phase that they are met in; nothing where there are none.
        merging: what came of merging; nothing where nothing was merged.
    """

    phases: tuple[str, ...]
    steps: Tensor
    loss: Float64[Tensor, "seeds validations"]
    rule_loss: Float64[Tensor, "seeds validations rules"]
    churn: Float64[Tensor, "seeds"] | None = None
    course: Course | None = None
    early: Float64[Tensor, "seeds"] | None = None
    merging: Merging | None = None


def average_loss(course: Course) -> Float64[Tensor, "*batch"]:
    """How well does a model know, in the end, all rules that it met?

    ``mean over met rules of L[P, r]``

    Args:
        course: losses ``(..., P + 1, R)``.

    Returns:
        ``(...)`` in the unit of the loss, from 0. NaN where no phase names rules.

    Source: Lopez-Paz & Ranzato 2017 (arXiv 1706.08840), ACC for losses.

    >>> average_loss(_example()).item()
    0.5
    """
    return _mean([course.loss[..., -1, rule] for rule, met in enumerate(course.met) if met], course)


def backward_transfer(course: Course) -> Float64[Tensor, "*batch"]:
    """Do later rules help those that were learned before?

    ``mean over rules learned before the last phase of L[learned(r), r] - L[P, r]``

    Args:
        course: losses ``(..., P + 1, R)``.

    Returns:
        ``(...)`` in the unit of the loss: above 0 where later rules helped, below 0 where they made
        the model forget. NaN where nothing was learned before the last phase.

    Source: Lopez-Paz & Ranzato 2017, BWT, with the sign turned as losses are better when lower.

    >>> backward_transfer(_example()).item()
    -0.75
    """
    changes = [
        course.loss[..., learned, rule] - course.loss[..., -1, rule]
        for rule, learned in enumerate(course.learned)
        if 0 < learned < len(course.drawn)
    ]
    return _mean(changes, course)


def forgetting(
    course: Course, *, convention: Convention = "since-best"
) -> Float64[Tensor, "*batch"]:
    """How much worse is a model, in the end, on rules that it had learned?

    ``mean over rules learned before the last phase of L[P, r] - reference``

    Args:
        course: losses ``(..., P + 1, R)``.
        convention: the reference. ``since-best``: the least loss from when the rule was learned to
            before the last phase (Chaudhry et al. 2018, and Continuum); may be below 0.
            ``since-learned``: the loss when it was learned (Avalanche), minus backward transfer.
            ``ever``: the least loss after any phase, the last one too (Mammoth); never below 0.

    Returns:
        ``(...)`` in the unit of the loss. NaN where nothing was learned before the last phase.

    Source: Chaudhry et al. 2018 (arXiv 1801.10112), equation 3, for losses.

    >>> forgetting(_example()).item()
    0.75
    """
    lost = []
    for rule, learned in enumerate(course.learned):
        if 0 < learned < len(course.drawn):
            begin, end = {
                "since-best": (learned, -1),
                "since-learned": (learned, learned + 1),
                "ever": (1, None),
            }[convention]
            best = course.loss[..., begin:end, rule].amin(-1)
            lost.append(course.loss[..., -1, rule] - best)
    return _mean(lost, course)


def forward_transfer(course: Course) -> Float64[Tensor, "*batch"]:
    """Do earlier rules help those that come later, before a sample of them was seen?

    ``mean over rules met after the first phase of L[0, r] - L[met(r) - 1, r]``

    Args:
        course: losses ``(..., P + 1, R)``.

    Returns:
        ``(...)`` in the unit of the loss: above 0 where earlier rules helped. NaN where all rules
        are met in the first phase.

    Source: Lopez-Paz & Ranzato 2017, FWT: against the same seed's network at its start.

    >>> forward_transfer(_example()).item()
    -0.5
    """
    gains = [
        course.loss[..., 0, rule] - course.loss[..., met - 1, rule]
        for rule, met in enumerate(course.met)
        if met > 1
    ]
    return _mean(gains, course)


def interference(course: Course) -> Float64[Tensor, "*batch"]:
    """How much does a phase of other rules cost a rule that is learned?

    ``mean over learned rules r and later phases p that do not draw r of L[p, r] - L[p - 1, r]``

    Args:
        course: losses ``(..., P + 1, R)``.

    Returns:
        ``(...)`` in the unit of the loss, for each phase. 0 where modules are protected. NaN where
        no phase comes after a rule was learned.

    Source: own; the entries are those of :func:`interference_matrix`.

    >>> interference(_example()).item()
    0.75
    """
    changes = [
        course.loss[..., phase, rule] - course.loss[..., phase - 1, rule]
        for rule, learned in enumerate(course.learned)
        for phase in range(learned + 1, len(course.drawn) + 1)
        if learned and not course.drawn[phase - 1, rule]
    ]
    return _mean(changes, course)


def interference_matrix(course: Course) -> Float64[Tensor, "*batch phases rules"]:
    """Return what each phase changed in the loss on each rule, ``L[p, r] - L[p - 1, r]``.

    >>> interference_matrix(_example()).tolist()
    [[-0.75, 0.5], [0.75, -1.5]]
    """
    return course.loss.diff(dim=-2)


def steps_to_threshold(
    steps: Tensor, loss: Float64[Tensor, "*batch validations"], factor: float = 2.0
) -> Float64[Tensor, "*batch"]:
    """How soon is a model nearly as good as it is in the end?

    ``first validated step at which the loss is at most factor times the last loss``

    Args:
        steps: ``(V,)`` of the validations.
        loss: ``(..., V)`` measured then.
        factor: how near is near.

    Returns:
        ``(...)`` steps. NaN where the last loss is not finite.

    Source: Mittal et al. 2022 (arXiv 2206.02713), convergence speed; the factor is ours.

    >>> loss = torch.tensor([9.0, 3.0, 2.0], dtype=torch.float64)
    >>> steps_to_threshold(torch.tensor([10, 20, 30]), loss).item()
    20.0
    """
    near = (loss <= factor * loss[..., -1:]).int().argmax(-1)
    found = steps.to(loss.dtype)[near]
    return torch.where(loss[..., -1].isfinite(), found, torch.nan)


def _mean(parts: list[Tensor], course: Course) -> Tensor:
    if not parts:
        return torch.full_like(course.loss[..., 0, 0], torch.nan)
    return torch.stack(parts, -1).mean(-1)


def _example() -> Course:
    """Return two rules, one after another: the first is forgotten while the second is learned."""
    loss = torch.tensor([[1.0, 1.0], [0.25, 1.5], [1.0, 0.0]], dtype=torch.float64)
    return Course(loss, torch.tensor([[True, False], [False, True]]))
