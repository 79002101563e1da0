"""Judging ``significant``: does routing beat chance?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modeval.gate.claims import Item
from modeval.gate.verdicts import (
    SIZE,
    Asked,
    Outcome,
    Verdict,
    few_words,
    figure,
    flatters,
    holm_adjusted,
    measured,
    more_noise,
    more_samples,
    p_words,
    value_of,
    verdict_of,
)
from modeval.score.comparison.differences import above
from modeval.score.scorecard import Score


def beats_chance(asked: Asked, items: Sequence[Item]) -> list[Verdict]:
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
        reason: why there is no p value, in words.
    """

    p_value: float | None
    level: float | None
    gain: float | None
    means: str
    permuted: bool = False
    corrected: bool = False
    reason: str = ""


def _chance_test(asked: Asked, item: Item) -> _Test:
    """Test an item against chance.

    Permuted labels tell whether these models route by rule at all; the spread over seeds, whether
    others trained like them would. Where there are both, both must say so. What is better than
    uniform routing in every seed may still be chance: with finite samples, routing that knows
    nothing of the rules is too, always on the same side.
    """
    score = measured(item)
    hashed = asked.requirement.chance == "hash"
    sign = 1 if score.better == "higher" else -1
    permuted = None if hashed else score.p_value
    level = score.chance_hash if hashed else score.chance_permuted
    if level is None:
        level = None if hashed else score.chance
    gain = None if level is None else sign * (value_of(_plain(score)) - level)
    known = _Test(None, level, gain, "permuted labels", permuted=permuted is not None)
    if permuted is None and not hashed:
        reason = (
            "labels were not permuted, and uniform routing alone is no level to hold it against"
        )
        return replace(known, reason=reason)
    if len(item.singles) == 1 and permuted is not None:
        adjusted = score.p_adjusted
        shown = permuted if adjusted is None else adjusted
        return replace(known, p_value=shown, corrected=adjusted is not None)
    if level is None:
        return replace(known, p_value=permuted)
    difference = above([_plain(each) for each in item.singles], level, sign=sign)
    spread = difference.p_above()
    if spread is None:  # equal seeds tell nothing of others: of these models, permuted labels do
        return replace(known, gain=difference.value, p_value=permuted, reason=difference.reason)
    if permuted is not None and permuted >= spread:
        return replace(known, gain=difference.value, p_value=permuted)
    means = (
        f"spread over {difference.pairs} seeds"
        if difference.noise == "seeds"
        else "its samples alone"
    )
    return replace(known, gain=difference.value, p_value=spread, means=means)


def _plain(score: Score) -> Score:
    """Return a score as permuted labels were scored, too: not corrected for few samples."""
    return score if score.plug_in is None else replace(score, value=score.plug_in)


def _judge_chance(asked: Asked, item: Item, test: _Test, *, many: bool) -> Verdict:
    score = measured(item)
    name = "hashed routing" if asked.requirement.chance == "hash" else "chance"
    beside = "" if test.level is None else f" beside {figure(test.level)} of {name}"
    corrected = ", corrected for several" if many else ""
    p_text = ""
    if test.p_value is not None:
        p_text = f" ({p_words(test.p_value)} by {test.means}{corrected})"
    facts = f"{figure(value_of(score))}{beside}"

    def judged(outcome: Outcome, why: str, advice: str = "") -> Verdict:
        verdict = verdict_of(asked, item, outcome, why, advice)
        return replace(verdict, p_value=test.p_value, distance=test.p_value or 0.0)

    if test.level is None and test.p_value is None:
        return judged(
            "error",
            f"{score.metric} has no chance level here",
            "Ask it of a metric that has one: modeval metrics lists them.",
        )
    if flatters(score) and not test.permuted:
        return judged("inconclusive", f"{facts}, but {few_words(score)}", more_samples(asked))
    if test.p_value is None:
        reason = test.reason or "nothing tells how sure it is"
        advice = f"{more_noise(asked)}." if test.permuted or test.reason == "" else _permute(asked)
        return judged("inconclusive", f"{facts}, but {reason}", advice)
    if test.p_value <= SIZE and (test.gain is None or test.gain > 0):
        return judged("pass", f"{facts}{p_text}")
    return judged(
        "fail",
        f"{facts}: not distinguishable from {name}{p_text}",
        f"The routing tells nothing of the {'domains' if asked.traced else 'rules'}, or too little "
        "was measured to show it: "
        + ("record more documents." if asked.traced else "train more seeds."),
    )


def _permute(asked: Asked) -> str:
    """Say how to have labels permuted."""
    if asked.traced:
        return "Score a trace that keeps its documents, with two labels or more."
    return "Score the run again: modeval score RUN permutes the labels of its samples."
