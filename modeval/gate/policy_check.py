"""Whether a policy can be checked at all: names, directions, ranges. What cannot is refused."""

import re
from collections.abc import Sequence

from modeval.errors import SpecError, nearest
from modeval.gate.policy import Policy, Requirement
from modeval.metrics import METRICS, metric_of
from modeval.score.scorecard import LOSS_TITLES, ModelRecord, Scorecard, is_named

LENGTHS = re.compile(r"(loss|error_rate)_at_length_\d+(_x[\d.]+)?")
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
        _check_direction(requirement, cards)
        _check_range(requirement, cards)
        _check_chance(requirement, cards)
        _check_model(requirement, cards)
    compared = any(each.comparison == "max_drop" for each in policy.requirements)
    if compared and policy.baseline is None:
        raise SpecError(
            "max_drop compares with a baseline, and none is named. Add --baseline main.json, the "
            "scorecard of the model to compare with."
        )
    if policy.baseline is not None and not compared:
        raise SpecError(
            f"The baseline {policy.baseline} would not be used. Say what may not get worse, as "
            "--max-drop alignment_score=0.05, or leave the baseline out."
        )


def direction(metric: str, cards: Sequence[Scorecard]) -> str | None:
    """Return which direction of a metric is better, if one is."""
    if metric in METRICS:
        better = METRICS[metric].better
        return None if better == "neither" else better
    scores = (score.better for card in cards for score in card.scores if score.metric == metric)
    profiles = (entry.better for card in cards for entry in card.profiles if entry.metric == metric)
    found: str | None = next(scores, None) or next(profiles, None)
    if found is None and (metric in LOSS_TITLES or LENGTHS.fullmatch(metric)):
        return "lower"
    return found


def profile_name(requirement: Requirement, names: Sequence[str]) -> str | None:
    """Return the name of a profile, which may be written without its ``rule_`` or ``module_``."""
    whole = f"{requirement.place.axis}_{requirement.metric}"
    return next((name for name in (requirement.metric, whole) if name in names), None)


# --- one rule each -------------------------------------------------------------------------------


def _check_metric(requirement: Requirement, cards: Sequence[Scorecard]) -> None:
    axis, metric = requirement.place.axis, requirement.metric
    profiles = {entry.metric: entry.axis for card in cards for entry in card.profiles}
    if axis is not None:
        of_axis = sorted(name for name, its in profiles.items() if its == axis)
        if profile_name(requirement, of_axis) is None:
            offered = ", ".join(of_axis) or "none"
            raise SpecError(
                f"{requirement.source}: there is no number {metric!r} for each {axis}"
                f"{nearest(metric, of_axis)}. The scorecard has {offered}."
            )
        return
    if metric in profiles:
        raise SpecError(
            f"{requirement.source}: {metric} is a number for each {profiles[metric]}. Write "
            f"{profiles[metric]}s.worst.{metric} or {profiles[metric]}s.each.{metric}."
        )
    scored = {score.metric for card in cards for score in card.scores}
    known = {*METRICS, *LOSS_TITLES, *scored}
    if metric not in known and not LENGTHS.fullmatch(metric):
        raise SpecError(
            f"{requirement.source}: there is no metric {metric!r}{nearest(metric, sorted(known))}. "
            "See the list: modeval metrics"
        )


def _check_direction(requirement: Requirement, cards: Sequence[Scorecard]) -> None:
    name = (
        profile_name(requirement, [entry.metric for card in cards for entry in card.profiles])
        if requirement.place.axis
        else requirement.metric
    )
    better = direction(name or requirement.metric, cards)
    wanted = DIRECTIONS.get(requirement.comparison)
    if wanted is None and better is None:
        raise SpecError(
            f"{requirement.source}: {requirement.metric} has no better and worse, so "
            f"{requirement.comparison} means nothing for it. Give it a --max or a --min."
        )
    if wanted is not None and better not in (None, wanted):
        other = "min" if requirement.comparison == "max" else "max"
        raise SpecError(
            f"{requirement.source}: {requirement.metric} is better when it is {better}, so a "
            f"{requirement.comparison}imum guards against nothing bad. Did you mean "
            f"--{other} {requirement.name}={requirement.limit:g}?"
        )


def _check_range(requirement: Requirement, cards: Sequence[Scorecard]) -> None:
    metric, limit = metric_of(requirement.metric), requirement.limit
    if limit is None:
        return
    if requirement.comparison == "max_drop" and limit < 0:
        raise SpecError(
            f"{requirement.source}: a drop is how much worse a metric gets, at least 0. Write "
            f"--max-drop {requirement.name}={-limit:g}"
        )
    if metric is None or requirement.place.axis:
        return
    ends = [
        metric.bounds(rules, modules, model.prior)
        for card in cards
        for model in card.models
        if is_named(requirement.model, model)
        for rules, modules in _sizes(model)
    ]
    if not ends:
        return
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    idle, hopeless = {
        "max": (limit >= high, limit < low),
        "min": (limit <= low, limit > high),
        "max_drop": (limit >= high - low, False),
    }[requirement.comparison]
    if not (idle or hopeless):
        return
    share = f" Is {limit / 100:g} meant?" if high == 1 and 1 < limit <= 100 else ""  # noqa: PLR2004
    raise SpecError(
        f"{requirement.source}: {metric.name} lies in {metric.bounds}, here from {low:.4g} to "
        f"{high:.4g}, so the limit {limit:g} can never be {'broken' if idle else 'kept'}.{share}"
    )


def _sizes(model: ModelRecord) -> list[tuple[int, int]]:
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
        for size in _sizes(model)
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
