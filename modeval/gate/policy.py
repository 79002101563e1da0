"""Policies: what a model must keep to, as types and as they are written in flags and in TOML.

A requirement names a metric as ``modeval metrics`` does, in front of it the scope in which it is
looked at, parts separated by dots:

    collapse_worst                       of the model; where it has several layers, of each of them
    layers.worst.dead_fraction           of the layer where it is worst: holds in every layer
    layers.mean.alignment_score          the mean over layers
    layers.each.collapse_worst           of each layer, a verdict for each
    layers.12.collapse_worst             of one layer, by number or by name
    rules.worst.METRIC, rules.law.METRIC, modules.each.METRIC, layers.3.modules.17.METRIC
                                         numbers that exist for each rule or each module
    seeds.worst.METRIC, seeds.each.METRIC
                                         of single seeds instead of the mean over seeds

Flags and TOML say the same things in the same words:

    --max collapse_worst=0.2             max.collapse_worst = 0.2
    --min alignment_score=0.6            min.alignment_score = { limit = 0.6, on = "bound" }
    --max-drop alignment_score=0.05      max_drop.alignment_score = 0.05
    --max-change alignment_score=0.05    max_change.alignment_score = 0.05
    --significant mutual_information     significant = ["mutual_information"]
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from modeval.errors import SpecError, nearest

Comparison = Literal["max", "min", "max_drop", "max_change", "significant"]
On = Literal["value", "bound"]
Inconclusive = Literal["pass", "fail", "3"]
Chance = Literal["uniform", "hash"]
FailedSeeds = Literal["error", "ignore"]
LeftOutPolicy = Literal["error", "ignore"]
Axis = Literal["rule", "module"]

COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)
AXES: dict[str, Axis] = {"rules": "rule", "modules": "module"}
SIGNS = {"max": "<=", "min": ">="}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScope:
    """Where in a model a metric is looked at.

    Attributes:
        seeds: ``worst`` or ``each`` seed; null for the mean over seeds.
        layers: ``worst``, ``mean`` or ``each`` layer, or the name or number of one; null for the
            only layer, or the worst of several.
        axis: ``rule`` or ``module`` for numbers that exist for each of them.
        entry: ``worst`` or ``each`` of them, or the name or number of one.
    """

    seeds: str | None = None
    layers: str | None = None
    axis: Axis | None = None
    entry: str | None = None

    def __str__(self) -> str:
        parts = [f"seeds.{self.seeds}"] if self.seeds else []
        parts += [f"layers.{self.layers}"] if self.layers else []
        parts += [f"{self.axis}s.{self.entry}"] if self.axis else []
        return "".join(f"{part}." for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One thing that a model must keep to.

    Attributes:
        metric: name of the metric.
        comparison: ``max``: the value may be so much at most; ``min``: so much at least;
            ``max_drop``: it may be so much worse than that of the baseline at most, in the
            metric's own direction; ``max_change``: it must be shown to differ from the baseline by
            less, either way; ``significant``: it must beat chance.
        limit: the number; null for ``significant``.
        scope: where in the model.
        on: whether the value decides, or the bad end of its interval: see :mod:`gate`.
        model: pattern of the models that it is about.
        chance: which chance level ``significant`` must beat: ``uniform`` routing (or permuted
            labels, where they were drawn), or routing by a random ``hash`` map.
        source: where it was written.
        line: line of the file that it was written in, from 1; 0 where that is not known.
    """

    metric: str
    comparison: Comparison
    limit: float | None = None
    scope: PolicyScope = PolicyScope()
    on: On = "value"
    model: str = "*"
    chance: Chance = "uniform"
    source: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        """The metric with its scope, as it is written in a policy."""
        return f"{self.scope}{self.metric}"

    def __str__(self) -> str:
        if self.comparison == "significant":
            beaten = "chance" if self.chance == "uniform" else "hashed routing"
            return f"{self.name} beats {beaten}"
        if self.comparison == "max_change":
            return f"{self.name} change < {self.limit:g}"
        if self.comparison == "max_drop":
            return f"{self.name} drop <= {self.limit:g}"
        return f"{self.name} {SIGNS[self.comparison]} {self.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What models must keep to, and what to do when it cannot be told.

    Attributes:
        requirements: all of them must hold.
        inconclusive: what a run ends with when nothing failed and something could not be told.
        baseline: scorecard that ``max_drop`` and ``max_change`` compare with; null for none.
        failed_seeds: ``error``: the mean over seeds of which some failed is no measurement;
            ``ignore``: they were left out on purpose.
        left_out: ``error``: nothing passes of a model of which a layer, a rule or the end of the
            recording was left out, or whose recording is doubtful; ``ignore``: it may.
        baseline_model: the model of the baseline to compare with, where it had another name.
        no_warnings: whether nothing passes of a model whose recording was warned about in any way;
            else only warnings after which its numbers are those of something else stop it.
        source: file that it was read from; empty for flags alone.
    """

    requirements: tuple[Requirement, ...] = ()
    inconclusive: Inconclusive = "3"
    baseline: str | None = None
    failed_seeds: FailedSeeds = "error"
    left_out: LeftOutPolicy = "error"
    baseline_model: str | None = None
    no_warnings: bool = False
    source: str = ""


# --- names ---------------------------------------------------------------------------------------


def parse_name(name: str, where: str) -> tuple[PolicyScope, str]:
    """Split ``layers.worst.dead_fraction`` into a place and a metric.

    Args:
        name: as written.
        where: the flag or file, for messages.

    Raises:
        SpecError: a part is missing or unknown.

    >>> parse_name("agreement.layers.worst.shared", "--min")
    (PolicyScope(seeds=None, layers='worst', axis=None, entry=None), 'agreement_shared')
    >>> parse_name("layers.model.3.mlp.modules.each.share", "--max")[0]
    PolicyScope(seeds=None, layers='model.3.mlp', axis='module', entry='each')
    """
    scopes, _, metric = name.strip().rpartition(".")
    if scopes == "agreement" or scopes.startswith("agreement."):  # of a comparison, by its kind
        scopes = scopes.removeprefix("agreement").removeprefix(".")
        metric = metric if metric.startswith("agreement_") else f"agreement_{metric}"
    if not metric:
        raise SpecError(f"{where} {name!r} names no metric. Write for example collapse_worst=0.2.")
    scope = PolicyScope()
    rest = scopes
    if rest.startswith("seeds."):
        choice, _, rest = rest.removeprefix("seeds.").partition(".")
        _check_choice(where, f"seeds.{choice}", choice, ("worst", "each"))
        scope = replace(scope, seeds=choice)
    rest, axis, text = _split_axis(rest)
    if axis:
        scope = replace(scope, axis=AXES[axis], entry=text)
    if rest.startswith("layers."):
        scope = replace(scope, layers=rest.removeprefix("layers."))
    elif rest:
        first = rest.split(".")[0]
        known = ("seeds", "layers", *AXES)
        raise SpecError(
            f"{where} {name}: nothing is named {first!r} there{nearest(first, known)}. Expected "
            "METRIC, or METRIC after layers.worst, layers.mean, layers.each, layers.NAME, "
            "rules.NAME, modules.NAME, seeds.worst or seeds.each, parts separated by dots."
        )
    if scope.layers == "" or (scope.axis and not scope.entry):
        raise SpecError(f"{where} {name}: a name is missing between two dots.")
    return scope, metric


def _split_axis(scopes: str) -> tuple[str, str, str]:
    """Split ``layers.3.rules.law`` into ``layers.3``, ``rules`` and ``law``."""
    for axis in AXES:
        if scopes.startswith(f"{axis}."):
            return "", axis, scopes.removeprefix(f"{axis}.")
        front, found, name = scopes.rpartition(f".{axis}.")
        if found:
            return front, axis, name
    return scopes, "", ""


def _check_choice(where: str, shown: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SpecError(f"{where}: {shown}: expected {' or '.join(map(str, choices))}.")


def _number(value: Any, where: str) -> float:
    """Read a limit: a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        percent = isinstance(value, str) and value.strip().endswith("%")
        hint = f" Write {value.strip()[:-1]}/100 as a fraction." if percent else ""
        raise SpecError(f"{where}: {value!r} is no number that can be a limit.{hint}")
    return number


