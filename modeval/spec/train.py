"""How to train: seeds, steps and the optimiser."""

from dataclasses import dataclass
from typing import Literal

from modeval.spec.checks import check, check_choices, check_positive

Schedule = Literal["constant", "steps", "cosine"]
Selection = Literal["last", "best"]


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
        clip: largest norm of a seed's gradient; 0 for none.
        validate_every: steps between validations (and checkpoints).
    """

    seeds: tuple[tuple[int, int], ...] = ((0, 0),)
    steps: int = 10_000
    batch: int = 256
    learning_rate: float = 1e-4
    schedule: Schedule = "constant"
    milestones: tuple[int, ...] = ()
    clip: float = 0.0
    validate_every: int = 1_000

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "steps", "batch", "learning_rate", "validate_every")
        check(self.clip >= 0, f"clip = {self.clip}: give a norm above 0, or 0 for no clipping.")
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
            self.schedule == "steps" or not self.milestones,
            f'milestones belong to schedule = "steps", not "{self.schedule}".',
        )


def seed_grid(task_seeds: int, model_seeds: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs (task seed, model seed), task seed running fastest as in the reference."""
    return tuple((task, model) for model in range(model_seeds) for task in range(task_seeds))
