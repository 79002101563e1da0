"""Phases: stretches of training with one set of rules, learners, rates, remedies and actions.

Everything that a regime does is said here as data, and a run that stops anywhere goes on from it:

    rules, replay      what is drawn
    learns, modules    what may move, at which ``rates``, by which ``optimiser``
    routing            who decides which module takes a sample
    remedies           what is added to the loss
    before, after      what is done to the network when the phase begins and when it ends

Parameters are named by patterns, as ``scorer.*``, or by a group:

    own        what each module has for itself
    modules    whole banks of modules: ``own``, and the trunk that modules share
    routers    the scorers of all layers, and the projections of what ``attend`` mixes
    trunk      everything but ``own`` and ``routers``
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from modeval.spec.checks import check, check_choices, check_positive

RemedyName = Literal[
    "balance", "importance", "load", "logits", "information", "diversity", "collaboration",
    "orthogonality", "reuse",
]  # fmt: skip
Group = Literal["own", "modules", "routers", "trunk"]
Method = Literal["average", "ties", "dare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A term added to the loss of a phase; see :mod:`modeval.train.remedies`.

    Attributes:
        kind: which one.
        coefficient: what it is multiplied by.
    """

    kind: RemedyName
    coefficient: float = 0.01

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "coefficient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A learning rate for some of the parameters.

    Attributes:
        parameters: pattern of their names, as ``scorer.*``, or a group, as ``routers``.
        factor: the rate of the run is multiplied by this.
    """

    parameters: str
    factor: float

    def __post_init__(self) -> None:
        check_positive(self, "factor")


# --- optimisers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam, as everywhere else (Kingma & Ba 2015)."""

    kind: Literal["adam"] = "adam"


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent: ``v = momentum v + g``, ``w = w - rate v``.

    Attributes:
        momentum: 0 for none.
    """

    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check(0 <= self.momentum < 1, f"momentum = {self.momentum}: expected 0 or more, below 1.")


@dataclass(frozen=True, slots=True)
class SAM:
    """Adam with the gradient at ``w + radius g / |g|``, which seeks flat places.

    The norm is that of all parameters of a seed that learn. A step costs two.

    Attributes:
        radius: how far a step looks uphill.

    Source: Foret et al. 2021 (arXiv 2010.01412), equation 4.
    """

    kind: Literal["sam"] = "sam"
    radius: float = 0.05

    def __post_init__(self) -> None:
        check_positive(self, "radius")


Optimiser = Adam | SGD | SAM
"""The choices of the axis."""


# --- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tilt:
    """Add to the logits of one module whatever is seen: a start that provokes collapse.

    Attributes:
        module: number of the module.
        amount: added to its bias in the scorer of each layer.
    """

    masks: ClassVar[bool] = False
    kind: Literal["tilt"] = "tilt"
    module: int = 0
    amount: float = 3.0

    def __post_init__(self) -> None:
        check(self.module >= 0, f"module = {self.module} of a tilt: modules count from 0.")


@dataclass(frozen=True, slots=True)
class Prune:
    """Set weights to 0 and hold them there: of those that are free, the smallest.

    Biases are left alone.

    Attributes:
        share: of the free weights that are pruned.
        parameters: which, a pattern or a group.
        scope: the share is taken of ``each`` matrix or of ``all`` of them together.
        by: ``magnitude``, or ``random`` for a control.
    """

    masks: ClassVar[bool] = True
    kind: Literal["prune"] = "prune"
    share: float = 0.5
    parameters: str = "modules"
    scope: Literal["each", "all"] = "each"
    by: Literal["magnitude", "random"] = "magnitude"

    def __post_init__(self) -> None:
        check_choices(self)
        check(0 < self.share < 1, f"share = {self.share} to prune: expected between 0 and 1.")


@dataclass(frozen=True, slots=True)
class Claim:
    """Keep what was not pruned as it is for good, and free what was pruned for others.

    Attributes:
        module: whose weights they are from now on: with the computation ``packed`` this module uses
            all that is kept by now, and nothing that others learn later.
    """

    masks: ClassVar[bool] = True
    kind: Literal["claim"] = "claim"
    module: int = 0

    def __post_init__(self) -> None:
        check(self.module >= 0, f"module = {self.module} of a claim: modules count from 0.")


@dataclass(frozen=True, slots=True)
class Rewind:
    """Give parameters the values that they had before; what is pruned stays 0, what is kept stays.

    Attributes:
        to: phases that were done then: 0 for the start.
        parameters: which, a pattern or a group.
        redraw: values of another start than the run's own, for a control.
    """

    masks: ClassVar[bool] = False
    kind: Literal["rewind"] = "rewind"
    to: int = 0
    parameters: str = "*"
    redraw: bool = False

    def __post_init__(self) -> None:
        check(self.to >= 0, f"to = {self.to} of a rewind: give the phases done, 0 for the start.")
        check(
            not (self.redraw and self.to),
            f"redraw is another start, and to = {self.to} is after a phase: drop one of them.",
        )


@dataclass(frozen=True, slots=True)
class Merge:
    """Give all modules the same parameters: what :mod:`modeval.merge` makes of their own.

    Attributes:
        method: ``average``; ``ties`` and ``dare`` of what modules have beyond a trunk.
        density: share of it that TIES and DARE keep.
    """

    masks: ClassVar[bool] = False
    kind: Literal["merge"] = "merge"
    method: Method = "average"
    density: float = 0.5

    def __post_init__(self) -> None:
        check_choices(self)
        check(0 < self.density <= 1, f"density = {self.density}: expected above 0, up to 1.")


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the modules on the winning path of rules, and that path, as they are for good.

    With the gating ``evolved``. Other rules may come to use these modules, and cannot change them.

    Attributes:
        rules: numbers of the rules; empty for all.

    Source: Fernando et al. 2017 (PathNet, arXiv 1701.08734), section 2.
    """

    masks: ClassVar[bool] = True
    kind: Literal["keep"] = "keep"
    rules: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check(
            min(self.rules, default=0) >= 0 and len({*self.rules}) == len(self.rules),
            f"rules = {list(self.rules)} of a keep: name each rule once, from 0.",
        )