# --- flags ---------------------------------------------------------------------------------------


def from_flags(flags: Mapping[Comparison, Sequence[str]]) -> tuple[Requirement, ...]:
    """Read ``collapse_worst=0.2`` for limits, and names alone for ``significant``.

    Raises:
        SpecError: one of them is not of this form.
    """
    return tuple(
        _from_flag(comparison, text) for comparison, texts in flags.items() for text in texts
    )


def _from_flag(comparison: Comparison, text: str) -> Requirement:
    flag = f"--{comparison.replace('_', '-')}"
    if comparison == "significant":
        if "=" in text:
            raise SpecError(f"{flag} {text}: expected a metric and no number.")
        scope, metric = parse_name(text, flag)
        return Requirement(
            metric=metric, comparison=comparison, scope=scope, source=f"{flag} {text}"
        )
    name, equals, limit = text.rpartition("=")
    if not equals:
        raise SpecError(f"{flag} {text}: expected METRIC=NUMBER, as {flag} {text}=0.2")
    scope, metric = parse_name(name, flag)
    return Requirement(
        metric=metric,
        comparison=comparison,
        limit=_number(limit, f"{flag} {text}"),
        scope=scope,
        source=f"{flag} {text}",
    )


# --- TOML ----------------------------------------------------------------------------------------

