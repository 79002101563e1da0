"""The gate: does a model keep to a policy, does it not, or can it not be told?

Limits (``max``, ``min``) are compared unrounded, ``<=`` and ``>=``, so a policy at the measured
value passes. What decides is chosen by ``on``:

    on       value      interval                      outcome
    value    within     any, or none                  pass (and said when it reaches past the limit)
    value    beyond     any, or none                  fail (and said when it reaches back within)
    bound    any        all of it within              pass
    bound    any        all of it beyond              fail
    bound    any        straddles the limit           inconclusive
    bound    any        none, or one without width    inconclusive
    either   within, of few samples that flatter      inconclusive
    either   beyond, of few samples that slander      inconclusive
    either   absent, null, not finite                 error
    either   within, but something was left out       error

The interval over seeds is made from the seeds, tasks being random too; that over documents is the
scorecard's. A single seed has one from its samples alone. ``significant`` asks the p value of
permuted labels, and with several seeds whether they lie beyond what permuted labels give (for
``chance = "hash"``, beyond hashed routing); one-sided, at 5 %:

    shown to beat chance                              pass
    not shown                                         fail
    labels were not permuted, or nothing varies       inconclusive

``max_drop`` pairs seeds and layers with those of a baseline; the drop is how much worse the mean
over pairs got, in the metric's own direction:

    on       drop                                     outcome
    either   beyond the margin and beyond the noise   fail
    value    within the margin, or within the noise   pass (and said when beyond the margin)
    bound    its one-sided interval within margin     pass
    bound    else                                     inconclusive
    either   beyond the margin, the noise unknown     inconclusive
    either   few samples may have made it so          inconclusive
    either   not comparable                           error
    either   no drop, but seeds or layers of the baseline, or parts of it, are missing   error

``max_change`` asks for proof that it stayed the same: both of two one-sided tests, at 5 % each:

    all of the 90 % interval within the margin        pass
    shown to be further off than the margin           fail
    else, or the noise unknown, or of few samples     inconclusive
    not comparable, or something is missing           error

A claim about the worst of several layers, seeds, rules or modules holds when it holds for each, and
the verdict shows the one that is furthest from passing. Tests of one requirement among several of
them are corrected (Holm), whether there is one verdict on the worst or a verdict on each.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from modeval.errors import SpecError
from modeval.gate.chance import beats_chance
from modeval.gate.claims import Item, claim_words, claims
from modeval.gate.drop import against_baseline, baseline_of
from modeval.gate.limits import within_limit
from modeval.gate.missing import doubts_about, missing_from
from modeval.gate.policy import Comparison, Policy, Requirement
from modeval.gate.policy_check import AGAINST_BASELINE, require_possible
from modeval.gate.verdicts import SEVERITY, Asked, Checked, GateResult, Verdict, verdict_of
from modeval.score.chosen import distinct_title
from modeval.score.scorecard import ModelRecord, Scorecard, is_named

JUDGES: dict[Comparison, Callable[[Asked, Sequence[Item]], list[Verdict]]] = {
    "max": within_limit,
    "min": within_limit,
    "max_drop": against_baseline,
    "max_change": against_baseline,
    "significant": beats_chance,
}
Cards = Sequence[tuple[str, Scorecard]]


def gate(
    cards: Cards,
    policy: Policy,
    baseline: Scorecard | None = None,
) -> GateResult:
    """Check several scorecards, each with the file that it came from.

    Nothing is drawn at random: the same scorecards and policy give the same verdicts.

    Args:
        cards: scorecards with their files.
        policy: what must hold.
        baseline: what ``max_drop`` compares with: the models that are to be found again.

    Raises:
        SpecError: the policy cannot be checked: see :func:`require_possible`; or nothing of it is
            about one of the scorecards.
    """
    whole = [(source, _with_profiles(card, policy)) for source, card in cards]
    before = None if baseline is None else _with_profiles(baseline, policy)
    require_possible(policy, [card for _, card in whole])
    checked = [
        Checked(source=source, card=card, model=model, verdicts=tuple(verdicts))
        for source, card in whole
        for model in card.models
        if (verdicts := [*_of_model(source, card, model, policy, before)])
    ]
    for source, card in cards:
        if not any(each.source == source for each in checked):
            names = ", ".join(model.id for model in card.models)
            raise SpecError(
                f"{source}: no requirement of the policy is about a model of it ({names}), so "
                "nothing of it would be checked. Leave it out, or widen the patterns of the policy."
            )
    gone = [] if before is None else _not_found(checked, policy, before)
    return GateResult(checked=(*checked, *gone), policy=policy)


def check(
    card: Scorecard, policy: Policy, baseline: Scorecard | None = None
) -> tuple[Verdict, ...]:
    """Check one scorecard: verdicts for each model and requirement, in order.

    Raises:
        SpecError: as :func:`gate`.
    """
    return gate([("scorecard", card)], policy, baseline).verdicts


def _with_profiles(card: Scorecard, policy: Policy) -> Scorecard:
    """Return a scorecard with numbers for each rule and module, where they are asked for."""
    known = {profile.model for profile in card.profiles}
    if all(activation.model in known for activation in card.activations):
        return card
    if not any(requirement.scope.axis for requirement in policy.requirements):
        return card
    from modeval.score.profiles import with_profiles  # noqa: PLC0415 - loads torch

    return with_profiles(card)


def _of_model(
    source: str, card: Scorecard, model: ModelRecord, policy: Policy, baseline: Scorecard | None
) -> Iterator[Verdict]:
    for requirement in policy.requirements:
        if is_named(requirement.model, model):
            for verdict in _verdicts(Asked(card, model, requirement, policy, baseline, source)):
                yield replace(verdict, source=source)


def _verdicts(asked: Asked) -> Iterator[Verdict]:
    """Judge a requirement of one model: a verdict on each claim, that of its worst item.

    Items of all claims are judged together, so that tests are corrected for all of them.
    """
    ignore = asked.policy.failed_seeds == "ignore"
    found = claims(asked.card, asked.model, asked.requirement, ignore_failed=ignore)
    judged = _judged(asked, [item for claim in found for item in claim])
    for claim in found:
        worst = max(
            (judged[id(item)] for item in claim),
            key=lambda verdict: (SEVERITY[verdict.outcome], verdict.distance),
        )
        words = claim_words(asked.requirement.scope, claim)
        by_p = bool(words) and asked.requirement.comparison == "significant"
        yield replace(worst, claim=f"{words} by p" if by_p else words)


def _judged(asked: Asked, items: Sequence[Item]) -> Mapping[int, Verdict]:
    """Return the verdict on each item, by its identity."""
    reasons = {id(item): _unusable(asked, item) for item in items}
    usable = [item for item in items if reasons[id(item)] is None]
    verdicts = JUDGES[asked.requirement.comparison](asked, usable) if usable else []
    judged = {
        id(item): _if_whole(asked, item, verdict)
        for item, verdict in zip(usable, verdicts, strict=True)
    }
    for item in items:
        reason = reasons[id(item)]
        if reason is not None:
            judged[id(item)] = verdict_of(asked, item, "error", *reason)
    return judged


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
    if item.seed is not None or asked.policy.failed_seeds == "ignore":
        return None
    failed = [each for each in asked.model.members if each.status == "failed"]
    without = len(failed) + len(item.missing)
    if not without:
        return None
    count = f"{without} of {len(asked.model.members)} seeds"
    what = f"failed ({failed[0].note})" if failed else f"have no {score.metric}"
    return (
        f"{count} {what}, and the mean is over the others",
        "Train them again, or leave them out on purpose with --failed-seeds ignore.",
    )


def _if_whole(asked: Asked, item: Item, verdict: Verdict) -> Verdict:
    """Let nothing pass, or stay open, of a model of which something was left out."""
    if verdict.outcome in ("fail", "error"):
        return verdict
    gap = missing_from(asked, item.layer)
    if gap:
        advice = "Record or score all of it, or allow it on purpose with --left-out ignore."
        return replace(verdict, outcome="error", why=f"{verdict.why}, but {gap}", advice=advice)
    doubt = doubts_about(asked)
    if doubt and verdict.outcome == "pass":
        advice = "Record it again, or allow it on purpose with --left-out ignore."
        return replace(
            verdict, outcome="inconclusive", why=f"{verdict.why}, but {doubt}", advice=advice
        )
    return verdict


def _not_found(checked: Sequence[Checked], policy: Policy, baseline: Scorecard) -> list[Checked]:
    """Return errors for models of the baseline that no scorecard has any more."""
    found = {
        partner.id
        for each in checked
        for verdict in each.verdicts
        if (
            partner := baseline_of(
                Asked(each.card, each.model, verdict.requirement, policy, baseline)
            )
        )
        is not None
    }
    if policy.baseline_model is not None:
        return []
    drops = [each for each in policy.requirements if each.comparison in AGAINST_BASELINE]
    return [
        Checked(
            source=policy.baseline or "baseline",
            card=baseline,
            model=model,
            verdicts=tuple(_gone(baseline, model, each, policy) for each in asked),
        )
        for model in baseline.models
        if model.id not in found
        and (asked := [each for each in drops if is_named(each.model, model)])
    ]


def _gone(card: Scorecard, model: ModelRecord, asked: Requirement, policy: Policy) -> Verdict:
    return Verdict(
        requirement=asked,
        outcome="error",
        model=model.id,
        title=distinct_title(card, model),
        source=policy.baseline or "baseline",
        why="the baseline has this model, and no scorecard has it any more",
        advice="Score it, name what it is held against with --baseline-model, or check fewer "
        "models with --model.",
    )
