"""Whether a policy can be checked at all: names, directions, ranges. What cannot is refused."""

from collections.abc import Sequence

from modeval.errors import SpecError, nearest
from modeval.gate.policy import Policy, Requirement
from modeval.metrics.profile_table import PROFILES, ProfileMetric
from modeval.metrics.table import METRICS, metric_of, near_metric
from modeval.score.scorecard import ModelRecord, Scorecard, is_named

AGAINST_BASELINE = ("max_drop", "max_change")
DIRECTIONS = {"max": "lower", "min": "higher"}


def require_possible(policy: Policy, cards: Sequence[Scorecard]) -> None:
    """Refuse a policy that no scorecard could break, or none could keep, or that says nothing.

    Raises:
        SpecError: there are no requirements; a metric is unknown; a limit faces the wrong way,
            lies outside the metric's range, or asks to beat a chance level that is the best value;
            a baseline is missing or unused; no model has the name that is asked for.
    """
    if not policy.requirements:
        raise SpecError(
            "The policy has no requirements, so nothing would be checked. Give some, as "
            "--max collapse_worst=0.2 --min alignment_score=0.6, or a policy file: "
            "--policy gate.toml"
        )
    for requirement in policy.requirements:
        _check_metric(requirement, cards)
        _check_direction(requirement)
        _check_range(requirement, cards)
        _check_chance(requirement, cards)
        _check_model(requirement, cards)
    compared = [each for each in policy.requirements if each.comparison in AGAINST_BASELINE]
    if compared and policy.baseline is None:
        raise SpecError(
            f"{compared[0].comparison} compares with a baseline, and none is named. Add --baseline "
            "main.json, the scorecard of the model to compare with."
        )
    if policy.baseline_model is not None and sum(len(card.models) for card in cards) != 1:
        raise SpecError(
            f"baseline_model {policy.baseline_model}: several models are checked, and one alone "
            "can be held against it. Name it with --model."
        )
    if policy.baseline is not None and not compared:
        raise SpecError(
            f"The baseline {policy.baseline} would not be used. Say what may not get worse, as "
            "--max-drop alignment_score=0.05, or leave the baseline out."
        )


def profile_of(requirement: Requirement) -> ProfileMetric | None:
    """Return the row of a number for each rule or module, with or without its axis in front."""
    axis, metric = requirement.scope.axis, requirement.metric
    rows = (PROFILES.get(name) for name in (metric, f"{axis}_{metric}"))
    return next((row for row in rows if row is not None and row.axis == axis), None)


# --- one rule each -------------------------------------------------------------------------------


def _check_metric(requirement: Requirement, cards: Sequence[Scorecard]) -> None:
    axis, metric = requirement.scope.axis, requirement.metric
    if axis is not None:
        there = {profile.metric for card in cards for profile in card.profiles}
        of_axis = sorted(name for name in there if PROFILES[name].axis == axis)
        row = profile_of(requirement)
        if row is None or row.name not in of_axis:
            offered = ", ".join(of_axis) or "none"
            raise SpecError(
                f"{requirement.source}: there is no number {metric!r} for each {axis}"
                f"{nearest(metric, of_axis)}. The scorecard has {offered}."
            )
        return
    if metric in PROFILES:
        its = PROFILES[metric].axis
        raise SpecError(
            f"{requirement.source}: {metric} is a number for each {its}. Write "
            f"{its}s.worst.{metric} or {its}s.each.{metric}."
        )
    if metric_of(metric) is None:
        near = near_metric(metric)
        raise SpecError(
            f"{requirement.source}: there is no metric {metric!r}"
            f"{f' (did you mean {near}?)' if near else ''}. See the list: modeval metrics"
        )