Action = Tilt | Prune | Claim | Rewind | Merge | Keep
"""What can be done to a network between steps."""


# --- phases --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training with one set of rules, learners, rates and remedies.

    The optimiser begins anew with each phase. What does not learn is not in its list, so that
    nothing moves it.

    Attributes:
        steps: optimiser steps; 0, in the last phase, for all that are left.
        rules: numbers of the rules that are drawn, in their shares; empty for all.
        learns: patterns of the names of the parameters that learn, as ``scorer.*``, or groups.
        rates: learning rates that differ; the first pattern that fits a name counts.
        remedies: terms added to the loss.
        modules: numbers of the modules that learn; empty for all. What modules share learns as
            ``learns`` says.
        replay: share of the samples that are of rules of the phases before, which this one does not
            draw.
        buffer: so many samples of those rules are kept and drawn again; 0 for fresh ones.
        optimiser: ``adam``, ``sgd`` or ``sam``, with settings of its own.
        routing: ``learned``, or ``oracle``: rule r goes to module r whatever the router says.
        before: what is done to the network when the phase begins.
        after: what is done when it ends.
    """

    steps: int = 0
    rules: tuple[int, ...] = ()
    learns: tuple[str, ...] = ("*",)
    rates: tuple[Rate, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    modules: tuple[int, ...] = ()
    replay: float = 0.0
    buffer: int = 0
    optimiser: Optimiser = Adam()
    routing: Literal["learned", "oracle"] = "learned"
    before: tuple[Action, ...] = ()
    after: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.steps >= 0, f"steps = {self.steps} of a phase: expected 0 or more.")
        check(bool(self.learns), 'learns is empty: name what learns, as learns = ["scorer.*"].')
        for name in ("rules", "modules"):
            numbers: tuple[int, ...] = getattr(self, name)
            check(
                min(numbers, default=0) >= 0 and len({*numbers}) == len(numbers),
                f"{name} = {list(numbers)} of a phase: name each {name[:-1]} once, from 0.",
            )
        check(0 <= self.replay < 1, f"replay = {self.replay}: expected a share from 0 to below 1.")
        check(self.buffer >= 0, f"buffer = {self.buffer}: give samples, or 0 for fresh ones.")
        check(
            self.replay > 0 or not self.buffer,
            f"buffer = {self.buffer} without replay: give the share of samples that come from it, "
            "as replay = 0.5.",
        )


def replayed(phases: tuple[Phase, ...], number: int) -> tuple[int, ...]:
    """Return the rules that a phase replays: those of phases before it that it does not draw.

    >>> replayed((Phase(rules=(0,)), Phase(rules=(1,)), Phase(rules=(0, 2), replay=0.5)), 2)
    (1,)
    """
    before = {rule for phase in phases[:number] for rule in phase.rules}
    return tuple(sorted(before - {*phases[number].rules})) if phases[number].replay else ()


def check_replay(phases: tuple[Phase, ...]) -> None:
    """Refuse replay where there is nothing to replay."""
    for number, phase in enumerate(phases):
        check(
            not phase.replay or bool(replayed(phases, number)),
            f"replay = {phase.replay} of phase {number + 1}: no phase before it drew rules that it "
            "does not draw itself. Name the rules of each phase.",
        )


def check_rewinds(phases: tuple[Phase, ...]) -> None:
    """Refuse to go back to where training has not been."""
    for number, phase in enumerate(phases):
        for action in (*phase.before, *phase.after):
            to = action.to if isinstance(action, Rewind) else 0
            check(
                to <= number,
                f"to = {to} of a rewind in phase {number + 1}: {number} phases are done by then. "
                f"Give from 0, the start, to {number}.",
            )


def said(phase: Phase) -> str:
    """Return a phase in words, for people.

    >>> said(Phase(steps=100, rules=(0, 1), learns=("own",), modules=(2,)))
    '100 steps, rules 0 1, own of modules 2 learn'
    """
    parts = [f"{phase.steps} steps" if phase.steps else "the steps that are left"]
    parts += [f"rules {_listed(phase.rules)}"] if phase.rules else ["all rules"]
    if phase.replay:
        kept = f" from {phase.buffer} samples" if phase.buffer else ""
        parts.append(f"{phase.replay:g} of them replayed{kept}")
    learns = "all" if phase.learns == ("*",) else _listed(phase.learns)
    learns += f" of modules {_listed(phase.modules)}" if phase.modules else ""
    parts.append(f"{learns} learn")
    parts += [f"rate of {rate.parameters} x {rate.factor:g}" for rate in phase.rates]
    parts += [f"remedy {each.kind} x {each.coefficient:g}" for each in phase.remedies]
    parts += ["routing given"] if phase.routing == "oracle" else []
    parts += [phase.optimiser.kind] if phase.optimiser != Adam() else []
    parts += [f"before: {_action(action)}" for action in phase.before]
    parts += [f"after: {_action(action)}" for action in phase.after]
    return ", ".join(parts)


def _listed(values: tuple[Any, ...]) -> str:
    return " ".join(map(str, values))


ALWAYS_SAID = ("share", "module", "to")


def _action(action: Action) -> str:
    settings = [
        f"{entry.name} {_setting(getattr(action, entry.name))}"
        for entry in fields(action)
        if getattr(action, entry.name) != entry.default or entry.name in ALWAYS_SAID
    ]
    return " ".join([action.kind, *settings])


def _setting(value: object) -> str:
    return _listed(value) if isinstance(value, tuple) else str(value)