SETTINGS = (
    "on",
    "model",
    "inconclusive",
    "baseline",
    "baseline_model",
    "failed_seeds",
    "left_out",
    "no_warnings",
)
LEAF = ("limit", "on", "model", "significant", "chance")


def from_table(table: Mapping[str, Any], where: str) -> Policy:
    """Read a policy from the table of a TOML file.

    Args:
        table: the whole of a policy file, or ``[tool.modeval.gate]`` of ``pyproject.toml``.
        where: the file, for messages.

    Raises:
        SpecError: a key or a value is unknown or impossible.
    """
    for key in table:
        if key not in (*COMPARISONS, *SETTINGS):
            known = (*COMPARISONS, *SETTINGS)
            raise SpecError(
                f"{where}: {key} is no setting of a policy{nearest(key, known)}. Expected "
                f"{', '.join(known)}."
            )
    base = _with_settings(Requirement(metric="", comparison="max"), table, where)
    policy = Policy(requirements=tuple(_requirements(table, base, where)), source=where)
    return with_settings(policy, table, where)


def with_settings(policy: Policy, given: Mapping[str, Any], where: str) -> Policy:
    """Return a policy with the settings of all requirements where they are given.

    Raises:
        SpecError: names the setting and its choices.
    """
    choices = {
        "inconclusive": get_args(Inconclusive),
        "failed_seeds": get_args(FailedSeeds),
        "left_out": get_args(LeftOutPolicy),
    }
    found: dict[str, Any] = {}
    for name, known in choices.items():
        if given.get(name) is not None:
            found[name] = str(given[name])
            _check_choice(where, f"{name} = {given[name]!r}", found[name], known)
    for name, what in (("baseline", "the path of a file"), ("baseline_model", "a name")):
        text = given.get(name)
        if text is not None:
            if not isinstance(text, str):
                raise SpecError(f"{where}: {name} = {text!r}: expected {what}.")
            found[name] = text
    strict = given.get("no_warnings")
    if strict is not None:
        if not isinstance(strict, bool):
            raise SpecError(f"{where}: no_warnings = {strict!r}: expected true or false.")
        found["no_warnings"] = strict
    return replace(policy, **found)