def _check_direction(requirement: Requirement) -> None:
    row = profile_of(requirement) if requirement.scope.axis else metric_of(requirement.metric)
    better = "neither" if row is None else row.better
    wanted = DIRECTIONS.get(requirement.comparison)
    if requirement.comparison == "max_change":
        return  # to either side
    if wanted is None and better == "neither":
        raise SpecError(
            f"{requirement.source}: {requirement.metric} has no better and worse, so "
            f"{requirement.comparison} means nothing for it. Give it a --max or a --min."
        )
    if wanted is not None and better not in ("neither", wanted):
        other = "min" if requirement.comparison == "max" else "max"
        raise SpecError(
            f"{requirement.source}: {requirement.metric} is better when it is {better}, so a "
            f"{requirement.comparison}imum guards against nothing bad. Did you mean "
            f"--{other} {requirement.name}={requirement.limit:g}?"
        )


def _check_range(requirement: Requirement, cards: Sequence[Scorecard]) -> None:
    axis, limit = requirement.scope.axis, requirement.limit
    metric = profile_of(requirement) if axis else metric_of(requirement.metric)
    if limit is None:
        return
    if requirement.comparison == "max_drop" and limit < 0:
        raise SpecError(
            f"{requirement.source}: a drop is how much worse a metric gets, at least 0. Write "
            f"--max-drop {requirement.name}={-limit:g}"
        )
    if requirement.comparison == "max_change" and limit <= 0:
        raise SpecError(
            f"{requirement.source}: a change smaller than {limit:g} can never be shown. Give the "
            f"margin that still counts as the same, as --max-change {requirement.name}=0.02"
        )
    if metric is None:
        return
    ends = [
        metric.bounds(rules, modules, model.prior)
        for card in cards
        for model in card.models
        if is_named(requirement.model, model)
        for rules, modules in sizes_of(model)
    ]
    if not ends:
        return
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    idle, hopeless = {
        "max": (limit >= high, limit < low),
        "min": (limit <= low, limit > high),
        "max_drop": (limit >= high - low, False),
        "max_change": (limit > high - low, False),
    }[requirement.comparison]
    if not (idle or hopeless):
        return
    share = f" Is {limit / 100:g} meant?" if high == 1 and 1 < limit <= 100 else ""  # noqa: PLR2004
    raise SpecError(
        f"{requirement.source}: {metric.name} lies in {metric.bounds}, here from {low:.4g} to "
        f"{high:.4g}, so the limit {limit:g} can never be {'broken' if idle else 'kept'}.{share}"
    )


def sizes_of(model: ModelRecord) -> list[tuple[int, int]]:
    """Return numbers of rules and modules of each layer that routes."""
    rules = len(model.rules) or model.data.get("rules")
    modules = [count for count in model.layer_modules or (model.modules,) if count > 1]
    return [(rules, count) for count in modules] if isinstance(rules, int) and rules > 0 else []


def _check_chance(requirement: Requirement, cards: Sequence[Scorecard]) -> None:
    metric = METRICS.get(requirement.metric)
    if requirement.comparison != "significant" or metric is None or requirement.chance == "hash":
        return
    sizes = {
        size
        for card in cards
        for model in card.models
        if is_named(requirement.model, model)
        for size in sizes_of(model)
    }
    levels = [(metric.chance(*size), metric.ideal(*size)) for size in sizes]
    if levels and all(chance is not None and chance == ideal for chance, ideal in levels):
        raise SpecError(
            f"{requirement.source}: uniform routing has the best {metric.name} there is "
            f"({metric.ideal}), so nothing beats it. Ask it of alignment_score or "
            "mutual_information, which tell routing from chance."
        )


def _check_model(requirement: Requirement, cards: Sequence[Scorecard]) -> None:
    models = [model for card in cards for model in card.models]
    if not any(is_named(requirement.model, model) for model in models):
        names = [model.id for model in models]
        offered = ", ".join(dict.fromkeys(names)) or "none"
        raise SpecError(
            f"No model is named {requirement.model}{nearest(requirement.model, names)}. The "
            f"scorecard has {offered}."
        )
