"""For test suites: assertions on scorecards.

from modeval.testing import assert_modular

def test_the_model_is_modular():
    assert_modular("scorecard.json", collapse_worst=0.2, alignment_score=0.6)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeval.errors import ModevalError, SpecError


def assert_modular(
    scorecard: Any,
    *,
    model: str = "*",
    on: str = "value",
    baseline: Any = None,
    max_drop: Mapping[str, float] | None = None,
    significant: Sequence[str] = (),
    maximum: Mapping[str, float] | None = None,
    minimum: Mapping[str, float] | None = None,
    **limits: float,
) -> None:
    """Does a scorecard keep to these limits?

    A limit is a maximum for metrics that are better when lower, and a minimum for those that are
    better when higher, as ``modeval metrics`` lists them. Two underscores stand for a dot:
    ``layers__worst__dead_fraction=0``. What cannot be told for sure (inconclusive, absent, not a
    number) is no success.

    Args:
        scorecard: a :class:`~modeval.score.scorecard.Scorecard`, or the path of its file.
        model: pattern of the models to look at, by id or title.
        on: ``value``, or ``bound`` for the bad end of the interval.
        baseline: a scorecard or its path, that ``max_drop`` compares with.
        max_drop: how much worse than the baseline each metric may be.
        significant: metrics that must beat chance.
        maximum: limits of metrics without a direction, or under names that are no identifiers.
        minimum: likewise.
        **limits: one for each metric.

    Raises:
        AssertionError: a limit is not kept; the message shows what was asked and what was measured.
        ModevalError: the request is impossible, or a file cannot be read.

    >>> assert_modular("none.json", colapse_worst=0.2)
    Traceback (most recent call last):
    ...
    modeval.errors.SpecError: colapse_worst: there is no such metric (did you mean ...
    """
    __tracebackhide__ = True
    wrong: ModevalError | None = None
    failures = ""
    try:
        failures = modular_failures(
            scorecard,
            model=model,
            on=on,
            baseline=baseline,
            max_drop=max_drop,
            significant=significant,
            maximum=maximum,
            minimum=minimum,
            limits=limits,
        )
    except ModevalError as error:
        wrong = error.with_traceback(None)  # a suite shows its own line, not ours
    if wrong is not None:
        raise wrong from None
    if failures:
        raise AssertionError(failures)


def modular_failures(
    scorecard: Any,
    *,
    model: str,
    on: str,
    baseline: Any,
    max_drop: Mapping[str, float] | None,
    significant: Sequence[str],
    maximum: Mapping[str, float] | None,
    minimum: Mapping[str, float] | None,
    limits: Mapping[str, float],
) -> str:
    """Return what a scorecard does not keep to, as a diff; empty when it keeps to everything."""
    from modeval.gate.gate import check  # noqa: PLC0415 - this module is imported by test suites
    from modeval.gate.policy import from_table  # noqa: PLC0415

    table: dict[str, Any] = {
        "on": on,
        "model": model,
        "significant": list(significant),
        "max_drop": {**(max_drop or {})},
        "max": {**(maximum or {})},
        "min": {**(minimum or {})},
    }
    for name, limit in limits.items():
        table[_comparison(name)][name.replace("__", ".")] = limit
    named = None if baseline is None else "baseline"
    policy = from_table(table | ({"baseline": named} if named else {}), "assert_modular")
    verdicts = check(read(scorecard), policy, None if baseline is None else read(baseline))
    return _diff(verdicts)


def _comparison(name: str) -> str:
    """Return which way a limit on a metric goes."""
    from modeval.metrics.table import metric_of, near_metric  # noqa: PLC0415

    metric = name.rpartition("__")[2] or name
    row = metric_of(metric)
    if row is None:
        near = near_metric(metric)
        raise SpecError(
            f"{metric}: there is no such metric{f' (did you mean {near}?)' if near else ''}. "
            "See the list: modeval metrics"
        )
    if row.better == "neither":
        raise SpecError(
            f"{metric} has no better and worse. Say which limit it is: "
            f'maximum={{"{metric}": ...}} or minimum={{"{metric}": ...}}.'
        )
    return "max" if row.better == "lower" else "min"


def read(scorecard: Any) -> Any:
    """Return a scorecard, read from its file where it is a path."""
    from modeval.score.scorecard import Scorecard  # noqa: PLC0415
    from modeval.score.stored.files import read_scorecard  # noqa: PLC0415 - loads torch

    if isinstance(scorecard, Scorecard):
        return scorecard
    return read_scorecard(Path(scorecard))


def _diff(verdicts: Sequence[Any]) -> str:
    """Write what was asked and what was measured, one above the other."""
    from modeval.report.verdicts.terminal import chance, measurement, scope_of, sentence  # noqa: PLC0415

    broken = [verdict for verdict in verdicts if verdict.outcome != "pass"]
    if not broken:
        return ""
    lines = [f"{len(broken)} of {len(verdicts)} requirements are not kept:"]
    for verdict in broken:
        beside = f"   (chance: {chance(verdict)})" if chance(verdict) else ""
        lines += [
            "",
            f"  {verdict.outcome}: {scope_of(verdict)}",
            f"  - {verdict.requirement}",
            f"  + {verdict.requirement.name} = {measurement(verdict)}{beside}",
            f"    {sentence(verdict)}",
        ]
    return "\n".join(lines)