def _requirements(table: Mapping[str, Any], base: Requirement, where: str) -> Iterator[Requirement]:
    for comparison in COMPARISONS:
        given = table.get(comparison, {})
        if comparison == "significant":
            yield from _significant(given or [], base, where)
            continue
        if not isinstance(given, Mapping):
            raise SpecError(
                f"{where}: {comparison} = {given!r}: expected metrics with limits, as "
                f"{comparison}.collapse_worst = 0.2."
            )
        for name, leaf in _leaves(given):
            yield from _from_leaf(comparison, name, leaf, base, where)


def _leaves(table: Mapping[str, Any], front: str = "") -> Iterator[tuple[str, Any]]:
    """Return the limits of nested tables with their dotted names."""
    for key, value in table.items():
        name = f"{front}{key}"
        if isinstance(value, Mapping) and "limit" not in value:
            yield from _leaves(value, f"{name}.")
        elif isinstance(value, list):
            yield from ((name, each) for each in value)
        else:
            yield name, value


def _from_leaf(
    comparison: Comparison, name: str, leaf: Any, base: Requirement, where: str
) -> Iterator[Requirement]:
    settings = leaf if isinstance(leaf, Mapping) else {"limit": leaf}
    here = f"{where}: {comparison}.{name}"
    for key in settings:
        if key not in LEAF:
            raise SpecError(
                f"{here}: {key} is no setting of a requirement{nearest(key, LEAF)}. Expected "
                f"{', '.join(LEAF)}."
            )
    scope, metric = parse_name(name, f"{where}:")
    made = replace(
        _with_settings(base, settings, here),
        metric=metric,
        comparison=comparison,
        limit=_number(settings.get("limit"), here),
        scope=scope,
        source=here,
    )
    yield made
    beats = settings.get("significant", False)
    if not isinstance(beats, bool):
        raise SpecError(f"{here}: significant = {beats!r}: expected true or false.")
    if beats:
        yield replace(made, comparison="significant", limit=None)


def _significant(given: Any, base: Requirement, where: str) -> Iterator[Requirement]:
    """Read ``["v_measure", {metric = "alignment_score", chance = "hash"}]``."""
    for item in given if isinstance(given, list) else [given]:
        settings: Any = {"metric": item} if isinstance(item, str) else item
        if (
            not isinstance(settings, Mapping)
            or not isinstance(settings.get("metric"), str)
            or not set(settings) <= {"metric", "model", "chance"}
        ):
            raise SpecError(
                f"{where}: significant = {given!r}: expected a list of metrics, as "
                '["v_measure"] or [{ metric = "v_measure", chance = "hash" }].'
            )
        here = f"{where}: significant {settings['metric']}"
        scope, metric = parse_name(settings["metric"], f"{where}: significant")
        yield replace(
            _with_settings(base, settings, here),
            metric=metric,
            comparison="significant",
            scope=scope,
            source=here,
        )


def _with_settings(base: Requirement, given: Mapping[str, Any], where: str) -> Requirement:
    """Return a requirement with ``on``, ``chance`` and ``model`` where they are given."""
    choices = {"on": get_args(On), "chance": get_args(Chance)}
    found = {name: given[name] for name in (*choices, "model") if name in given}
    for name, known in choices.items():
        _check_choice(where, f"{name} = {found.get(name)!r}", found.get(name, known[0]), known)
    if not isinstance(found.get("model", ""), str):
        raise SpecError(f"{where}: model = {found['model']!r}: expected a name or pattern.")
    return replace(base, **found)


# --- both together -------------------------------------------------------------------------------


def merge(policy: Policy, flags: Sequence[Requirement]) -> Policy:
    """Lay requirements of flags over those of a file: the same metric and comparison replaces."""
    given = {(each.comparison, each.scope, each.metric) for each in flags}
    kept = tuple(
        each
        for each in policy.requirements
        if (each.comparison, each.scope, each.metric) not in given
    )
    return replace(policy, requirements=(*kept, *flags))
