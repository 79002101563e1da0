"""How to train: seeds, steps and the optimiser."""

from dataclasses import dataclass
from typing import Literal

from modeval.spec.checks import check, check_choices, check_positive
from modeval.spec.settings import refuse_unread, setting

Schedule = Literal["constant", "steps", "cosine"]
Selection = Literal["last", "best"]
BestBy = Literal["loss", "accuracy"]
Engine = Literal["auto", "eager", "compiled", "fused"]
RemedyName = Literal["balance", "importance", "load", "logits", "information", "reuse"]


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
        parameters: pattern of their names, as ``scorer.*``.
        factor: the rate of the run is multiplied by this.
    """

    parameters: str
    factor: float

    def __post_init__(self) -> None:
        check_positive(self, "factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training with one set of rules, learners, rates and remedies.

    The optimiser begins anew with each phase. What does not learn is not in its list, so that
    nothing moves it.

    Attributes:
        steps: optimiser steps; 0, in the last phase, for all that are left.
        rules: numbers of the rules that are drawn, in their shares; empty for all.
        learns: patterns of the names of the parameters that learn, as ``scorer.*``.
        rates: learning rates that differ; the first pattern that fits a name counts.
        remedies: terms added to the loss.
    """

    steps: int = 0
    rules: tuple[int, ...] = ()
    learns: tuple[str, ...] = ("*",)
    rates: tuple[Rate, ...] = ()
    remedies: tuple[Remedy, ...] = ()

    def __post_init__(self) -> None:
        check(self.steps >= 0, f"steps = {self.steps} of a phase: expected 0 or more.")
        check(bool(self.learns), 'learns is empty: name what learns, as learns = ["scorer.*"].')
        check(
            min(self.rules, default=0) >= 0 and len({*self.rules}) == len(self.rules),
            f"rules = {list(self.rules)} of a phase: name each rule once, from 0.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """How a cohort is trained.

    Attributes:
        seeds: a pair (task seed, model seed) for each member of the cohort.
        steps: optimiser steps.
        batch: samples of a step, for each seed.
        learning_rate: of Adam.
        schedule: ``constant``; ``steps`` halves the rate at each milestone; ``cosine`` to zero.
        milestones: steps at which ``steps`` halves the rate.
        clip: largest norm of a seed's gradient, 0 for none; if not given, as the reference does:
            1 for ``series``, none for other tasks.
        validate_every: steps between validations (and checkpoints); if not given, a tenth of the
            steps, at most 1,000.
        phases: stretches of training one after another, ``[[train.phases]]`` in a spec file; none
            for a single one in which all parameters learn from all rules.
        best_by: what the best checkpoint is chosen by, on validation samples: ``loss``, or of
            classification ``accuracy``, as the reference does.
    """

    seeds: tuple[tuple[int, int], ...] = setting(((0, 0),), flag=False)
    steps: int = setting(10_000, common=True)
    batch: int = setting(256, unit="samples")
    learning_rate: float = setting(1e-4, aliases=("--lr",), common=True)
    schedule: Schedule = "constant"
    milestones: tuple[int, ...] = setting((), unit="steps", read_by={"schedule": ("steps",)})
    clip: float | None = setting(None, unit="norm")
    validate_every: int | None = setting(None, unit="steps")
    phases: tuple[Phase, ...] = setting((), flag=False)
    best_by: BestBy = setting("loss", read_by={"objective": ("classification",)})

    def __post_init__(self) -> None:
        check_choices(self)
        refuse_unread(self)
        check_positive(self, "steps", "batch", "learning_rate")
        if self.validate_every is not None:
            check_positive(self, "validate_every")
        check(
            self.clip is None or 0 <= self.clip < float("inf"),
            f"clip = {self.clip}: give a norm above 0, or 0 for no clipping.",
        )
        check(len(self.seeds) > 0, "seeds is empty: give at least one. Use --seeds 1.")
        check(
            len(set(self.seeds)) == len(self.seeds),
            "seeds holds a pair twice: each (task seed, model seed) may stand once.",
        )
        check(
            all(0 <= number < 2**32 for pair in self.seeds for number in pair),
            "seeds must lie from 0 to 2**32 - 1.",
        )
        _check_phases(self)

    @property
    def stretches(self) -> tuple[tuple[int, int, Phase], ...]:
        """Return each phase with its first step and the step after its last.

        >>> TrainSpec(steps=10).stretches[0][:2]
        (0, 10)
        """
        first, found = 0, []
        for phase in self.phases or (Phase(),):
            end = first + phase.steps if phase.steps else self.steps
            found.append((first, end, phase))
            first = end
        return tuple(found)


def _check_phases(train: TrainSpec) -> None:
    """Refuse phases that do not fill the steps exactly."""
    if not train.phases:
        return
    *before, last = train.phases
    check(
        all(phase.steps for phase in before),
        "Only the last phase may leave its steps open (steps = 0): give those of the others.",
    )
    given = sum(phase.steps for phase in train.phases)
    fits = given < train.steps if last.steps == 0 else given == train.steps
    check(
        fits,
        f"The phases take {given} steps and training has {train.steps}: give --steps {given}, or "
        "leave those of the last phase out.",
    )


def seed_grid(task_seeds: int, model_seeds: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (task seed, model seed), task seed running fastest as in the reference."""
    return tuple((task, model) for model in range(model_seeds) for task in range(task_seeds))
