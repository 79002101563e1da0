"""Judging ``significant``: does routing beat chance?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modeval.gate.claims import Item
from modeval.gate.verdicts import (
    Asked,
    Judged,
    Outcome,
    few_samples,
    figure,
    holm_adjusted,
    measured,
    more_noise,
    more_samples,
    value_of,
    verdict_of,
)
from modeval.score.differences import above


def beats_chance(asked: Asked, items: Sequence[Item]) -> list[Judged]:
    """Judge ``significant``, corrected for the number of items."""
    tested = [_chance_test(asked, item) for item in items]
    if not all(test.corrected for test in tested):
        adjusted = holm_adjusted([test.p_value for test in tested])
        tested = [
            replace(test, p_value=value) for test, value in zip(tested, adjusted, strict=True)
        ]
    return [
        _judge_chance(asked, item, test, many=test.corrected or len(items) > 1)
        for item, test in zip(items, tested, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Test:
    """A test against chance.

    Attributes:
        p_value: null where nothing tells the noise.
        level: the chance level.
        gain: how much better than it; null where there is no level.
        means: how it was tested, in words.
        permuted: whether permuted labels were what it was held against, which see to it that few
            samples do not look like specialisation.
        corrected: whether the p value is corrected for several layers already.
    """

    p_value: float | None
    level: float | None
    gain: float | None
    means: str
    permuted: bool = False
    corrected: bool = False


def _chance_test(asked: Asked, item: Item) -> _Test:
    """Test an item against chance.

    Permuted labels tell whether these models route by rule at all; the spread over seeds, whether
    others trained like them would. Where there are both, both must say so.
    """
    score = measured(item)
    hashed = asked.requirement.chance == "hash"
    sign = 1 if score.better == "higher" else -1
    permuted = None if hashed or score.p_value is None else score.p_value
    level = score.chance_permuted if permuted is not None else None
    if level is None:
        level = score.chance_hash if hashed else score.chance
    if permuted is not None and len(item.seeds) == 1:
        gain = None if level is None else sign * (value_of(score) - level)
        adjusted = score.p_adjusted
        shown = permuted if adjusted is None else adjusted
        return _Test(
            shown, level, gain, "permuted labels", permuted=True, corrected=adjusted is not None
        )
    if level is None:
        return _Test(None, None, None, "")
    found = above(item.seeds, level, sign=sign)
    means = f"spread over {found.pairs} seeds" if found.noise == "seeds" else "its samples alone"
    p_value = found.p_above()
    if p_value is not None and permuted is not None and permuted >= p_value:
        return _Test(permuted, level, found.value, "permuted labels", permuted=True)
    return _Test(p_value, level, found.value, means, permuted=permuted is not None)


def _judge_chance(asked: Asked, item: Item, test: _Test, *, many: bool) -> Judged:
    score = measured(item)
    name = "hashed routing" if asked.requirement.chance == "hash" else "chance"
    beside = "" if test.level is None else f" beside {figure(test.level)} of {name}"
    corrected = ", corrected for several" if many else ""
    p_text = "" if test.p_value is None else f" (p = {test.p_value:.2g} by {test.means}{corrected})"
    facts = f"{figure(value_of(score))}{beside}"

    def judged(outcome: Outcome, why: str, advice: str = "") -> Judged:
        verdict = verdict_of(asked, item, outcome, why, advice)
        distance = 0.0 if test.p_value is None else test.p_value
        return Judged(replace(verdict, p_value=test.p_value), distance)

    if test.level is None and test.p_value is None:
        return judged(
            "error",
            f"{score.metric} has no chance level here",
            "Ask it of a metric that has one: modeval metrics lists them.",
        )
    if few_samples(score) and not test.permuted:
        return judged("inconclusive", f"{facts}, but {score.note}", more_samples(asked))
    if test.p_value is None:
        return judged(
            "inconclusive",
            f"{facts}, but nothing tells how sure it is",
            f"{more_noise(asked)}.",
        )
    if test.p_value <= asked.size:
        return judged("pass", f"{facts}{p_text}")
    return judged(
        "fail",
        f"{facts}: not distinguishable from {name}{p_text}",
        "The routing tells nothing of the rules, or too little was measured to show it: "
        + ("record more documents." if asked.traced else "train more seeds."),
    )
