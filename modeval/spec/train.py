"""How to train: seeds, steps and the optimiser."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from modeval.spec.checks import check, check_choices, check_positive
from modeval.spec.phases import (
    Adam,
    Optimiser,
    Phase,
    Rate,
    Remedy,
    Tilt,
    check_replay,
    check_rewinds,
)
from modeval.spec.regimes import Joint, Regime
from modeval.spec.settings import refuse_unread, setting

Schedule = Literal["constant", "steps", "cosine"]
Selection = str
"""Which weights of a run: ``last``, ``best``, or ``phase-2`` for those after its second phase."""
BestBy = Literal["loss", "accuracy"]
Engine = Literal["auto", "eager", "lean", "compiled", "graphed", "fused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """How a cohort is trained.

    Attributes:
        seeds: a pair (task seed, model seed) for each member of the cohort.
        steps: optimiser steps.
        batch: samples of a step, for each seed.
        learning_rate: of the optimiser.
        schedule: ``constant``; ``steps`` halves the rate at each milestone; ``cosine`` to zero.
        milestones: steps at which ``steps`` halves the rate.
        clip: largest norm of a seed's gradient, 0 for none; if not given, as the reference does:
            1 for ``series``, none for other tasks.
        validate_every: steps between validations (and checkpoints); if not given, a tenth of the
            steps, at most 1,000.
        regime: a named list of phases; ``--dry-run`` prints what it stands for.
        phases: stretches of training one after another, ``[[train.phases]]`` in a spec file, in
            place of a regime; none for a single one in which all parameters learn from all rules.
        remedies: terms added to the loss of phases that name none.
        rates: learning rates of phases that name none.
        optimiser: of phases that name none: ``adam``, ``sgd`` or ``sam``, which seeks flat places.
        tilt: added to the logits of module 0 at the start, so that it takes more: a start that
            provokes collapse.
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
    regime: Regime = setting(Joint())
    phases: tuple[Phase, ...] = setting((), flag=False)
    remedies: tuple[Remedy, ...] = setting((), flag=False)
    rates: tuple[Rate, ...] = setting((), flag=False)
    optimiser: Optimiser = setting(Adam())
    tilt: float = setting(0.0, unit="logit")
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
        check(
            not self.phases or self.regime == Joint(),
            f"regime = {self.regime.kind} stands for phases, and phases are given as well. Drop "
            "one of the two.",
        )
        _check_phases(self)

    def in_phases(self, rules: int) -> "TrainSpec":
        """Return the same training with everything written out as phases.

        >>> TrainSpec(steps=10, tilt=1.0).in_phases(4).phases[0].before
        (Tilt(kind='tilt', module=0, amount=1.0),)
        """
        phases = self.phases or self.regime.phases(rules, self.steps)
        usual = self.optimiser == Adam()
        if usual and not (phases or self.remedies or self.rates or self.tilt):
            return self
        told = [
            replace(
                phase,
                remedies=phase.remedies or self.remedies,
                rates=phase.rates or self.rates,
                optimiser=self.optimiser if phase.optimiser == Adam() else phase.optimiser,
            )
            for phase in phases or (Phase(),)
        ]
        if self.tilt:
            told[0] = replace(told[0], before=(Tilt(amount=self.tilt), *told[0].before))
        return replace(
            self,
            regime=Joint(),
            phases=tuple(told),
            remedies=(),
            rates=(),
            optimiser=Adam(),
            tilt=0.0,
        )

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
    check_replay(train.phases)
    check_rewinds(train.phases)


def seed_grid(task_seeds: int, model_seeds: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (task seed, model seed), task seed running fastest as in the reference."""
    return tuple((task, model) for model in range(model_seeds) for task in range(task_seeds))


def phase_selected(selection: Selection) -> int | None:
    """Return the number of the phase, from 1, whose weights a selection names; none for others.

    >>> phase_selected("phase-2"), phase_selected("last")
    (2, None)
    """
    named = re.fullmatch(r"phase-([1-9]\d*)", selection)
    return int(named[1]) if named else None


def check_selection(selection: str, flag: str = "selection") -> Selection:
    """Refuse what names no weights of a run."""
    check(
        selection in ("last", "best") or phase_selected(selection) is not None,
        f"{flag} {selection}: expected last, best, or phase-1, phase-2, ... for the weights after "
        "a phase.",
    )
    return selection
