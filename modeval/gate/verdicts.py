"""Verdicts: what became of each requirement, in numbers and in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from scipy.special import stdtrit

from modeval.gate.claims import Item
from modeval.gate.policy import Policy, Requirement
from modeval.score.differences import BLOCKS_FREEDOM, sampling_error
from modeval.score.inference.multiple import holm
from modeval.score.scorecard import ModelRecord, Score, Scorecard, Seed, distinct_title

Outcome = Literal["pass", "fail", "inconclusive", "error"]
IntervalOf = Literal["seeds", "documents", "samples"]

SEVERITY: dict[Outcome, int] = {"pass": 0, "inconclusive": 1, "fail": 2, "error": 3}


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
class GateResult:
    """All verdicts of a run of the gate.

    Attributes:
        verdicts: for each scorecard, model and requirement.
        policy: what was asked.
        cards: the scorecards with the files that they came from.
    """

    verdicts: tuple[Verdict, ...]
    policy: Policy
    cards: tuple[tuple[str, Scorecard], ...] = ()

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


@dataclass(frozen=True, slots=True)
class Asked:
    """A requirement of one model.

    Attributes:
        card: scorecard of the model.
        model: the model.
        requirement: what is asked.
        policy: the policy that it is part of.
        baseline: scorecard to compare with.
    """

    card: Scorecard
    model: ModelRecord
    requirement: Requirement
    policy: Policy
    baseline: Scorecard | None

    @property
    def size(self) -> float:
        """The size of a test."""
        return 1 - self.card.level

    @property
    def traced(self) -> bool:
        """Whether the model was measured once, on documents, and has no seeds."""
        return self.model.origin == "trace"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and how far it is from passing among others of its outcome."""

    verdict: Verdict
    distance: float


@dataclass(frozen=True, slots=True)
class Interval:
    """Ends of the interval of a score, and what it is over; nothing where there is none."""

    low: float | None
    high: float | None
    over: IntervalOf | None


def interval_of(asked: Asked, score: Score) -> Interval:
    """Return the interval of a score; one from its samples alone where it has no other."""
    if score.low is not None and score.high is not None:
        return Interval(score.low, score.high, "documents" if asked.traced else "seeds")
    error = sampling_error([score])
    if error is None or score.value is None or score.seeds > 1:
        return Interval(None, None, None)
    reach = error * float(stdtrit(BLOCKS_FREEDOM, (1 + asked.card.level) / 2))
    return Interval(score.value - reach, score.value + reach, "samples")


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
    if score is None:
        return verdict
    interval = interval_of(asked, score)
    return replace(
        verdict,
        value=score.value,
        low=interval.low,
        high=interval.high,
        interval_of=interval.over,
        chance=score.chance,
        chance_hash=score.chance_hash,
        chance_permuted=score.chance_permuted,
        samples=score.samples,
        seeds=score.seeds,
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


def few_samples(score: Score) -> bool:
    """Tell whether a score is marked as measured on too few samples to be believed."""
    return "few samples" in score.note


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

    >>> holm_adjusted([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = [index for index, value in enumerate(p_values) if value is not None]
    values = torch.tensor([p_values[index] for index in known], dtype=torch.float64)
    adjusted = dict(zip(known, holm(values).tolist(), strict=True))
    return [adjusted.get(index) for index in range(len(p_values))]


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
