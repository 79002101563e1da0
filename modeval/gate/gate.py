"""The gate: does a model keep to a policy, does it not, or can it not be told?

Limits (``max``, ``min``) are compared unrounded, ``<=`` and ``>=``, so a policy at the measured
value passes. What decides is chosen by ``on``:

    on       value      interval                      outcome
    value    within     any, or none                  pass (and said when it reaches past the limit)
    value    beyond     any, or none                  fail (and said when it reaches back within)
    bound    any        all of it within              pass
    bound    any        all of it beyond              fail
    bound    any        straddles the limit           inconclusive
    bound    any        none, or over two seeds       inconclusive
    either   within, but marked for few samples       inconclusive
    either   absent, null, not finite                 error

The interval is that of the scorecard: over seeds, or over documents. A single seed has one from
its samples alone. ``significant`` asks the p value of permuted labels, or where there is none,
whether the seeds (the samples, for one seed) lie beyond the chance level; one-sided, at 1 - level:

    shown to beat chance                              pass
    not shown                                         fail
    nothing tells the noise                           inconclusive

``max_drop`` pairs seeds and layers with those of a baseline; the drop is how much worse the mean
over pairs got, in the metric's own direction:

    on       drop                                     outcome
    either   beyond the margin and beyond the noise   fail
    value    within the margin, or within the noise   pass (and said when beyond the margin)
    bound    its one-sided interval within margin     pass
    bound    else                                     inconclusive
    either   beyond the margin, the noise unknown     inconclusive
    either   not comparable                           error

A claim about the worst of several layers, seeds, rules or modules holds when it holds for each, and
the verdict shows the one that is furthest from passing. Tests of one requirement among several of
them are corrected (Holm), whether there is one verdict on the worst or a verdict on each.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from modeval.gate.chance import beats_chance
from modeval.gate.claims import Item, claims
from modeval.gate.drop import against_baseline
from modeval.gate.limits import within_limit
from modeval.gate.policy import Comparison, Policy
from modeval.gate.policy_check import require_possible
from modeval.gate.verdicts import SEVERITY, Asked, GateResult, Judged, Verdict, verdict_of
from modeval.score.profiles import with_profiles
from modeval.score.scorecard import Scorecard, is_named

JUDGES: dict[Comparison, Callable[[Asked, Sequence[Item]], list[Judged]]] = {
    "max": within_limit,
    "min": within_limit,
    "max_drop": against_baseline,
    "significant": beats_chance,
}


def gate(
    cards: Sequence[tuple[str, Scorecard]],
    policy: Policy,
    baseline: Scorecard | None = None,
) -> GateResult:
    """Check several scorecards, each with the file that it came from.

    Raises:
        SpecError: the policy cannot be checked: see :func:`require_possible`.
    """
    whole = [(source, with_profiles(card)) for source, card in cards]
    require_possible(policy, [card for _, card in whole])
    verdicts = [
        replace(verdict, source=source)
        for source, card in whole
        for verdict in _check(card, policy, baseline)
    ]
    return GateResult(verdicts=tuple(verdicts), policy=policy, cards=tuple(cards))


def check(
    card: Scorecard, policy: Policy, baseline: Scorecard | None = None
) -> tuple[Verdict, ...]:
    """Check one scorecard: one verdict for each model that a requirement covers, in order.

    Nothing is drawn at random: the same scorecards and policy give the same verdicts.

    Raises:
        SpecError: the policy cannot be checked: see :func:`require_possible`.
    """
    whole = with_profiles(card)
    require_possible(policy, [whole])
    return _check(whole, policy, baseline)


def _check(card: Scorecard, policy: Policy, baseline: Scorecard | None) -> tuple[Verdict, ...]:
    baseline = None if baseline is None else with_profiles(baseline)
    return tuple(
        verdict
        for requirement in policy.requirements
        for model in card.models
        if is_named(requirement.model, model)
        for verdict in _verdicts(Asked(card, model, requirement, policy, baseline))
    )


def _verdicts(asked: Asked) -> Iterator[Verdict]:
    """Judge a requirement of one model: a verdict on each claim, that of its worst item.

    Items of all claims are judged together, so that tests are corrected for all of them.
    """
    ignore = asked.policy.failed_seeds == "ignore"
    found = claims(asked.card, asked.model, asked.requirement, ignore_failed=ignore)
    reasons = [(item, _unusable(asked, item)) for claim in found for item in claim.items]
    usable = [item for item, reason in reasons if reason is None]
    judged = iter(JUDGES[asked.requirement.comparison](asked, usable) if usable else ())
    each = iter(
        [
            next(judged)
            if reason is None
            else Judged(verdict_of(asked, item, "error", *reason), 0.0)
            for item, reason in reasons
        ]
    )
    for claim in found:
        own = [next(each) for _ in claim.items]
        worst = max(own, key=lambda one: (SEVERITY[one.verdict.outcome], one.distance))
        yield replace(worst.verdict, claim=claim.words)


def _unusable(asked: Asked, item: Item) -> tuple[str, str] | None:
    """Return why an item is no measurement, and what to do about it."""
    score = item.score
    if score is None:
        return item.absent, "An absent number never passes. Score it, or take it out of the policy."
    if score.value is None or not math.isfinite(score.value):
        note = f" ({score.note})" if score.note else ""
        return (
            f"{score.metric} is no number{note}",
            "What could not be computed never passes. Mend the model or the data, and score again.",
        )
    failed = [each for each in asked.model.members if each.status == "failed"]
    if item.seed is None and failed and asked.policy.failed_seeds == "error":
        count = f"{len(failed)} of {len(asked.model.members)} seeds failed"
        return (
            f"{count} ({failed[0].note}), and the mean is over the others",
            "Train them again, or leave them out on purpose with --failed-seeds ignore.",
        )
    return None
