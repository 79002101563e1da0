"""Regimes: named ways of training, as lists of phases.

    phases(rules, steps) -> (Phase, ...)

A regime is a frozen dataclass: its settings are the keys of ``[train.regime]``, its method says the
phases, its place in :data:`Regime` makes it a choice. Facts go with it: the system that it is
usually meant for (``model``), and the choices of a model without which it makes no sense
(``needs``). What a regime stands for is printed by ``modeval train --regime NAME --dry-run``; what
it cannot say can be written as ``[[train.phases]]``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal

from modeval.errors import SpecError
from modeval.spec.checks import check, check_choices
from modeval.spec.phases import Claim, Keep, Merge, Method, Phase, Prune, Rewind

Needs = Mapping[str, tuple[str, ...]]
ANY: Needs = MappingProxyType({})
PER_RULE: Needs = MappingProxyType({"scorer": ("oracle",)})


@dataclass(frozen=True, slots=True)
class Joint:
    """All rules at once, all parameters: one phase."""

    model: ClassVar[str] = "modular"
    needs: ClassVar[Needs] = ANY
    kind: Literal["joint"] = "joint"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return no phases: that is one of everything."""
        del rules, steps
        return ()


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Few rules first, then more, at last all of them.

    Attributes:
        waves: phases; the rules grow evenly from one to the next.

    Source: Bengio et al. 2009; the survey (arXiv 2302.11529), section 4.2.
    """

    model: ClassVar[str] = "modular"
    needs: ClassVar[Needs] = ANY
    kind: Literal["curriculum"] = "curriculum"
    waves: int = 3

    def __post_init__(self) -> None:
        check(self.waves > 1, f"waves = {self.waves}: give 2 or more.")

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return phases of ever more rules."""
        waves = min(self.waves, rules)
        ends = [-(-rules * (wave + 1) // waves) for wave in range(waves)]
        return _split(steps, [Phase(rules=tuple(range(end))) for end in ends])


@dataclass(frozen=True, slots=True)
class Sequential:
    """One rule after another and nothing against forgetting: the lower bound."""

    model: ClassVar[str] = "modular"
    needs: ClassVar[Needs] = ANY
    kind: Literal["sequential"] = "sequential"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each rule."""
        return _split(steps, [Phase(rules=(rule,)) for rule in range(rules)])


@dataclass(frozen=True, slots=True)
class Replay:
    """One rule after another, with kept samples of the earlier ones among the new.

    Attributes:
        share: of the samples that are replayed.
        buffer: samples that are kept.

    Source: Chaudhry et al. 2019 (tiny episodic memories, arXiv 1902.10486).
    """

    model: ClassVar[str] = "modular"
    needs: ClassVar[Needs] = ANY
    kind: Literal["replay"] = "replay"
    share: float = 0.5
    buffer: int = 256

    def __post_init__(self) -> None:
        check(0 < self.share < 1, f"share = {self.share}: expected between 0 and 1.")
        check(self.buffer > 0, f"buffer = {self.buffer}: give 1 or more samples.")

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each rule, the first without replay."""
        first, *others = [Phase(rules=(rule,)) for rule in range(rules)]
        again = [replace(phase, replay=self.share, buffer=self.buffer) for phase in others]
        return _split(steps, [first, *again])


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One rule after another, all rules so far drawn afresh in equal shares: the upper bound."""

    model: ClassVar[str] = "modular"
    needs: ClassVar[Needs] = ANY
    kind: Literal["rehearsal"] = "rehearsal"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each rule, the others replayed in their share."""
        shares = [rule / (rule + 1) for rule in range(rules)]
        return _split(
            steps, [Phase(rules=(rule,), replay=share) for rule, share in enumerate(shares)]
        )


@dataclass(frozen=True, slots=True)
class Separate:
    """A module for each rule, one after another; what they share learns with the first alone."""

    model: ClassVar[str] = "gt-modular"
    needs: ClassVar[Needs] = PER_RULE
    kind: Literal["separate"] = "separate"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each rule and its module."""
        return _split(steps, _one_by_one(rules))


@dataclass(frozen=True, slots=True)
class Progressive:
    """A column for each rule that reads the earlier ones, which no longer change.

    Encoders and decoder learn with the first rule alone.
    Source: Rusu et al. 2016 (progressive networks, arXiv 1606.04671).
    """

    model: ClassVar[str] = "progressive"
    needs: ClassVar[Needs] = MappingProxyType({**PER_RULE, "computation": ("columns",)})
    kind: Literal["progressive"] = "progressive"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each rule and its column."""
        return _split(steps, _one_by_one(rules))


@dataclass(frozen=True, slots=True)
class PackNet:
    """Rules share one trunk: each learns what is free, is pruned, trained again, and kept.

    Biases, encoders and decoder learn with the first rule alone.

    Attributes:
        share: of the free weights that are pruned after a rule, for the rules to come.
        again: share of a rule's steps that train what was left.

    Source: Mallya & Lazebnik 2018 (PackNet, arXiv 1711.05769).
    """

    model: ClassVar[str] = "packnet"
    needs: ClassVar[Needs] = MappingProxyType({**PER_RULE, "computation": ("packed",)})
    kind: Literal["packnet"] = "packnet"
    share: float = 0.6
    again: float = 0.3

    def __post_init__(self) -> None:
        for name in ("share", "again"):
            value = getattr(self, name)
            check(0 < value < 1, f"{name} = {value}: expected between 0 and 1.")

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return two phases for each rule but the last: train and prune, train again and keep."""
        found: list[Phase] = []
        weights: list[float] = []
        prune = Prune(share=self.share, parameters="*.shared.weight")
        for rule in range(rules):
            learns = ("*",) if rule == 0 else ("*.shared.weight",)
            found.append(Phase(rules=(rule,), learns=learns))
            weights.append(1.0)
            if rule < rules - 1:
                found[-1] = replace(found[-1], after=(prune,))
                found.append(Phase(rules=(rule,), learns=learns, after=(Claim(module=rule),)))
                weights[-1:] = [1 - self.again, self.again]
        return _split(steps, found, weights)


@dataclass(frozen=True, slots=True)
class PathNet:
    """Paths evolve for one rule after another; what is on the winning one is kept, the rest reset.

    A later rule may pass through modules of earlier ones, which no longer change. Encoders and
    decoder learn with the first rule alone.
    Source: Fernando et al. 2017 (PathNet, arXiv 1701.08734), section 2.
    """

    model: ClassVar[str] = "pathnet"
    needs: ClassVar[Needs] = MappingProxyType({"scorer": ("table",), "gating": ("evolved",)})
    kind: Literal["pathnet"] = "pathnet"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each rule, which ends with its winners kept and the others reset."""
        return _split(
            steps,
            [
                Phase(
                    rules=(rule,),
                    learns=("own", "routers") if rule else ("*",),
                    after=(Keep(rules=(rule,)), Rewind(parameters="own")),
                )
                for rule in range(rules)
            ],
        )


@dataclass(frozen=True, slots=True)
class SupSup:
    """A mask for each rule over one random trunk, one after another.

    Encoders and decoder learn with the first rule alone; the trunk never does. Which rule a sample
    is of can be inferred: :func:`modeval.evaluate.inferred.infer_rules`.
    Source: Wortsman et al. 2020 (supermasks in superposition, arXiv 2006.14769).
    """

    model: ClassVar[str] = "supermask-per-rule"
    needs: ClassVar[Needs] = MappingProxyType({**PER_RULE, "computation": ("supermask",)})
    kind: Literal["supsup"] = "supsup"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each rule and its mask."""
        return _split(steps, _one_by_one(rules))


@dataclass(frozen=True, slots=True)
class LotteryTicket:
    """Rounds of training, pruning the smallest weights, and going back to the start.

    Attributes:
        rounds: of pruning; each is followed by training.
        share: of the weights left that are pruned in each round.
        rewind: share of the steps of a round after which values are taken to go back to; 0 for the
            start.
        ticket: ``winning``; ``random`` prunes at random, ``redrawn`` keeps the mask and starts
            elsewhere: the two controls.

    Source: Frankle & Carbin 2019 (arXiv 1803.03635); Frankle et al. 2020 for rewinding.
    """

    model: ClassVar[str] = "monolithic"
    needs: ClassVar[Needs] = ANY
    kind: Literal["lottery"] = "lottery"
    rounds: int = 3
    share: float = 0.5
    rewind: float = 0.0
    ticket: Literal["winning", "random", "redrawn"] = "winning"

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.rounds > 0, f"rounds = {self.rounds}: give 1 or more.")
        check(0 < self.share < 1, f"share = {self.share} to prune: expected between 0 and 1.")
        check(0 <= self.rewind < 1, f"rewind = {self.rewind}: expected 0 or more, below 1.")
        check(
            not (self.rewind and self.ticket == "redrawn"),
            f"rewind = {self.rewind} with a redrawn ticket, which goes to another start. Drop one.",
        )

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for each round, after the dense one."""
        del rules
        prune = Prune(
            share=self.share,
            parameters="*weight",
            by="random" if self.ticket == "random" else "magnitude",
        )
        early = [Phase()] if self.rewind else []
        back = Rewind(to=len(early), redraw=self.ticket == "redrawn")
        rounds = [Phase(before=(prune, back)) for _ in range(self.rounds)]
        weights = [self.rewind, 1 - self.rewind] if early else [1.0]
        return _split(steps, [*early, Phase(), *rounds], [*weights, *(1.0 for _ in rounds)])


@dataclass(frozen=True, slots=True)
class PostHoc:
    """A trunk learned from some rules and frozen; then modules for the others.

    Attributes:
        first: share of the rules that the trunk learns from.

    Source: the survey (arXiv 2302.11529), section 6; Houlsby et al. 2019.
    """

    model: ClassVar[str] = "low-rank-per-rule"
    needs: ClassVar[Needs] = MappingProxyType(
        {
            **PER_RULE,
            "computation": (
                "low-rank", "diff", "rescaled", "prompt", "adapter", "parallel-adapter",
            ),
        }
    )  # fmt: skip
    kind: Literal["post-hoc"] = "post-hoc"
    first: float = 0.5

    def __post_init__(self) -> None:
        _check_first(self.first)

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for the trunk and one for the modules of new rules."""
        old, new = _halves(rules, self.first)
        trunk = Phase(rules=old, learns=("trunk",))
        return _split(steps, [trunk, Phase(rules=new, learns=("own",), modules=new)])


@dataclass(frozen=True, slots=True)
class JointThenPostHoc:
    """Router and modules learned together from some rules; then routing alone for the others.

    Attributes:
        first: share of the rules that are learned together.

    Source: Ponti et al. 2023 (Polytropon, arXiv 2202.13914), few-shot adaptation.
    """

    model: ClassVar[str] = "polytropon"
    needs: ClassVar[Needs] = MappingProxyType({"scorer": ("table",)})
    kind: Literal["joint-then-post-hoc"] = "joint-then-post-hoc"
    first: float = 0.5

    def __post_init__(self) -> None:
        _check_first(self.first)

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase of everything and one of the new rules' rows."""
        old, new = _halves(rules, self.first)
        return _split(steps, [Phase(rules=old), Phase(rules=new, learns=("routers",))])


@dataclass(frozen=True, slots=True)
class Fusion:
    """Modules learned each from its own rule, then frozen; then attention over them.

    Source: Pfeiffer et al. 2021 (AdapterFusion, arXiv 2005.00247).
    """

    model: ClassVar[str] = "adapter-fusion"
    needs: ClassVar[Needs] = MappingProxyType(
        {"scorer": ("attention",), "aggregation": ("attend",)}
    )
    kind: Literal["fusion"] = "fusion"

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase with given routing, and one of the routers."""
        del rules
        return _split(steps, [Phase(routing="oracle"), Phase(learns=("routers",))])


@dataclass(frozen=True, slots=True)
class Merged:
    """A trunk from some rules, a difference from it for each rule, and one merged from all.

    Attributes:
        first: share of the rules that the trunk learns from.
        method: of merging.
        density: share of a difference that TIES and DARE keep.

    Source: Ilharco et al. 2023 (task arithmetic); Yadav et al. 2023 (TIES); Yu et al. 2024 (DARE).
    """

    model: ClassVar[str] = "diff-per-rule"
    needs: ClassVar[Needs] = MappingProxyType({**PER_RULE, "computation": ("diff",)})
    kind: Literal["merged"] = "merged"
    first: float = 0.5
    method: Method = "average"
    density: float = 0.5

    def __post_init__(self) -> None:
        check_choices(self)
        _check_first(self.first)
        check(0 < self.density <= 1, f"density = {self.density}: expected above 0, up to 1.")

    def phases(self, rules: int, steps: int) -> tuple[Phase, ...]:
        """Return a phase for the trunk, one for differences, and a short one before the merge."""
        old, _ = _halves(rules, self.first)
        merge = Merge(method=self.method, density=self.density)
        trunk, own = Phase(rules=old, learns=("trunk",)), Phase(learns=("own",))
        return _split(steps, [trunk, own, replace(own, after=(merge,))], [1.0, 0.9, 0.1])


Regime = (
    Joint
    | Curriculum
    | Sequential
    | Replay
    | Rehearsal
    | Separate
    | Progressive
    | PackNet
    | PathNet
    | SupSup
    | LotteryTicket
    | PostHoc
    | JointThenPostHoc
    | Fusion
    | Merged
)
"""The choices of the axis."""


# --- pieces --------------------------------------------------------------------------------------


def _one_by_one(rules: int) -> list[Phase]:
    """Return a phase for each rule and its module; the first also trains what they share."""
    return [
        Phase(rules=(rule,), modules=(rule,), learns=("own",) if rule else ("*",))
        for rule in range(rules)
    ]


def _halves(rules: int, first: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the rules that come first and the others, at least one each."""
    if rules < 2:  # noqa: PLR2004
        raise SpecError(
            f"rules = {rules}: this regime has old rules and new ones. Use --rules 2 or more."
        )
    old = min(max(round(first * rules), 1), rules - 1)
    return tuple(range(old)), tuple(range(old, rules))


def _check_first(first: float) -> None:
    check(0 < first < 1, f"first = {first}: expected a share between 0 and 1.")


def _split(steps: int, phases: Sequence[Phase], weights: Sequence[float] = ()) -> tuple[Phase, ...]:
    """Share steps out over phases by their weights, each at least one.

    >>> [phase.steps for phase in _split(10, [Phase(), Phase(), Phase()])]
    [3, 4, 3]
    """
    shares = weights or [1.0] * len(phases)
    if steps < len(phases):
        raise SpecError(
            f"steps = {steps}: the regime has {len(phases)} phases. Use --steps {len(phases)} or "
            "more."
        )
    total, ends, sum_ = sum(shares), [0], 0.0
    for place, share in enumerate(shares, 1):
        sum_ += share
        left = len(phases) - place  # each phase after this one needs a step
        ends.append(min(max(round(steps * sum_ / total), ends[-1] + 1), steps - left))
    return tuple(
        replace(phase, steps=end - begin)
        for phase, begin, end in zip(phases, ends[:-1], ends[1:], strict=True)
    )
