"""How to train: seeds, steps and the optimiser."""

from dataclasses import dataclass
from typing import Literal

from modeval.spec.checks import check, check_choices, check_positive
from modeval.spec.settings import refuse_unread, setting

Schedule = Literal["constant", "steps", "cosine"]
Selection = Literal["last", "best"]
BestBy = Literal["loss", "accuracy"]
Engine = Literal["auto", "eager", "compiled", "fused"]


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


def seed_grid(task_seeds: int, model_seeds: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (task seed, model seed), task seed running fastest as in the reference."""
    return tuple((task, model) for model in range(model_seeds) for task in range(task_seeds))
