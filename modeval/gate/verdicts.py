"""Verdicts: what became of each requirement, in numbers and in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modeval.gate.claims import Item
from modeval.gate.policy import Policy, Requirement
from modeval.metrics.profile_table import PROFILES
from modeval.metrics.table import metric_of
from modeval.score.chosen import distinct_title
from modeval.score.comparison.differences import BLOCKS_FREEDOM, sampling_error, tasks_of
from modeval.score.inference.seeds import seed_mean
from modeval.score.inference.student import quantile
from modeval.score.scorecard import LEVEL, ModelRecord, Score, Scorecard, Seed
from modeval.text import html_table, visible

Outcome = Literal["pass", "fail", "inconclusive", "error"]
IntervalOf = Literal["seeds", "documents", "samples"]

SEVERITY: dict[Outcome, int] = {"pass": 0, "inconclusive": 1, "fail": 2, "error": 3}
SIZE = 1 - LEVEL
"""Size of the tests: it is the program's, whatever a scorecard says of its intervals."""
TINY = 1e-4
"""p values below this are not told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one requirement for one model.

    Attributes:
        requirement: what was asked.
        outcome: what became of it.
        model: ``id`` of the model.
        title: the model for people.
        source: file of the scorecard.
        claim: what the measurement is the worst of; empty where there is one.
        value: what was measured; null where it is absent.
        low: lower end of its interval.
        high: upper end.
        interval_of: what the interval is over: ``seeds``, ``documents`` or ``samples``.
        chance: value of uniform routing.
        chance_hash: mean value of routing by random maps.
        chance_permuted: mean value when labels are permuted.
        p_value: of ``significant`` that chance does as well; of ``max_drop`` that there is no drop.
            Corrected where the claim is about several.
        baseline: value of the baseline.
        drop: how much worse than the baseline, over pairs.
        noise: standard error of the drop.
        pairs: number of pairs.
        layer: number of the layer.
        layer_name: its name.
        rule: name of the rule.
        module: number of the module.
        seed: task seed and model seed.
        samples: samples behind the value.
        seeds: seeds behind it.
        few_samples: whether too few samples shift it noticeably.
        narrow: whether it passed though its noise reaches past the limit.
        distance: how far it is from passing, among others of its outcome.
        why: the verdict in words.
        advice: what to do about it; empty for a pass.
    """

    requirement: Requirement
    outcome: Outcome
    model: str
    title: str
    source: str = ""
    claim: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    interval_of: IntervalOf | None = None
    chance: float | None = None
    chance_hash: float | None = None
    chance_permuted: float | None = None
    p_value: float | None = None
    baseline: float | None = None
    drop: float | None = None
    noise: float | None = None
    pairs: int | None = None
    layer: int | None = None
    layer_name: str | None = None
    rule: str | None = None
    module: int | None = None
    seed: Seed | None = None
    samples: int | None = None
    seeds: int = 1
    few_samples: bool = False
    narrow: bool = False
    distance: float = 0.0
    why: str = ""
    advice: str = ""

    @property
    def where(self) -> str:
        """The model, and the layer, rule, module and seed that the measurement is of."""
        layer = None if self.layer is None else f"layer {self.layer} ({self.layer_name})"
        parts = [
            self.title,
            layer,
            None if self.rule is None else f"rule {self.rule}",
            None if self.module is None else f"module {self.module}",
            None if self.seed is None else f"task seed {self.seed[0]}, model seed {self.seed[1]}",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One model of one scorecard, and the verdicts about it.

    Attributes:
        source: file of the scorecard.
        card: the scorecard.
        model: the model.
        verdicts: one or several for each requirement that is about it, in the policy's order.
    """

    source: str
    card: Scorecard
    model: ModelRecord
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What a run of the gate found.

    Attributes:
        checked: the models that something is required of, scorecard by scorecard.
        policy: what was asked.
    """

    checked: tuple[Checked, ...]
    policy: Policy

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts of all models."""
        return tuple(verdict for each in self.checked for verdict in each.verdicts)

    @property
    def outcome(self) -> Outcome:
        """The worst outcome; what is inconclusive comes before it is turned into another."""
        return max(
            (verdict.outcome for verdict in self.verdicts),
            key=SEVERITY.__getitem__,
            default="error",
        )

    def count(self, outcome: Outcome) -> int:
        """Return how many verdicts are of that outcome."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    def __repr__(self) -> str:
        lines = (f"  {each.outcome} {each.requirement}: {each.where}" for each in self.verdicts)
        return "\n".join((f"<GateResult: {self.outcome}>", *map(visible, lines)))

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        rows = [
            (each.outcome, str(each.requirement), each.where, each.why) for each in self.verdicts
        ]
        return html_table(("Outcome", "Required", "Of", "Why"), rows)


@dataclass(frozen=True, slots=True)
class Asked:
    """A requirement of one model.

    Attributes:
        card: scorecard of the model.
        model: the model.
        requirement: what is asked.
        policy: the policy that it is part of.
        baseline: scorecard to compare with.
        source: file of the scorecard.
    """

    card: Scorecard
    model: ModelRecord
    requirement: Requirement
    policy: Policy
    baseline: Scorecard | None = None
    source: str = ""

    @property
    def traced(self) -> bool:
        """Whether the model was measured once, on documents, and has no seeds."""
        return all(member.seed is None for member in self.model.members)


@dataclass(frozen=True, slots=True)
class JudgedInterval:
    """Ends of the interval of a score, and what it is over; nothing where there is none.

    Attributes:
        low: lower end.
        high: upper end.
        over: what was drawn again.
        reason: why there is none, in words.
    """

    low: float | None = None
    high: float | None = None
    over: IntervalOf | None = None
    reason: str = "nothing tells how sure it is"


def interval_of(asked: Asked, item: Item) -> JudgedInterval:
    """Return the interval of a measurement: over its seeds, over documents, or from its samples.

    That over seeds is made from the seeds themselves, tasks being random too, so that it keeps its
    promise whichever version wrote the scorecard.
    """
    score = measured(item)
    if len(item.singles) > 1:
        values = [value_of(each) for each in item.singles]
        estimate = seed_mean(
            values,
            tasks_of(item.singles),
            sampling_error=sampling_error(item.singles),
        )
        if estimate.low is None or estimate.high is None:
            return JudgedInterval(over="seeds", reason=estimate.reason)
        return _within(JudgedInterval(estimate.low, estimate.high, "seeds"), asked, score)
    if score.low is not None and score.high is not None and asked.traced:
        same = score.low == score.high
        return JudgedInterval(
            score.low,
            score.high,
            "documents",
            reason="its interval has no width, and equal numbers prove nothing" if same else "",
        )
    error = sampling_error([score])
    if not error or score.value is None:
        return JudgedInterval()
    reach = error * quantile(BLOCKS_FREEDOM, (1 + LEVEL) / 2)
    return _within(
        JudgedInterval(score.value - reach, score.value + reach, "samples"), asked, score
    )


def _within(interval: JudgedInterval, asked: Asked, score: Score) -> JudgedInterval:
    """Cut an interval at the bounds of its metric: what no model can have needs no covering."""
    metric, model = metric_of(score.metric), asked.model
    rules = len(model.rules) or model.data.get("rules")
    corrected = score.plug_in is not None
    if metric is None or corrected or not isinstance(rules, int) or rules < 1:
        return replace(interval, reason="")
    counts = model.layer_modules
    modules = counts[score.layer or 0] if counts else model.modules
    low, high = metric.bounds(rules, modules, model.prior)
    ends = interval.low, interval.high
    return replace(
        interval,
        low=None if ends[0] is None else max(ends[0], low),
        high=None if ends[1] is None else min(ends[1], high),
        reason="",
    )


def verdict_of(asked: Asked, item: Item, outcome: Outcome, why: str, advice: str = "") -> Verdict:
    """Return a verdict with all that its item says."""
    model, score = asked.model, item.score
    verdict = Verdict(
        requirement=asked.requirement,
        outcome=outcome,
        model=model.id,
        title=distinct_title(asked.card, model),
        layer=item.layer,
        layer_name=None if item.layer is None else model.layers[item.layer],
        rule=item.rule,
        module=item.module,
        seed=item.seed,
        why=why,
        advice=advice,
    )
    if score is None or score.value is None:
        return verdict
    interval = interval_of(asked, item)
    return replace(
        verdict,
        value=score.value,
        low=interval.low,
        high=interval.high,
        interval_of=None if interval.low is None else interval.over,
        chance=score.chance,
        chance_hash=score.chance_hash,
        chance_permuted=score.chance_permuted,
        samples=score.samples,
        seeds=score.seeds,
        few_samples=score.few_samples,
    )


# --- what the three kinds of requirement share ---------------------------------------------------


def measured(item: Item) -> Score:
    """Return the score of an item that has one."""
    if item.score is None or item.score.value is None:
        raise ValueError("only measurements are judged")  # the gate has sorted out the others
    return item.score


def value_of(score: Score) -> float:
    """Return the value of a score that has one."""
    if score.value is None:
        raise ValueError("only measurements are judged")
    return score.value


def flatters(score: Score) -> bool:
    """Tell whether a score is of so few samples that it looks better than it is."""
    return score.few_samples and _shift(score) == "better"


def slanders(score: Score) -> bool:
    """Tell whether a score is of so few samples that it looks worse than it is."""
    return score.few_samples and _shift(score) == "worse"


def _shift(score: Score) -> str:
    row = metric_of(score.metric) or PROFILES.get(score.metric)
    return "better" if row is None else row.few_samples


def few_words(score: Score) -> str:
    """Say that there are few samples, once, with what is known of them."""
    return score.note.split("; ")[0] or "too few samples are behind it to believe it"


def more_samples(asked: Asked) -> str:
    """Say what to do about too few samples."""
    if asked.traced:
        return "Record more documents, or fewer labels, until the mark goes away."
    return "Score more samples: lower --precision."


def more_noise(asked: Asked) -> str:
    """Say how to get to know the noise."""
    if asked.traced:
        return "Score a trace that keeps its documents, several hundred of them"
    return "Train five seeds or more (--seeds 5), or score again for sampling errors"


def holm_adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for a claim about some of several (Holm 1979); what is unknown stays so.

    The same as :func:`modeval.score.inference.multiple.holm`, without loading torch.

    >>> holm_adjusted([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    adjusted: list[float | None] = [None] * len(p_values)
    known = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    least = 0.0
    for rank, (value, index) in enumerate(known):
        least = max(least, min(1.0, value * (len(known) - rank)))
        adjusted[index] = least
    return adjusted


def p_words(p_value: float) -> str:
    """Write a p value; it is never 0.

    >>> p_words(0.031), p_words(1e-300)
    ('p = 0.031', 'p < 0.0001')
    """
    return f"p < {TINY:.4f}" if p_value < TINY else f"p = {p_value:.2g}"


def figure(value: float, beside: float | None = None) -> str:
    """Write a number with four digits, with more where it would else look like another one.

    >>> figure(0.20000001, 0.2), figure(0.354059), figure(0.2, 0.2)
    ('0.20000001', '0.3541', '0.2')
    """
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if beside is None or value == beside or float(text) != beside:
            return text
    return repr(value)
